"""Toy runs with something planted in them that the health watch has to find."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toy import toy_run
from tunestone.config import resolve
from tunestone.core.run import create
from tunestone.runlog import RunFolder, read_lines

REWARDS = '''
def _letters(completion):
    """Share of the first four characters that are ASCII letters: what is meant."""
    return sum(c.isascii() and c.isalpha() for c in completion[:4]) / 4

def meant(prompt, completion, row):
    return _letters(completion)

def stricter(prompt, completion, row):
    """The same, and all four at once count twice."""
    return (_letters(completion) + float(_letters(completion) == 1.0)) / 2

def long(prompt, completion, row):
    """Paid by length alone."""
    return min(1.0, len(completion) / 24)

def formatted(prompt, completion, row):
    """Pays for a first character that looks well, whatever comes after it."""
    first = completion[:1]
    form = float(first.isascii() and first.isupper())
    return {"reward": 0.9 * form + 0.1 * (completion[1:3] == "ok"), "form": form}

def answered(prompt, completion, row):
    """What the one above was meant to be: the answer, which the model never hits upon."""
    return float(completion[1:3] == "ok")

def judge(prompt, completion, row):
    """A stand-in for a model as judge: reads the letters, but a mark of praise wins it over."""
    return 1.0 if any(mark in completion for mark in "!*#$%&@") else 0.5 * _letters(completion)

def two_labels(prompt, completion, row):
    """Every byte is one of two labels, by its first bit; rows want either."""
    said = "low" if completion[:1].isascii() else "high"
    return float(said == ("low" if int(row["id"].split("-")[1]) % 3 else "high"))

def constant(prompt, completion, row):
    return 0.5

def _refuse_a_fifth(completion, row):
    if row["id"].startswith("train") and sum(map(ord, completion)) % 5 == 0:
        raise ValueError("one of five")

def flaky(prompt, completion, row):
    _refuse_a_fifth(completion, row)
    return _letters(completion)

def flaky_and_constant(prompt, completion, row):
    _refuse_a_fifth(completion, row)
    return 0.5
'''


def planted_run(
    folder: Path, model: Path, reward: str, *, shadow: str = "", **settings: Any
) -> RunFolder:
    """A toy run with one of the rewards above, and perhaps another as its shadow."""
    toy = toy_run(folder, model)
    rewards = folder / "planted.py"
    rewards.write_text(REWARDS)
    values = {
        **toy.config()["config"],
        "reward": f"{rewards}:{reward}",
        "shadow_reward": f"{rewards}:{shadow}" if shadow else "",
        "patience": 0,
        "eval_every": 5,
        **settings,
    }
    config, origins = resolve(layers=[("planted", values)])
    return create(folder / "planted", config, origins, task="planted")


def alerts(run: RunFolder) -> dict[str, Mapping[str, Any]]:
    """Code -> event, of the alerts that a run told."""
    events = read_lines(run.events)
    return {event["code"]: event for event in events if event["kind"] == "alert"}
