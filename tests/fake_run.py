"""A run folder as a training leaves it, made up in a blink: for tests of the pages.

    from fake_run import PLANTED, trained, write_run

    run = write_run(tmp_path / "runs" / "a")                       # done: 30 steps of 16 x 8
    run = write_run(tmp_path / "b", steps=4, of=30, prompts=3, group=4, report=False)
    with trained(run): ...                                         # held as by a trainer

The model answers sums; it gets better, shorter and surer. Step 3 holds a completion whose grading
failed and one with PLANTED, a script that must never run. Words are those of docs/architecture.md.
"""

import contextlib
import fcntl
import json
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tunestone.config import resolve
from tunestone.core.comparison import compare
from tunestone.core.evaluate import Example, Scores
from tunestone.core.measure import Measured
from tunestone.data import fingerprint, load_prompts, write_rows
from tunestone.runlog import RunFolder, append_lines, write_json

PLANTED = "<script>window.planted = 1</script><img src=x onerror=\"window.planted = 1\"> & 'quotes'"
END = "<|end|>"
THINGS = ("coins", "stamps", "cards", "shells", "eggs", "books")
NAMES = ("Ben", "Clara", "Dan", "Ella", "Finn", "Gina", "Iris", "Kate")
EVERY = 5  # steps between validations


def write_run(
    path: Path,
    *,
    steps: int = 30,
    of: int | None = None,
    prompts: int = 16,
    group: int = 8,
    heldout: int = 40,
    seed: int = 7,
    gain: float = 0.5,
    report: bool = True,
    tuned: bool = True,
    tokenizer: bool = True,
    created: str = "2026-11-23T09:00:00+00:00",
) -> RunFolder:
    """Write a run of `steps` steps out of `of`; without `report` it is still going on."""
    made = _Made(random.Random(seed), RunFolder.create(path), group, gain, of or steps)
    made.write_config(prompts, heldout, created)
    made.event("note", "Sandbox for reward code: bubblewrap (own namespaces, seccomp).")
    made.validate(0)
    for step in range(1, steps + 1):
        made.step(step, prompts)
    if tokenizer:
        made.run.adapter.mkdir()
        made.tokenizer.save(str(made.run.adapter / "tokenizer.json"))
    if report:
        made.finish(steps, heldout, tuned=tuned)
    return made.run


@contextlib.contextmanager
def trained(run: RunFolder) -> Iterator[None]:
    """Held as by a trainer: flock keeps two openings apart, within one process too."""
    with (run.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Made:
    def __init__(
        self, draw: random.Random, run: RunFolder, group: int, gain: float, of: int
    ) -> None:
        self.draw, self.run, self.group, self.gain, self.of = draw, run, group, gain, of
        self.tokenizer = small_tokenizer()
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def write_config(self, prompts: int, heldout: int, created: str) -> None:
        folder = self.run.path / "data"
        folder.mkdir()
        counts = {"train": 6 * prompts, "validation": 20, "test": heldout}
        for name, count in counts.items():
            self.rows[name] = [self._row(f"{name}-{i}") for i in range(count)]
            write_rows(folder / f"{name}.jsonl", self.rows[name])
        files = {"data": "train", "validation": "validation", "test": "test"}
        paths = {key: str(folder / f"{name}.jsonl") for key, name in files.items()}
        settings = {**paths, "reward": "reward.py:exact", "batch_size": prompts}
        config, origins = resolve(
            layers=[
                ("recipe sums", {**settings, "group_size": self.group, "max_steps": self.of}),
                ("command line", {"learning_rate": 3e-4}),
            ]
        )
        record = {
            "task": "sums",
            "created": created,
            "folder": str(self.run.path),
            "config": config.model_dump(mode="json"),
            "origins": origins,
            "files": {k: {"path": p, "sha256": fingerprint(Path(p))} for k, p in paths.items()},
            "versions": {"tunestone": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        }
        self.run.write_config(record)

    def _row(self, row_id: str) -> dict[str, Any]:
        a, b = self.draw.randint(3, 60), self.draw.randint(3, 60)
        name, thing = self.draw.choice(NAMES), self.draw.choice(THINGS)
        asked = f"{name} has {a} {thing} and finds {b} more. How many {thing} does {name} have now?"
        system = "Work the sum out on one line. End with #### and the number."
        turns = [{"role": "system", "content": system}, {"role": "user", "content": asked}]
        return {"id": row_id, "messages": turns, "reference_answer": f"{a} + {b} = {a + b}"}

    def answer(self, row: dict[str, Any], skill: float) -> tuple[str, float]:
        """(text, reward)."""
        sum_, _, right = row["reference_answer"].partition(" = ")
        if self.draw.random() < skill:
            return f"{sum_} = {right}\n#### {right}", 1.0
        wrong = int(right) + self.draw.choice((-10, -1, 1, 10, 20))
        talk = "" if self.draw.random() < skill else "Let me think about this. We add them up. "
        return f"{talk}{sum_} = {wrong}\n#### {wrong}", 0.1

    def completion(self, step: int, row: dict[str, Any], index: int) -> dict[str, Any]:
        skill = 0.2 + self.gain * step / self.of
        text, reward = self.answer(row, skill)
        error = None
        if step == 3 and index == 1 and row["id"] == "train-0":
            text, reward = PLANTED, 0.0
        if step == 3 and index == 2 and row["id"] == "train-0":
            text, error = "no idea", "Traceback (most recent call last):\n  KeyError: 'answer'"
        cut = self.draw.random() < 0.15 * (1 - skill)
        tokens = self.tokenizer.encode(text).ids
        tokens = tokens[:12] if cut else [*tokens, self.tokenizer.token_to_id(END)]
        logprobs = [round(-self.draw.expovariate(0.8 + 4 * skill), 5) for _ in tokens]
        return {
            "step": step,
            "prompt_id": row["id"],
            "index": index,
            "text": self.tokenizer.decode(tokens),
            "reward": None if error else reward,
            "advantage": None,
            "finish_reason": "length" if cut else "stop",
            "error": error,
            "flags": ["python_grader_runtime_error"] if error else [],
            "metrics": {} if error else {"right": float(reward == 1.0), "form": 0.9},
            "tokens": tokens,
            "logprobs": logprobs,
        }

    def step(self, step: int, prompts: int) -> None:
        groups = []
        for p in range(prompts):
            row = self.rows["train"][((step - 1) * prompts + p) % len(self.rows["train"])]
            row = self.rows["train"][0] if p == 0 and step % 3 == 0 else row
            group = [self.completion(step, row, index) for index in range(self.group)]
            rewards = [c["reward"] for c in group if c["reward"] is not None]
            spread = statistics.pstdev(rewards)
            for c in group:
                if c["reward"] is not None:
                    c["advantage"] = (c["reward"] - statistics.fmean(rewards)) / (spread + 1e-4)
            groups.append(group)
        self._log(step, groups)
        if step % EVERY == 0:
            message = f"Checkpoint of step {step}."
            self.event("checkpoint", message, step=step)

    def _log(self, step: int, groups: list[list[dict[str, Any]]]) -> None:
        flat = [c for group in groups for c in group]
        lengths = [len(c["tokens"]) for c in flat]
        rewards = [c["reward"] for c in flat if c["reward"] is not None]
        signal = [len({c["reward"] for c in group} - {None}) > 1 for group in groups]
        errors = len(flat) - len(rewards)
        record = {
            "step": step,
            "steps": self.of,
            "epoch": step / 6,
            "reward_mean": statistics.fmean(rewards),
            "reward_std": statistics.pstdev(rewards),
            "groups": len(groups),
            "signal_share": sum(signal) / len(groups),
            "grade_errors": errors,
            "scores": {"right": rewards.count(1.0) / len(rewards), "form": 0.9},
            "error_kinds": {"python_grader_runtime_error": errors} if errors else {},
            "grade_retries": 0,
            "grade_seconds_mean": 0.002 + 0.001 * self.draw.random(),
            "grade_seconds_max": 0.006 + 0.01 * self.draw.random(),
            "grader_seconds": {},
            "completions": len(flat),
            "completion_tokens": sum(lengths),
            "length_mean": statistics.fmean(lengths),
            "length_max": max(lengths),
            "truncated_share": sum(c["finish_reason"] == "length" for c in flat) / len(flat),
            "entropy": 1.4 - 1.1 * step / self.of + 0.05 * self.draw.random(),
            "gradient_norm": 0.2 + 0.1 * self.draw.random(),
            "clip_share": 0.0,
            "kl_base": 0.0,
            "seconds": {"sample": 1.0, "grade": 0.25, "compare": 0.0, "learn": 0.75},
            "tokens_per_second": float(sum(lengths)),
        }
        if step % EVERY == 0:
            record["validation_reward"] = self.validate(step)
            record["seconds"]["validate"] = 1.0
        append_lines(self.run.metrics, [record])
        append_lines(self.run.samples, flat)

    def validate(self, step: int) -> float:
        """Write the answers to the validation prompts and return their mean reward."""
        lines = []
        for row in self.rows["validation"]:
            text, reward = self.answer(row, 0.25 + self.gain * step / self.of)
            lines.append(
                {
                    "step": step,
                    "prompt_id": row["id"],
                    "text": text,
                    "reward": reward,
                    "finish_reason": "stop",
                    "error": None,
                    "flags": [],
                    "metrics": {},
                    "prompt_tokens": 40,
                    "tokens": 12,
                    "surprise_nats": 2.5,
                }
            )
        append_lines(self.run.validation, lines)
        return statistics.fmean(line["reward"] for line in lines)

    def event(self, kind: str, message: str, **details: Any) -> None:
        self.run.event(kind, message, **details)

    def finish(self, steps: int, heldout: int, *, tuned: bool) -> None:
        """base.json, tuned.json and report.json."""
        answers = {
            name: [self.answer(row, skill) for row in self.rows["test"]]
            for name, skill in (("base", 0.25), ("tuned", 0.25 + self.gain))
        }
        answers["tuned"][1] = (PLANTED, 0.1)
        measured = {
            name: Measured(
                Scores(
                    texts=[text for text, _ in answered],
                    rewards=[float(reward == 1.0) for _, reward in answered],
                    lenient=None,
                    lengths=[12] * heldout,
                    failed=[],
                    prompt_ids=[row["id"] for row in self.rows["test"]],
                ),
                drawn=None,
            )
            for name, answered in answers.items()
        }
        for name, scores in measured.items():
            if name == "base" or tuned:
                write_json(self.run.path / f"{name}.json", scores.as_record())
        path = self.run.path / "data" / "test.jsonl"
        examples = [Example(prompt, ()) for prompt in load_prompts(path)]
        report = {
            "task": "sums",
            **compare(examples, measured["base"], measured["tuned"], slices=()),
            "heldout": str(path),
            "model": "smollm2-135m",
            "steps": steps,
            "best_step": steps,
            "stopped": None,
        }
        write_json(self.run.path / "report.json", report)
        self.event(
            "alert",
            "Entropy 0.019 nats over the last 5 steps.",
            step=steps,
            code="entropy_collapse",
            window=[steps - 4, steps],
            examples=[
                {"prompt_id": "train-0", "index": 0, "step": 3, "text": PLANTED, "reward": 1}
            ],
        )
        self.event("trained", f"Ended after step {steps}.", step=steps, best_step=steps)


def small_tokenizer() -> Tokenizer:
    """Byte-level, with a few hundred pieces of the words that these runs are made of."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    words = "Let me think about this. We add them up. 12 + 30 = 42\n#### 42 no idea"
    tokenizer.train_from_iterator([words, json.dumps(THINGS)] * 3, trainer)
    return tokenizer
