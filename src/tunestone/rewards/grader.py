"""All kinds of rewards, read from what a user writes and opened as graders.

A reward is written as a string or a table. Strings are short for the common tables:

    reward.py:score                 {"type": "function", "path": "reward.py:score"}
    reward.py:lambda_handler        {"type": "lambda", "path": "reward.py"}
    handler.zip                     {"type": "lambda", "path": "handler.zip"}
    arn:aws:lambda:...              {"type": "lambda", "function": "arn:aws:lambda:..."}
    https://host/grade              {"type": "http", "url": "https://host/grade"}
    grader.json, grader.toml        the table in that file
    number                          {"type": "number"}, for any type that needs no more
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunestone.config import read_toml
from tunestone.data import fingerprint
from tunestone.errors import RewardError
from tunestone.rewards.aws_lambda.grader import Lambda
from tunestone.rewards.combine import Multi, Weighted
from tunestone.rewards.function_grader import Function
from tunestone.rewards.http import Http
from tunestone.rewards.judges.judge import Judge
from tunestone.rewards.judges.model_graders import LabelModel, ScoreModel
from tunestone.rewards.openai.graders import PythonGrader, StringCheck, TextSimilarity
from tunestone.rewards.ready.choice import Choice
from tunestone.rewards.ready.code import Code
from tunestone.rewards.ready.expression import Expression
from tunestone.rewards.ready.gym import ReasoningGym
from tunestone.rewards.ready.numbers import Number
from tunestone.rewards.ready.patterns import FormatTags, Regex
from tunestone.rewards.ready.penalties import Length, Repetition
from tunestone.rewards.ready.sql import Sql
from tunestone.rewards.ready.structured import Json
from tunestone.rewards.spec import Context, Spec
from tunestone.types import Grader

KINDS: dict[str, type[Spec]] = {
    "function": Function,
    "lambda": Lambda,
    "http": Http,
    "string_check": StringCheck,
    "text_similarity": TextSimilarity,
    "python": PythonGrader,
    "score_model": ScoreModel,
    "label_model": LabelModel,
    "multi": Multi,
    "weighted": Weighted,
    "judge": Judge,
    "number": Number,
    "math": Expression,
    "choice": Choice,
    "json": Json,
    "code": Code,
    "sql": Sql,
    "regex": Regex,
    "format_tags": FormatTags,
    "length": Length,
    "repetition": Repetition,
    "reasoning_gym": ReasoningGym,
}
"""Type -> spec, of every kind of reward."""

Written = str | Mapping[str, Any]
"""A reward as a user writes it."""


def open_grader(written: Written, context: Context, stack: ExitStack) -> Grader:
    """The grader of what is written; what it starts ends with the stack. Raises RewardError."""
    return read_spec(written, context).open(context, stack)


def read_spec(written: Written, context: Context) -> Spec:
    """The spec of what is written. Raises RewardError that says what is wrong and where."""
    if not isinstance(written, str):
        return parse_spec(written)
    is_address = written.startswith(("http://", "https://"))
    if written.endswith((".json", ".toml")) and not is_address:
        return parse_spec(_read_table(context.folder / written))
    return parse_spec(_expand(written))


def parse_spec(table: Mapping[str, Any]) -> Spec:
    """The spec of a table. Raises RewardError naming the field and the nearest known one."""
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise RewardError(f"there is no reward of type {kind!r}.", remedy=_nearest(str(kind)))
    try:
        return KINDS[kind].model_validate(dict(table))
    except ValidationError as error:
        raise RewardError(_explain(error, kind), remedy=_known_fields(error, KINDS[kind])) from None


def fingerprint_reward(written: Written, context: Context) -> str:
    """SHA-256 of the spec and of the files it names: equal when the rewards are the same."""
    spec = read_spec(written, context)
    files = [fingerprint(path) for path in spec.files(context)]
    return hashlib.sha256(json.dumps([spec.model_dump(mode="json"), files]).encode()).hexdigest()


def _expand(text: str) -> dict[str, Any]:
    """The table a short form stands for."""
    if text in KINDS:
        return {"type": text}
    if text.startswith(("http://", "https://")):
        return {"type": "http", "url": text}
    if text.startswith("arn:"):
        return {"type": "lambda", "function": text}
    source, _, name = text.rpartition(":")
    if text.endswith(".zip"):
        return {"type": "lambda", "path": text}
    if source.endswith(".py") and name == "lambda_handler":
        return {"type": "lambda", "path": source}
    if not source and difflib.get_close_matches(text, KINDS, n=1):
        raise RewardError(f"there is no reward {text!r}.", remedy=_nearest(text))
    return {"type": "function", "path": text}


def _read_table(file: Path) -> dict[str, Any]:
    if file.suffix == ".toml":
        return read_toml(file)
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RewardError(f"{file}: not a readable JSON file: {error}.") from None
    if not isinstance(table, dict):
        raise RewardError(f"{file}: a grader is a JSON object.", remedy='Write {"type": ...}.')
    return table


def _nearest(kind: str) -> str:
    close = difflib.get_close_matches(kind, KINDS, n=1)
    near = f"Did you mean '{close[0]}'? " if close else ""
    return f"{near}There are: {', '.join(KINDS)}."


def _explain(error: ValidationError, kind: str) -> str:
    reasons = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            reason = "there is no such field"
        reasons.append(f"{where}: {reason}" if where else reason)
    return f"{kind} reward: {'; '.join(reasons)}."


def _known_fields(error: ValidationError, spec: type[Spec]) -> str:
    """For a misspelt field the nearest one."""
    unknown = [str(p["loc"][0]) for p in error.errors() if p["type"] == "extra_forbidden"]
    if not unknown:
        return ""
    names = ((field.alias or name) for name, field in spec.model_fields.items())
    fields = [name for name in names if name != "type"]
    close = difflib.get_close_matches(unknown[0], fields, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Its fields are: {', '.join(fields)}."
