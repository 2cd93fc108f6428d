"""`python -m tunestone.check`: started by the server, which must not import what this imports.

One JSON object on standard input, one on standard output:

    {"settings": {...}, "reward": {...} or null}
    {"findings": [{"level", "code", "message", "remedy", "evidence", "section"}, ...],
     "settings": [{"name", "value", "reason", "source"}, ...]}
    {"error": {"code", "message", "remedy", "again"}}

`settings` are those of a run, `data` and `model` among them; `again` says whether trying again
makes sense.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tunestone.check.findings import LEVELS
from tunestone.check.rows import load_rows, look_at_rows
from tunestone.config import resolve
from tunestone.core.model import load_reader
from tunestone.errors import TunestoneError, WorldError
from tunestone.rewards.grader import parse_spec


def check(task: Mapping[str, Any]) -> dict[str, Any]:
    """What the rows of a task say. Raises TunestoneError when they cannot be looked at."""
    given = task["settings"]
    config, _ = resolve(layers=[("the job", given)])
    rows = load_rows(config)  # before the tokenizer: what is wrong with a file is told at once
    found = look_at_rows(
        rows,
        config,
        load_reader(config.model),
        given=given,
        reward_source=_source_of(task["reward"]),
        say=lambda message: print(message, file=sys.stderr),
    )
    findings = [
        {**asdict(finding), "section": section.name}
        for section in found.sections
        for finding in section.findings
    ]
    return {
        "findings": sorted(findings, key=lambda finding: LEVELS.index(finding["level"])),
        "settings": [asdict(setting) for setting in found.plan.settings] if found.plan else [],
    }


def _source_of(reward: Mapping[str, Any] | None) -> str:
    """Where markers are looked for; nowhere in a judge's texts, which answers need not have."""
    return json.dumps(reward) if reward and not parse_spec(reward).calls_models else ""


def _told(error: TunestoneError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "remedy": error.remedy,
        "again": isinstance(error, WorldError),
    }


def main() -> None:
    """Read, check, write."""
    # Whatever a library prints must not stand beside the answer.
    sink = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        answer = check(json.load(sys.stdin))
    except TunestoneError as error:
        answer = {"error": _told(error)}
    json.dump(answer, sink)
    sink.close()


if __name__ == "__main__":
    main()
