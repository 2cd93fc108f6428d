"""The files of an evaluation, below `outputDataConfig.s3Uri`:

    <jobName>/<id>/summary.json
    <jobName>/<id>/models/<model>/taskTypes/<task>/datasets/<dataset>/<id>_output.jsonl

The second is Bedrock's: one line per prompt with its record, the answer and the scores. The first
is ours: means with intervals, and the paired comparison of the two models.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestone.api.evaluations.asked import Asked, AskedDataset
from tunestone.api.evaluations.dataset import Item
from tunestone.api.evaluations.metrics import Measured, Written
from tunestone.api.evaluations.report import compare, describe

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One dataset with everything that came of it."""

    dataset: AskedDataset
    items: Sequence[Item]
    answers: Sequence[Sequence[Written]]
    """Of each model, of each item."""
    measured: Sequence[Measured]


def summarize(asked: Asked, notes: Mapping[str, str], evaluated: Sequence[Evaluated]) -> Json:
    """The content of summary.json; `notes` say of a model what really answered."""
    comparisons = sum(len(one.measured) for one in evaluated)
    return {
        "jobName": asked.name,
        "models": [
            {"modelIdentifier": name, **({"note": notes[name]} if notes.get(name) else {})}
            for name in _names(asked)
        ],
        "datasets": [
            {
                "name": one.dataset.name,
                "taskType": one.dataset.task,
                "prompts": len(one.items),
                "metrics": [_metric(asked, measured, comparisons) for measured in one.measured],
            }
            for one in evaluated
        ],
    }


def _names(asked: Asked) -> list[str]:
    return [model.identifier for model in asked.models]


def _metric(asked: Asked, measured: Measured, comparisons: int) -> Json:
    shown: Json = {
        "metricName": measured.metric,
        "measuredBy": measured.by,
        "models": [
            {"modelIdentifier": name, **describe(scores)}
            for name, scores in zip(_names(asked), measured.scores, strict=True)
        ],
    }
    if measured.first_error:
        shown["firstError"] = measured.first_error
    if len(measured.scores) == 2:
        base, tuned = measured.scores
        first, second = _names(asked)
        comparison = compare(base, tuned, comparisons=comparisons)
        shown["comparison"] = {"base": first, "tuned": second, **comparison}
    return shown


def write_results(
    folder: Path, job_id: str, asked: Asked, summary: Json, evaluated: Sequence[Evaluated]
) -> dict[str, Path]:
    """Write the files into `folder`; gives path below the job's address -> file."""
    files = {"summary.json": folder / "summary.json"}
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    files["summary.json"].write_text(text, encoding="utf-8")
    for d, one in enumerate(evaluated):
        for m, name in enumerate(_names(asked)):
            path = folder / f"output-{d}-{m}.jsonl"
            lines = [json.dumps(row, ensure_ascii=False) for row in _rows(one, m, name)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            model = re.sub(r"[^\w.-]", "-", name)
            place = f"models/{model}/taskTypes/{one.dataset.task}/datasets/{one.dataset.name}"
            files[f"{place}/{job_id}_output.jsonl"] = path
    return files


def _rows(one: Evaluated, model: int, name: str) -> list[Json]:
    return [
        {
            "automatedEvaluationResult": {
                "scores": [
                    {
                        "metricName": measured.metric.removeprefix("Builtin."),
                        "result": measured.scores[model][i],
                    }
                    for measured in one.measured
                ]
            },
            "inputRecord": item.record,
            "modelResponses": [{"response": one.answers[model][i].text, "modelIdentifier": name}],
        }
        for i, item in enumerate(one.items)
    ]
