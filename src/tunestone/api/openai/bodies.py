"""Reading JSON bodies: from bytes to a pydantic model, complaints in OpenAI's words."""

import difflib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from tunestone.api.openai.errors import OpenAIError
from tunestone.rows import finite

_DEEPEST = 200
_LONGEST_NAME = 200
"""Characters of an unknown name that are compared with the known ones."""
_BRANCHES = ("literal[", "constrained-", "function-")


class Body(BaseModel):
    """Base of the bodies we know all members of: an unknown one is refused, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


T = TypeVar("T", bound=BaseModel)


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object of a body. Raises OpenAIError."""
    try:
        text = await request.body() or b"{}"
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise OpenAIError(
            400, f"We could not parse the JSON body of your request: {error}."
        ) from None
    if not isinstance(value, dict):
        raise OpenAIError(400, "The body of the request must be a JSON object.")
    _check_writable(value)
    return value


def parse(value: Any, model: type[T], *, within: str = "") -> T:
    """A checked body. Raises OpenAIError with the path of the member at fault as `param`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors()
        path = _path(problems[0]["loc"])
        param = ".".join([within, *path] if within else path)
        same = [problem for problem in problems if _path(problem["loc"]) == path]
        known = [field.alias or name for name, field in model.model_fields.items()]
        raise OpenAIError(400, _describe(param, same, known), param=param or None) from None


def _path(loc: tuple[int | str, ...]) -> list[str]:
    """Names of members, without those of a union's members, which are ours and not the client's."""
    return [str(part) for part in loc if not str(part).startswith(_BRANCHES)]


def _check_writable(value: Any) -> None:
    """Raise OpenAIError for what could be read but never be given back: lone surrogates, and
    objects so deep that there would be no room to put them into others."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise OpenAIError(400, f"The body is nested more than {_DEEPEST} levels deep.")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise OpenAIError(
            400, "The body holds half of a surrogate pair, which is no text."
        ) from None


def _describe(param: str, problems: Sequence[Any], known: list[str]) -> str:
    """What is wrong with one parameter; of a union, with each of its members."""
    name, kind = param.rpartition(".")[2], problems[0]["type"]
    if kind == "missing":
        return f"Missing required parameter: '{param}'."
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return f"Unknown parameter: '{param}'.{hint}"
    first, *others = [str(problem["msg"]).removeprefix("Value error, ") for problem in problems]
    message = " or ".join([first, *(other.removeprefix("Input should be ") for other in others)])
    return f"Invalid '{param}': {message[:1].lower()}{message[1:]}." if param else f"{message}."


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not in the standard")


def unix(moment: datetime | None) -> int | None:
    """A time as OpenAI gives it: whole seconds since 1970, None for none."""
    return None if moment is None else int(moment.timestamp())
