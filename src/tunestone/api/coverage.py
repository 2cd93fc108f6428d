"""What of the services' APIs is answered here: the source of docs/api-coverage.md.

The rows, in `coverage.txt`, are the acceptance table of our specification. A test holds them
against the routes: every operation they name has a route, and every route belongs to a row or is
named under FURTHER.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, get_args

State = Literal["done", "partial", "echoed", "hook"]
FURTHER: dict[str, str] = {
    "responses.retrieve": "Responses are kept unless `store` is false.",
    "responses.delete": "Removes a kept response.",
    "responses.input_items.list": "What a kept response answered.",
    "CountTokens": "Tokens of a prompt under the model's template.",
    "ListFoundationModels": "The names of base models there are here.",
    "GetFoundationModel": "What a name of a base model stands for here.",
    "GetFunctionConfiguration": "Local AWS, for waiters.",
    "UpdateFunctionConfiguration": "Local AWS.",
    "ListFunctions": "Local AWS.",
    "AddPermission": "Local AWS; kept and shown, for whoever may write may invoke.",
    "RemovePermission": "Local AWS.",
    "GetPolicy": "Local AWS.",
}
"""Operations beyond the table -> what they are for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One feature of the services."""

    number: int
    surfaces: str
    """A: Bedrock through boto3. B: Bedrock's OpenAI-compatible endpoint. C: OpenAI."""
    state: State
    feature: str
    how: str
    """What it comes to here, or why it is not whole."""
    operations: tuple[str, ...]
    """Operations of boto3 or methods of the openai client that it is about."""


def read_rows() -> tuple[Row, ...]:
    """All rows, in order."""
    text = files("tunestone.api").joinpath("coverage.txt").read_text(encoding="utf-8")
    return tuple(_parse(line) for line in text.splitlines() if not line.startswith("#"))


def _parse(line: str) -> Row:
    number, surfaces, state, feature, how, operations = (part.strip() for part in line.split(" |"))
    known = {name: name for name in get_args(State)}
    return Row(int(number), surfaces, known[state], feature, how, tuple(operations.split()))
