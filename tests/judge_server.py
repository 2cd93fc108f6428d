"""A scripted judge over HTTP: OpenAI's chat completions and Bedrock's Converse, both shapes."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from scripted_server import Reply, Request, Served, serve


@dataclass(frozen=True)
class Asked:
    """One request, of either shape."""

    api: str
    model: str
    system: str
    turns: list[tuple[str, str]]
    """(role, text), system messages left out."""
    body: dict[str, Any]

    @property
    def user(self) -> str:
        return self.turns[0][1]


@dataclass(frozen=True)
class Said:
    """What the judge does with it."""

    text: str = ""
    status: int = 200
    error: str = ""
    param: str = ""
    finish: str = "stop"
    refusal: str | None = None
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    wait_seconds: float = 0.0


OVERLOADED = Said(status=429, error="slow down", headers={"retry-after-ms": "1"})
BROKEN = Said(status=500, error="oh no", headers={"retry-after-ms": "1"})
_BEDROCK_STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "content_filtered"}


def say(**reply: Any) -> Said:
    """A JSON answer."""
    return Said(json.dumps(reply))


def in_turn(*script: Said) -> Callable[[Asked], Said]:
    """One after the other; asking once more than scripted fails the test by a StopIteration."""
    queue = iter(script)
    return lambda asked: next(queue)


@contextmanager
def serve_judge(answer: Callable[[Asked], Said], *, port: int = 0) -> Iterator[Served]:
    """Serve until the block ends; `url` is the root, OpenAI's `base_url` is `url + "/v1"`."""

    def respond(request: Request) -> Reply:
        asked = _parse(request)
        said = answer(asked)
        time.sleep(said.wait_seconds)
        if said.raw is not None:
            return Reply(said.raw, headers={"Content-Type": "application/json"})
        render = _render_chat if asked.api == "openai" else _render_converse
        return Reply(
            render(said), said.status, {"Content-Type": "application/json", **said.headers}
        )

    with serve(respond, port=port) as served:
        yield served


def _parse(request: Request) -> Asked:
    body = request.json()
    if request.path == "/v1/chat/completions":
        system = [m["content"] for m in body["messages"] if m["role"] == "system"]
        turns = [(m["role"], m["content"]) for m in body["messages"] if m["role"] != "system"]
        return Asked("openai", body["model"], "\n".join(system), turns, body)
    start, _, rest = request.path.partition("/model/")
    model, _, end = rest.partition("/")
    assert (start, end) == ("", "converse"), request.path
    system = [block["text"] for block in body.get("system", [])]
    turns = [(m["role"], "".join(b["text"] for b in m["content"])) for m in body["messages"]]
    return Asked("bedrock", model, "\n".join(system), turns, body)


def _render_chat(said: Said) -> dict[str, Any]:
    if said.status != 200:
        return {"error": {"message": said.error, "type": "error", "param": said.param or None}}
    message = {"role": "assistant", "content": said.text, "refusal": said.refusal}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": said.finish}],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 64},
        },
    }


def _render_converse(said: Said) -> dict[str, Any]:
    if said.status != 200:
        return {"message": said.error, "__type": "ValidationException"}
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": said.text}]}},
        "stopReason": _BEDROCK_STOPS[said.finish],
        "usage": {"inputTokens": 100, "outputTokens": 7, "totalTokens": 107},
        "metrics": {"latencyMs": 1},
    }
