"""What the tests of the OpenAI dialect share: a served folder, a client, rows and graders."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

from live_server import running, services_in
from tunestone.api.openai import ROUTES, render_error

EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference_answer }}",
    "operation": "eq",
}
ROW = {"messages": [{"role": "user", "content": "2 + 2 = ?"}], "reference_answer": "4"}


def rows(count: int) -> bytes:
    """So many rows of training data."""
    lines = ({**ROW, "messages": [{"role": "user", "content": f"{i} = ?"}]} for i in range(count))
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def method(grader: Any = EXACT, **reinforcement: Any) -> dict[str, Any]:
    """The `method` of a job."""
    return {"type": "reinforcement", "reinforcement": {"grader": grader, **reinforcement}}


@contextlib.contextmanager
def serving(folder: Path, **options: Any) -> Iterator[tuple[Any, openai.OpenAI]]:
    """(services, client) of a live server over `folder`."""
    services = services_in(folder, **options)
    with (
        running(services, ROUTES, {"openai": render_error}) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        yield services, client
    services.store.close()


def upload(client: openai.OpenAI, content: bytes = b"", *, purpose: str = "fine-tune") -> str:
    """The id of an uploaded file."""
    file = client.files.create(file=("data.jsonl", content or rows(3)), purpose=purpose)
    return file.id
