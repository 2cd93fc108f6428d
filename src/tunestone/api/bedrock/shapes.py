"""Requests are read, and answers written, along the shapes of botocore's own service model.

The model knows required members, types, ranges, lengths, patterns, enums and unions. boto3 checks
only some of them before it sends, AWS all of them; so do we, and say all that is wrong at once, in
AWS's words with the path of the member. What we check beyond the model stands in `_NARROWER`, what
we take beyond it in `_WIDER`.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape

from tunestone.api.bedrock.errors import SerializationException, ValidationException
from tunestone.rows import finite

Json = dict[str, Any]

_NARROWER: Mapping[str, Json] = {
    "RFTMaxPromptLength": {"min": 1},
    "RFTInferenceMaxTokens": {"min": 1},
}
"""Shape -> what must hold too: the model says nothing of these, but less makes no sense."""
_WIDER: Mapping[str, tuple[str, ...]] = {
    "EvaluationBedrockModelIdentifier": (
        "BaseModelIdentifier",
        "CustomModelArn",
        "CustomModelDeploymentArn",
    ),
}
"""Shape -> shapes whose patterns do as well: evaluations take tuned models without a detour."""
_EXPONENTIAL = (r"(-*[a-zA-Z0-9\+\-\.])*", r"[a-zA-Z0-9\+\-\.]*")
"""A part of job names' pattern, on which a name of 60 hyphens would keep Python busy for years, and
the same language in linear time."""
_ANY_LETTER = r"\p{L}\p{Z}\p{N}"
_INT32, _INT64 = range(-(2**31), 2**31), range(-(2**63), 2**63)
_SHOWN = 200
"""Characters of a value that a message shows."""


@cache
def load_service(name: str) -> ServiceModel:
    """botocore's model of a service, such as `bedrock`."""
    return ServiceModel(Loader().load_service_model(name, "service-2"), name)


def read_input(
    operation: OperationModel, path: Mapping[str, str], query: Mapping[str, str], body: bytes
) -> Json:
    """The checked members of a request; times as aware datetimes, absent members absent.

    Raises ValidationException with all that is wrong, or SerializationException when it cannot be
    read at all.
    """
    shape = operation.input_shape
    if shape is None:
        return {}
    places: dict[str, Json] = {"body": _load(body), "uri": dict(path), "querystring": dict(query)}
    given: Json = {}
    for name, member in shape.members.items():
        place = member.serialization.get("location", "body")
        value = places.get(place, {}).pop(member.serialization.get("name", name), None)
        if value is not None:
            given[name] = _from_text(member, value, name) if place == "querystring" else value
    check = _Check(operation.service_model)
    for name in [*places["body"], *places["querystring"]]:
        if not name.lower().startswith("x-amz-"):  # signatures may stand in the query
            check.note(name, None, "Member is not known")
    result: Json = check.value(shape, given, "")
    if check.problems:
        count = len(check.problems)
        noun = "error" if count == 1 else "errors"
        problems = "; ".join(check.problems)
        raise ValidationException(f"{count} validation {noun} detected: {problems}")
    return result


def write_output(operation: OperationModel, output: Mapping[str, Any]) -> Json:
    """An answer as plain JSON: None is left out, times are ISO 8601 with Z.

    Raises LookupError for a member that the shape has not, or that is required and absent: either
    is our fault.
    """
    shape = operation.output_shape
    if shape is None:
        return {}
    written: Json = _write(shape, output, operation.name)
    return written


def _load(body: bytes) -> Json:
    if not body.strip():
        return {}
    try:
        data = json.loads(body, parse_constant=_refuse_constant, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise SerializationException(f"The body is no valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise SerializationException("The body must be a JSON object.")
    return data


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _from_text(shape: Shape, text: str, path: str) -> Any:
    """A value of a query string, in its type."""
    if shape.type_name == "integer":
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise _unreadable(text, shape, path)
        return int(text)
    if shape.type_name == "boolean":
        if text not in ("true", "false"):
            raise _unreadable(text, shape, path)
        return text == "true"
    return text


class _Check:
    """Walks a value along its shape and collects what AWS would say of it."""

    def __init__(self, service: ServiceModel) -> None:
        self.problems: list[str] = []
        self._service = service

    def note(self, path: str, value: str | None, constraint: str) -> None:
        """One fault; `value` None shows none (it is secret, or there is none to show)."""
        shown = "Value" if value is None else f"Value {value}"
        self.problems.append(f"{shown} at '{path}' failed to satisfy constraint: {constraint}")

    def value(self, shape: Shape, given: Any, path: str) -> Any:
        """The value in Python's types."""
        kinds: dict[str, Callable[[Shape, Any, str], Any]] = {
            "structure": self._structure,
            "list": self._list,
            "map": self._map,
            "string": self._string,
            "integer": self._number,
            "long": self._number,
            "float": self._number,
            "double": self._number,
            "boolean": _boolean,
            "timestamp": _timestamp,
            "blob": _blob,
        }
        if shape.metadata.get("document"):
            return given
        return kinds[shape.type_name](shape, given, path)

    def _structure(self, shape: Shape, given: Any, path: str) -> Json:
        if not isinstance(given, dict):
            raise _unreadable(given, shape, path)
        result: Json = {}
        for name, member in shape.members.items():
            below = f"{path}.{name}" if path else name
            if given.get(name) is not None:
                result[name] = self.value(member, given[name], below)
            elif name in shape.required_members:
                self.note(below, "null", "Member must not be null")
        for name in given:
            if name not in shape.members:
                self.note(f"{path}.{name}", None, "Member is not known")
        if shape.metadata.get("union") and len(result) != 1:
            names = ", ".join(shape.members)
            self.note(path, None, f"Exactly one of these members must be set: [{names}]")
        return result

    def _list(self, shape: Shape, given: Any, path: str) -> list[Any]:
        if not isinstance(given, list):
            raise _unreadable(given, shape, path)
        self._length(shape, given, path)
        items = []
        for i, item in enumerate(given, start=1):
            if item is None:
                self.note(f"{path}.{i}.member", "null", "Member must not be null")
            else:
                items.append(self.value(shape.member, item, f"{path}.{i}.member"))
        return items

    def _map(self, shape: Shape, given: Any, path: str) -> Json:
        if not isinstance(given, dict):
            raise _unreadable(given, shape, path)
        self._length(shape, given, path)
        for role, part, values in (
            ("keys", shape.key, list(given)),
            ("value", shape.value, list(given.values())),
        ):
            inner = _Check(self._service)
            for value in values:
                inner.value(part, value, path)
            rules = [problem.partition("constraint: ")[2] for problem in inner.problems]
            if rules:
                shown = None if shape.metadata.get("sensitive") else _quote(given)
                self.note(path, shown, f"Map {role} must satisfy constraint: [{', '.join(rules)}]")
        return given

    def _string(self, shape: Shape, given: Any, path: str) -> str:
        if not isinstance(given, str) or not _is_text(given):
            raise _unreadable(given, shape, path)
        self._length(shape, given, path)
        shown = None if shape.metadata.get("sensitive") else _quote(given)
        if "enum" in shape.metadata and given not in shape.metadata["enum"]:
            values = ", ".join(shape.metadata["enum"])
            self.note(path, shown, f"Member must satisfy enum value set: [{values}]")
        if "pattern" in shape.metadata and not self._fits(shape, given):
            pattern = shape.metadata["pattern"]
            self.note(path, shown, f"Member must satisfy regular expression pattern: {pattern}")
        return given

    def _fits(self, shape: Shape, given: str) -> bool:
        others = [self._service.shape_for(name) for name in _WIDER.get(shape.name, ())]
        patterns = [one.metadata["pattern"] for one in (shape, *others)]
        longest = shape.metadata.get("max", 2048)  # a longer one is refused anyway
        return len(given) > longest or any(_compile(p).fullmatch(given) for p in patterns)

    def _number(self, shape: Shape, given: Any, path: str) -> int | float:
        whole = shape.type_name in ("integer", "long")
        kinds = (int,) if whole else (int, float)
        if isinstance(given, bool) or not isinstance(given, kinds):
            raise _unreadable(given, shape, path)
        sizes = _INT32 if shape.type_name == "integer" else _INT64
        if isinstance(given, int) and given not in sizes:  # float() takes no whole number
            raise _unreadable(given, shape, path)
        rules = {**shape.metadata, **_NARROWER.get(shape.name, {})}
        if given < rules.get("min", given):
            least = rules["min"]
            self.note(
                path, f"'{given}'", f"Member must have value greater than or equal to {least}"
            )
        if given > rules.get("max", given):
            most = rules["max"]
            self.note(path, f"'{given}'", f"Member must have value less than or equal to {most}")
        return given if whole else float(given)

    def _length(self, shape: Shape, given: Any, path: str) -> None:
        shown = None if shape.metadata.get("sensitive") else _quote(given)
        if len(given) < shape.metadata.get("min", 0):
            least = shape.metadata["min"]
            self.note(path, shown, f"Member must have length greater than or equal to {least}")
        if len(given) > shape.metadata.get("max", len(given)):
            most = shape.metadata["max"]
            self.note(path, shown, f"Member must have length less than or equal to {most}")


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    pattern = pattern.replace(*_EXPONENTIAL)
    if _ANY_LETTER in pattern:  # Java's words for it, in the tags of Lambda
        return re.compile(pattern.replace(_ANY_LETTER, r"\w\s"))
    return re.compile(pattern, re.ASCII)


def _is_text(value: str) -> bool:
    """Whether a database can keep it: half a surrogate pair and NUL are none."""
    return "\x00" not in value and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _quote(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text[:_SHOWN]}...'" if len(text) > _SHOWN else f"'{text}'"


def _boolean(shape: Shape, given: Any, path: str) -> bool:
    if not isinstance(given, bool):
        raise _unreadable(given, shape, path)
    return given


def _timestamp(shape: Shape, given: Any, path: str) -> datetime:
    """ISO 8601 or seconds since 1970, as aware time in UTC."""
    try:
        if isinstance(given, str):
            time = datetime.fromisoformat(given)
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(given, int | float) and not isinstance(given, bool):
            return datetime.fromtimestamp(given, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise _unreadable(given, shape, path) from error
    raise _unreadable(given, shape, path)


def _blob(shape: Shape, given: Any, path: str) -> bytes:
    """Bytes, which stand in JSON as base64."""
    try:
        return base64.b64decode(given, validate=True)
    except (ValueError, TypeError) as error:
        raise _unreadable(given, shape, path) from error


_TOKENS = ((bool, "BOOLEAN_VALUE"), (str, "STRING_VALUE"), (int, "NUMBER_VALUE"))


def _unreadable(given: Any, shape: Shape, path: str) -> SerializationException:
    kinds = (*_TOKENS, (float, "DECIMAL_VALUE"), (list, "START_ARRAY"), (dict, "START_OBJECT"))
    token = next((name for kind, name in kinds if isinstance(given, kind)), "NULL_VALUE")
    kind = shape.type_name.capitalize()
    shown = _quote(given).encode("utf-8", "replace").decode()
    return SerializationException(f"{token} {shown} cannot be converted to {kind} at '{path}'")


def _write(shape: Shape, value: Any, path: str) -> Any:
    if shape.type_name == "structure":
        if unknown := set(value) - set(shape.members):
            raise LookupError(f"{path} has no members {sorted(unknown)}")
        members = {name: one for name, one in value.items() if one is not None}
        if absent := set(shape.required_members) - set(members):
            raise LookupError(f"{path} lacks {sorted(absent)}")
        return {name: _write(shape.members[name], members[name], name) for name in members}
    if shape.type_name == "list":
        return [_write(shape.member, item, path) for item in value]
    if shape.type_name == "timestamp":
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value
