"""What is wrong with a question to a model, in the words and codes of OpenAI's inference API.

Clients show these messages to people and branch on `param` and `code`, so they are theirs to the
letter where we know them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from tunestone.api.openai.errors import OpenAIError

T = TypeVar("T", bound=BaseModel)
Unknown = Literal["argument", "parameter"]

_EXPECTED = {
    "string": "a string",
    "int": "an integer",
    "float": "a decimal",
    "bool": "a boolean",
    "list": "an array",
    "dict": "an object",
    "model": "an object",
}


def parse_question(
    value: Any, model: type[T], *, unknown: Unknown, within: tuple[str | int, ...] = ()
) -> T:
    """A checked body, or what stands `within` one. Raises OpenAIError.

    `unknown`: chat and completions speak of request arguments, Responses of parameters.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise describe({**problem, "loc": (*within, *problem["loc"])}, unknown) from None


def describe(problem: Mapping[str, Any], unknown: Unknown) -> OpenAIError:
    """One of pydantic's complaints in OpenAI's words."""
    param, kind, limits = _path(problem["loc"]), problem["type"], problem.get("ctx", {})
    got = problem["input"]
    if kind == "extra_forbidden" and unknown == "argument" and len(problem["loc"]) == 1:
        return OpenAIError(400, f"Unrecognized request argument supplied: {param}")
    if kind == "extra_forbidden":
        return invalid(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if kind == "missing":
        return missing(param)
    if kind == "literal_error":
        return unsupported_value(got, param, str(limits["expected"]))
    if kind in {"too_long", "too_short"}:
        return _wrong_length(param, "array", limits)
    if kind in {"string_too_long", "string_too_short"}:
        return _wrong_length(param, "string", {**limits, "actual_length": len(got)})
    if kind in {"greater_than_equal", "less_than_equal"}:
        return _out_of_range(param, limits, got)
    if kind == "value_error":
        return invalid(str(limits["error"]), param, "invalid_value")
    expected = _EXPECTED.get(kind.partition("_")[0])
    if expected is None:
        return invalid(f"Invalid '{param}': {problem['msg']}.", param, "invalid_value")
    message = f"Invalid type for '{param}': expected {expected}, but got {_kind(got)} instead."
    return invalid(message, param, "invalid_type")


def invalid(message: str, param: str | None, code: str | None) -> OpenAIError:
    """A refusal with status 400."""
    return OpenAIError(400, message, param=param, code=code)


def missing(param: str) -> OpenAIError:
    """A parameter that must be there is not."""
    return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def unsupported_value(got: Any, param: str, supported: str | Sequence[str]) -> OpenAIError:
    """`got` is none of the words this parameter takes."""
    if isinstance(supported, str):
        words = supported.replace(" or ", ", ").replace("'", "").split(", ")
    else:
        words = list(supported)
    quoted = [f"'{word}'" for word in words]
    listed = " and ".join(quoted)
    if len(quoted) > 2:
        listed = ", ".join(quoted[:-1]) + f", and {quoted[-1]}"
    shown = f"'{got}'" if isinstance(got, str) else str(got)
    return invalid(
        f"Invalid value: {shown}. Supported values are: {listed}.", param, "invalid_value"
    )


def unsupported(param: str, why: str) -> OpenAIError:
    """A parameter OpenAI has and this server does not do: said, never ignored."""
    return invalid(
        f"Unsupported parameter: '{param}' is not supported by this server. {why}".strip(),
        param,
        "unsupported_parameter",
    )


def refuse_given(body: BaseModel, reasons: Mapping[str, str]) -> None:
    """Raise `unsupported` for the first of these parameters that the request has."""
    for param, why in reasons.items():
        if getattr(body, param) is not None:
            raise unsupported(param, why)


def _path(loc: Sequence[str | int]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _wrong_length(param: str, what: str, limits: Mapping[str, Any]) -> OpenAIError:
    article, length = ("an " if what == "array" else "a ") + what, limits["actual_length"]
    if "max_length" in limits:
        expected = f"maximum length {limits['max_length']}"
        message = f"{what} too long. Expected {article} with {expected}, but got {article}"
        return invalid(
            f"Invalid '{param}': {message} with length {length} instead.",
            param,
            f"{what}_above_max_length",
        )
    expected = f"minimum length {limits['min_length']}"
    message = f"empty {what}. Expected {article} with {expected}, but got an empty {what} instead."
    return invalid(f"Invalid '{param}': {message}", param, f"empty_{what}")


def _out_of_range(param: str, limits: Mapping[str, Any], got: Any) -> OpenAIError:
    above = "le" in limits
    bound = limits["le" if above else "ge"]
    kind = "integer" if isinstance(bound, int) and isinstance(got, int) else "decimal"
    side = "above maximum" if above else "below minimum"
    bound = int(bound) if bound == int(bound) else bound
    message = f"{kind} {side} value. Expected a value {'<=' if above else '>='} {bound}"
    code = f"{kind}_{'above_max' if above else 'below_min'}_value"
    return invalid(f"Invalid '{param}': {message}, but got {got} instead.", param, code)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a decimal",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "something else")
