"""The comparison behind `structured.py`: a completion's JSON against a schema and a reference.

The score is the F1 of leaf fields: twice the leaves that are right, over the leaves of both sides.
A missing leaf and a surplus one cost the same, so neither silence nor answering everything pays.
A leaf is a value at a path (`address.lines[0]`); an empty object or list is a leaf too. The order
of a list matters, since positions are paths, and 12 is not "12".

No pydantic in here: with a schema it runs in the sandbox.
"""

import json
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NoReturn

from tunestone.rewards.ready.extraction import Score, UnusableReferenceError

Style = Literal["strict", "lenient"]

_MOST_ATTEMPTS = 32
"""How many fences, and then opening braces, are tried; it bounds the work on any text."""
_MISSING = object()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def score_json(
    text: str,
    reference: Any = None,
    schema: Any = None,
    *,
    style: Style = "lenient",
    tolerance: float = 0.0,
    strip: bool = True,
    casefold: bool = False,
    malformed_reward: float = 0.0,
) -> Score:
    """The reward, `valid_json`, `valid_schema` (with a schema) and `fields` (with a reference).

    Raises UnusableReferenceError when the reference or the schema is of no use.
    """
    expected = _parse_reference(reference)
    validator = None if schema is None else _make_validator(_dump_schema(schema))
    answer = find_json(text, style, opening="[" if isinstance(expected, list) else "{")
    metrics = {"valid_json": float(answer is not _MISSING)}
    if answer is _MISSING:
        absent = {"valid_schema": schema, "fields": reference}
        metrics |= {name: 0.0 for name, wanted in absent.items() if wanted is not None}
        return malformed_reward, metrics
    if validator is not None:
        metrics["valid_schema"] = float(_is_valid(validator, answer))
    if reference is not None:
        metrics["fields"] = match_fields(
            answer, expected, tolerance=tolerance, strip=strip, casefold=casefold
        )
    if metrics.get("valid_schema") == 0.0:
        return malformed_reward, metrics
    return metrics.get("fields", 1.0), metrics


def check_schema(schema: Any) -> None:
    """Raise UnusableReferenceError unless it is a valid JSON Schema."""
    _make_validator(_dump_schema(schema))


def find_json(text: str, style: Style, *, opening: str) -> Any:
    """The JSON value of a completion, or a private sentinel when there is none.

    Strict: the whole text. Lenient: that, else the first code fence, else the first object (or
    list, as `opening` says) that parses.
    """
    candidates = [text] if style == "strict" else [text, *_fenced(text)]
    for candidate in candidates:
        value = _parse(candidate)
        if value is not _MISSING:
            return value
    return _MISSING if style == "strict" else _first_balanced(text, opening)


def match_fields(
    answer: Any, reference: Any, *, tolerance: float, strip: bool, casefold: bool
) -> float:
    """F1 of the leaves, 0..1; see the module's letter."""
    right = sum(
        _agrees(given, wanted, tolerance, strip=strip, casefold=casefold)
        for given, wanted in _leaf_pairs(answer, reference)
    )
    return 2 * right / (count_leaves(answer) + count_leaves(reference))


def count_leaves(value: Any) -> int:
    """How many leaves a JSON value has; 1 for a plain one."""
    count, pending = 0, [value]
    while pending:  # no recursion, here and below, so that depth costs no stack
        children = _children(pending.pop())
        pending += children.values()
        count += not children
    return count


def _leaf_pairs(answer: Any, reference: Any) -> Iterator[tuple[Any, Any]]:
    """The leaves of both at the same paths."""
    pending = [(answer, reference)]
    while pending:
        given, wanted = pending.pop()
        parts, wanted_parts = _children(given), _children(wanted)
        if not parts and not wanted_parts:
            yield given, wanted
        # A list's keys are integers and an object's are strings, so the two share none.
        pending += [(parts[key], wanted_parts[key]) for key in parts.keys() & wanted_parts]


def _children(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, Mapping) else {}


def _agrees(answer: Any, reference: Any, tolerance: float, *, strip: bool, casefold: bool) -> bool:
    if isinstance(answer, bool) or isinstance(reference, bool):
        return answer is reference
    if isinstance(answer, int | float) and isinstance(reference, int | float):
        return answer == reference or _is_near(answer, reference, tolerance)
    if isinstance(answer, str) and isinstance(reference, str):
        return _fold(answer, strip, casefold) == _fold(reference, strip, casefold)
    return type(answer) is type(reference) and bool(answer == reference)


def _is_near(answer: float, reference: float, tolerance: float) -> bool:
    """Exactly, through the decimal text: 1.3 is within 0.3 of 1, and integers may be huge."""
    try:
        return abs(Fraction(str(answer)) - Fraction(str(reference))) <= Fraction(str(tolerance))
    except ValueError:  # 1e999 is JSON, and an infinite float
        return False


def _fold(text: str, strip: bool, casefold: bool) -> str:
    text = text.strip() if strip else text
    return text.casefold() if casefold else text


def _fenced(text: str) -> Iterator[str]:
    for block in text.split("```", 2 * _MOST_ATTEMPTS)[1::2]:
        yield re.sub(r"\A[A-Za-z0-9]{0,20}\s*\n", "", block)


def _first_balanced(text: str, opening: str) -> Any:
    start = text.find(opening)
    for _ in range(_MOST_ATTEMPTS):
        value = _decode_at(text, start) if start >= 0 else _MISSING
        if start < 0 or value is not _MISSING:
            return value
        start = text.find(opening, start + 1)
    return _MISSING


def _decode_at(text: str, start: int) -> Any:
    try:
        return _DECODER.raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return _MISSING


def _parse(text: str) -> Any:
    """The value, or the sentinel: for no JSON, nesting too deep, a number of too many digits."""
    try:
        return json.loads(text.strip(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return _MISSING


def _parse_reference(reference: Any) -> Any:
    if not isinstance(reference, str):
        return reference
    value = _parse(reference)
    if value is _MISSING:
        raise UnusableReferenceError(f"the reference answer is not JSON: {reference!r:.80}.")
    return value


def _dump_schema(schema: Any) -> str:
    value = _parse(schema) if isinstance(schema, str) else schema
    if not isinstance(value, dict | bool):
        raise UnusableReferenceError(f"the schema is not a JSON object: {schema!r:.80}.")
    return json.dumps(value)


@lru_cache(maxsize=256)
def _make_validator(schema_text: str) -> Any:
    import jsonschema
    import referencing

    schema = json.loads(schema_text)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise UnusableReferenceError(f"the schema is not valid: {error.message}") from None
    # An empty registry: by default an unknown `$ref` would be fetched over the network.
    return kind(schema, registry=referencing.Registry())


def _is_valid(validator: Any, answer: Any) -> bool:
    import referencing

    try:
        return bool(validator.is_valid(answer))
    except RecursionError:  # nested deeper than the validator can follow
        return False
    except referencing.exceptions.Unresolvable as error:
        raise UnusableReferenceError(f"the schema refers to what it lacks: {error}.") from None
