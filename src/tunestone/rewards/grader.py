"""All kinds of rewards, read from what a user writes and opened as graders.

A reward is written as a string or a table. Strings are short for the common tables:

    reward.py:score                 {"type": "function", "path": "reward.py:score"}
    reward.py:lambda_handler        {"type": "lambda", "path": "reward.py"}
    package.module:lambda_handler   {"type": "lambda", "path": "(the file of that module)"}
    handler.zip                     {"type": "lambda", "path": "handler.zip"}
    arn:aws:lambda:...              {"type": "lambda", "function": "arn:aws:lambda:..."}
    https://host/grade              {"type": "http", "url": "https://host/grade"}
    grader.json, grader.toml        the table in that file
    number                          {"type": "number"}, for any type that needs no more
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from tunestone.data import fingerprint
from tunestone.errors import RewardError
from tunestone.rewards.aws_lambda.grader import Lambda
from tunestone.rewards.combine import Multi, Weighted
from tunestone.rewards.function import is_file
from tunestone.rewards.function_grader import Function, find_module
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

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

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

_REASONS = {
    "extra_forbidden": "there is no such field",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}
"""Kind of pydantic's error -> words for people who write TOML or JSON, not Python."""

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
        return _read_file(written, context.folder)
    return parse_spec(_expand(written, context.folder))


def parse_spec(table: Mapping[str, Any]) -> Spec:
    """The spec of a table. Raises RewardError naming the field and the nearest known one."""
    if "type" not in table:
        raise RewardError("the table has no `type`.", remedy=_nearest(""))
    kind = table["type"]
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


def _expand(text: str, folder: Path) -> dict[str, Any]:
    """The table a short form stands for; modules are sought in the folder first."""
    if text in KINDS:
        return {"type": text}
    if text.startswith(("http://", "https://")):
        return {"type": "http", "url": text}
    if text.startswith("arn:"):
        return {"type": "lambda", "function": text}
    source, _, name = text.rpartition(":")
    if text.endswith(".zip"):
        return {"type": "lambda", "path": text}
    if source and name == "lambda_handler":
        file = source if is_file(source) else find_module(source, folder)
        if file is not None:
            return {"type": "lambda", "path": str(file)}
    if not source and difflib.get_close_matches(text, KINDS, n=1):
        raise RewardError(f"there is no reward {text!r}.", remedy=_nearest(text))
    return {"type": "function", "path": text}


def _read_file(written: str, folder: Path) -> Spec:
    """The spec in a JSON or TOML file. Every message begins with the file as it is written."""
    file = folder / written
    loads, form = (tomllib.loads, "TOML") if file.suffix == ".toml" else (json.loads, "JSON")
    try:
        table = loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RewardError(
            f"there is no file {written}.",
            remedy=f"Check the path; it is taken from {folder.resolve()}.",
        ) from None
    except OSError as error:
        raise RewardError(
            f"{written}: cannot be read: {error.strerror}.", remedy="Name a file with a grader."
        ) from None
    except ValueError as error:
        raise RewardError(
            f"{written}: this is no {form}: {error}.", remedy=f"Write one grader in {form}."
        ) from None
    if not isinstance(table, dict):
        raise RewardError(f"{written}: a grader is a JSON object.", remedy='Write {"type": ...}.')
    try:
        return parse_spec(table)
    except RewardError as error:
        raise RewardError(f"{written}: {error.message}", remedy=error.remedy) from None


def _nearest(kind: str) -> str:
    close = difflib.get_close_matches(kind, KINDS, n=1)
    near = f"Did you mean '{close[0]}'? " if close else ""
    return f"{near}There are: {', '.join(KINDS)}."


def _explain(error: ValidationError, kind: str) -> str:
    problems = error.errors()
    # A list whose one entry is wrong is also called too short: only the innermost fault helps.
    inner = [p for p in problems if not any(_is_inside(q["loc"], p["loc"]) for q in problems)]
    return f"{kind} reward: {'; '.join(map(_describe, inner))}."


def _is_inside(place: tuple[str | int, ...], outer: tuple[str | int, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _describe(problem: "ErrorDetails") -> str:
    *above, name = problem["loc"] or ("",)
    if problem["type"] == "missing":
        where, reason = above, f"needs `{name}`"
    else:
        message = problem["msg"].removeprefix("Value error, ")
        where, reason = list(problem["loc"]), _REASONS.get(problem["type"], message)
    path = ".".join(map(str, where))
    return f"{path}: {reason}" if path else reason


def _known_fields(error: ValidationError, spec: type[Spec]) -> str:
    """For a misspelt field the nearest one."""
    unknown = [p["loc"] for p in error.errors() if p["type"] == "extra_forbidden"]
    if not unknown:
        return ""
    *path, name = unknown[0]
    fields = [field for field in _annotations(_model_at(spec, path)) if field != "type"]
    close = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Its fields are: {', '.join(fields)}."


def _model_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel]:
    """The model a path of fields leads to; indices and keys on the way say nothing of it."""
    for part in path:
        annotation = _annotations(model).get(str(part))
        model = next(_models_in(annotation), model)
    return model


def _annotations(model: type[BaseModel]) -> dict[str, Any]:
    """Name, as it is written -> annotation, of each field."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
