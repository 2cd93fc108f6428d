"""What a finished job leaves: CSVs, a report, the weights; here, and below the client's output.

    training_artifacts/step_wise_training_metrics.csv
    validation_artifacts/post_fine_tuning_validation/validation_metrics.csv
    validation_artifacts/post_fine_tuning_validation/validator-1/validation_metrics.csv ...
    input_status/manifest.report.csv
    report.json                     base against tuned
    events.jsonl                    what was told of the job: notes, warnings, checkpoints ...
    model/                          the PEFT adapter, or the whole model: users own their weights

Below an output address they stand under `model-customization-job-<id>/`. The first four columns of
the CSVs and the paths are AWS's (rft_services.md 8.3, 4.5), the other columns ours. `step_number`
and `epoch_number` count from 0. `training_loss` is the policy-gradient loss of the step, which says
little: advantages of a group sum to 0. `validation_loss` is 1 - mean reward, see
`metrics.validation_loss`. `perplexity` is that of the drawn tokens under the model that drew them.
"""

import csv
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunestone.jobs import metrics
from tunestone.runlog import RunFolder, read_json, read_lines, write_json

Record = Mapping[str, Any]
Rows = list[dict[str, Any]]
RESULTS = "step_metrics.csv"
"""OpenAI's result file, in the job's folder."""
_TRAINING = Path("training_artifacts/step_wise_training_metrics.csv")
_VALIDATION = Path("validation_artifacts/post_fine_tuning_validation")
_LARGEST_EXPONENT = 700.0  # of a float


def write_artefacts(
    job_folder: Path, reward: Mapping[str, Any], story: Iterable[Mapping[str, Any]]
) -> Path:
    """Write the files of a finished job but its weights to `artefacts/`; returns that folder.

    `story`: lines of `events.jsonl`.
    """
    run = RunFolder(job_folder / "run")
    to = job_folder / "artefacts"
    shutil.rmtree(to, ignore_errors=True)
    records = read_lines(run.metrics)
    _write_csv(to / _TRAINING, (_training_row(record) for record in records))
    for number, rows in enumerate(validation_tables(job_folder)):
        name = f"validator-{number}" if number else ""
        _write_csv(to / _VALIDATION / name / "validation_metrics.csv", rows)
    write_manifest(job_folder, to)
    _write_csv(job_folder / RESULTS, (_result_row(record, reward) for record in records))
    if (run.path / "report.json").is_file():
        report = read_json(run.path / "report.json")
        report.pop("adapter")  # a path of this machine
        write_json(to / "report.json", report)
    lines = (json.dumps(entry, ensure_ascii=False) for entry in story)
    (to / "events.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return to


def write_manifest(job_folder: Path, to: Path) -> Path | None:
    """AWS's report on the input files: rows accepted and rejected. None where nothing was read."""
    report = job_folder / "input" / "report.json"
    if not report.is_file():
        return None
    path = to / "input_status" / "manifest.report.csv"
    _write_csv(
        path,
        (
            {
                "fileName": entry["label"].rstrip("/").rpartition("/")[2],
                "totalProcessedRecordCount": entry["rows"],
                "acceptedRecordCount": entry["rows"] - entry["rejected"],
                "partiallyAcceptedRecordCount": 0,
                "rejectedRecordCount": entry["rejected"],
            }
            for entry in read_json(report)["inputs"]
        ),
    )
    return path


def upload(job_folder: Path, output: str, job_id: str, send: Callable[[Path, str], None]) -> None:
    """Send artefacts and weights below the output address. Raises what `send` raises."""
    target = f"{output.rstrip('/')}/model-customization-job-{job_id}"
    for root, below in (
        (job_folder / "artefacts", ""),
        (job_folder / "run" / "adapter", "model/"),
    ):
        for path in sorted(root.rglob("*")):
            if path.is_file():
                send(path, f"{target}/{below}{path.relative_to(root).as_posix()}")


def validation_tables(job_folder: Path) -> list[Rows]:
    """Rows of validation_metrics.csv: over all prompts, then for each of several validators."""
    run = RunFolder(job_folder / "run")
    answers = read_lines(run.validation)
    epochs = {record["step"]: record["epoch"] for record in read_lines(run.metrics)}
    owners = _owners(job_folder)
    tables = [_validation_rows(answers, epochs)]
    for number in sorted(set(owners.values())):
        own = [answer for answer in answers if owners.get(answer["prompt_id"]) == number]
        tables.append(_validation_rows(own, epochs))
    return tables


def result_metrics(job_folder: Path, step: int, validators: int) -> dict[str, Any]:
    """Losses and rewards of the result, which is that of `step`: one for each validator, in their
    order; none where the validation rows were split off the training rows."""
    run = RunFolder(job_folder / "run")
    records = read_lines(run.metrics)
    owners = _owners(job_folder)
    answers = [answer for answer in read_lines(run.validation) if answer["step"] == step]
    parts = [
        [a for a in answers if not owners or owners.get(a["prompt_id"]) == number]
        for number in range(validators)
    ]
    rewards = [_mean_reward(part) for part in parts]
    return {
        "training_loss": records[-1]["loss"] if records else None,
        "validation_rewards": rewards,
        "validation_losses": [metrics.validation_loss(reward) for reward in rewards],
    }


def _owners(job_folder: Path) -> dict[str, int]:
    """Prompt id -> number of its validator; empty unless there are several."""
    path = job_folder / "input" / "validators.json"
    return read_json(path) if path.is_file() else {}


def _epoch_number(epoch: float) -> int:
    """Of a step that ended `epoch` passes after the start, counted from 0."""
    return max(0, math.ceil(epoch) - 1)


def _training_row(record: Record) -> dict[str, Any]:
    return {
        "step_number": record["step"] - 1,
        "epoch_number": _epoch_number(record["epoch"]),
        "training_loss": record["loss"],
        "perplexity": record["perplexity"],
        **{f"reward_{name}": record[f"reward_{name}"] for name in ("mean", "std", "min", "max")},
        "advantage_mean": record["advantage_mean"],
        "entropy": record["entropy"],
        "gradient_norm": record["gradient_norm"],
        "clip_fraction": record["clip_share"],
        "learning_rate": record["learning_rate"],
        **{f"prompt_length_{k}": record[f"prompt_length_{k}"] for k in ("mean", "min", "max")},
        **{f"response_length_{k}": record[f"length_{k}"] for k in ("mean", "min", "max")},
        "aborted_ratio": record["truncated_share"],
        "signal_share": record["signal_share"],
        "grade_errors": record["grade_errors"],
        "seconds": sum(record["seconds"].values()),
    }


def _validation_rows(answers: Sequence[Record], epochs: Mapping[int, float]) -> Rows:
    """A row for each validated step; the untrained model (step 0) has its place in report.json."""
    by_step: dict[int, list[Record]] = {}
    for answer in answers:
        by_step.setdefault(answer["step"], []).append(answer)
    return [
        _validation_row(step, epochs[step], own) for step, own in by_step.items() if step in epochs
    ]


def _validation_row(step: int, epoch: float, answers: Sequence[Record]) -> dict[str, Any]:
    tokens = [answer["tokens"] for answer in answers]
    surprise = sum(answer["surprise_nats"] for answer in answers) / max(1, sum(tokens))
    reward = _mean_reward(answers)
    return {
        "step_number": step - 1,
        "epoch_number": _epoch_number(epoch),
        "validation_loss": metrics.validation_loss(reward),
        "perplexity": math.exp(min(surprise, _LARGEST_EXPONENT)),
        "reward_mean": reward,
        "response_length_mean": sum(tokens) / len(tokens),
        "aborted_ratio": sum(a["finish_reason"] == "length" for a in answers) / len(answers),
        "grade_errors": sum(answer["reward"] is None for answer in answers),
        "prompts": len(answers),
    }


def _mean_reward(answers: Sequence[Record]) -> float:
    rewards = [answer["reward"] for answer in answers if answer["reward"] is not None]
    return float(sum(rewards) / len(rewards)) if rewards else 0.0


def _result_row(record: Record, reward: Mapping[str, Any]) -> dict[str, Any]:
    """A row of OpenAI's result file."""
    data = metrics.render(record, reward)
    timing = data["timing"]["step"]
    row = {
        "step": record["step"],
        "train_loss": record["loss"],
        "train_mean_reward": data["train_mean_reward"],
        "full_valid_mean_reward": data.get("full_valid_mean_reward"),
        "completion_tokens_mean": data["completion_tokens_mean"],
        "reasoning_tokens_mean": data["reasoning_tokens_mean"],
        "mean_unresponsive_rewards": data["mean_unresponsive_rewards"],
        **{f"{name}_seconds": seconds for name, seconds in timing.items()},
    }
    for grader in data["scores"]["graders"]:
        for part in ("train", "valid"):
            key = f"{part}_reward_mean"
            row[f"{grader['name']}_{key}"] = grader.get(key)
    for errors in data["errors"]["graders"]:
        for part in ("train", "valid"):
            for kind in ("sample_parse", "invalid_variable", "other"):
                key = f"{part}_{kind}_error_mean"
                row[f"{errors['name']}_{key}"] = errors.get(key)
    return row


def _write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """All rows have the keys of the first; None is an empty cell."""
    kept = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(kept[0]) if kept else [])
        writer.writeheader()
        writer.writerows(kept)
