"""OpenAI's cursor pages: `{"object": "list", "data": [...], "has_more": true}`.

The client asks for what stands after the last object it has seen, and stops when `has_more` is
false. A page is cut in the database, by what the list is ordered by, so that it holds still while
new rows are added in front.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from tunestone.api.openai.errors import OpenAIError

T = TypeVar("T")


def read_limit(request: Request, *, default: int, most: int) -> int:
    """The query's `limit`. Raises OpenAIError outside 1..most."""
    text = request.query_params.get("limit")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:10]) <= most:
        raise OpenAIError(
            400, f"Invalid 'limit': {text!r} is not an integer from 1 to {most}.", param="limit"
        )
    return int(text)


def read_choice(request: Request, name: str, choices: Sequence[str]) -> str:
    """One of a few words in the query, the first of which is the default."""
    value = request.query_params.get(name, choices[0])
    if value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise OpenAIError(400, f"Invalid '{name}': {value!r}; expected {expected}.", param=name)
    return value


def page(rows: Sequence[T], limit: int, render: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """A page of at most `limit` of the rows; one row more than that says that there are more."""
    data = [render(row) for row in rows[:limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(rows) > limit,
    }
