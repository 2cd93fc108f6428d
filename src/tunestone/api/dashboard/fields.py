"""Fields of settings and graders as a form shows them, out of the models that define them."""

import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tunestone.pages.app import Data

_BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


def describe(name: str, field: FieldInfo) -> Data:
    """Name, kind of control, choices, range, default and meaning, the last three as text.

    A kind is `number`, `text`, `choice`, `flag` (true or false) or `json`, for all that is made of
    parts. The default is empty where there is none, or where nothing is the default.
    """
    kind, choices = _control(field.annotation)
    bounds = [
        text.format(getattr(limit, key))
        for limit in field.metadata
        for key, text in _BOUNDS.items()
        if hasattr(limit, key)
    ]
    return {
        "name": field.alias or name,
        "label": (field.alias or name).replace("_", " "),
        "kind": kind,
        "choices": choices,
        "range": ", ".join(bounds),
        "default": _written(field),
        "meaning": " ".join((field.description or "").split()),
    }


def _control(annotation: Any) -> tuple[str, list[str]]:
    """(kind, choices)"""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _control(arguments[0])
    if origin is Literal:
        return "choice", [str(value) for value in arguments]
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if member is not types.NoneType]
        return _control(members[0]) if len(members) == 1 else ("json", [])
    if annotation is bool:
        return "flag", ["true", "false"]
    kinds = {int: "number", float: "number", str: "text"}
    return kinds.get(annotation, "json"), []


def _written(field: FieldInfo) -> str:
    """The default as a person writes it."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value in (None, "", (), {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value)
