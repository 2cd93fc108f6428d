"""What is asked of a model that answers, and what it says: records between server and engine.

The engine is a process of its own (`tunestone.engine`), since the server imports no torch. A
request and its events travel as one JSON line each, by `to_json` and `from_json`.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter

EndReason = Literal["stop", "stop_string", "length"]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which weights answer: a base, or a base with an adapter on it."""

    source: str
    """What `load_base` takes: the embedded model's name, a folder, or a hub id."""
    adapter: str = ""
    """Folder of a PEFT adapter; empty for the base itself."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One question; `n` answers to it are drawn together."""

    id: str
    model: ModelRef
    messages: tuple[Mapping[str, Any], ...] = ()
    """Chat turns in the OpenAI shape, put through the model's chat template; or else `text`.
    A last turn of the assistant is continued."""
    text: str | None = None
    """A raw prompt, as it is."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Tool definitions in the OpenAI shape, for the chat template."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Further variables for the chat template, such as `reasoning_effort`, `enable_thinking`."""
    n: int = 1
    max_tokens: int | None = None
    """Longest answer in tokens; None is what the model's positions leave."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is the whole vocabulary."""
    stop: tuple[str, ...] = ()
    seed: int | None = None
    """The same seed and request give the same answers, whatever else is being answered."""
    logprobs: int | None = None
    """None: none wanted; k: of each token, and of the k likeliest in its place (at most 20)."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[str, float] = field(default_factory=dict)
    """Token id (as a string, as in JSON) -> what is added to its logit."""
    grammar: Mapping[str, Any] | None = None
    """What the answer must be: {"type": "json_object"}, {"type": "json_schema", "schema": {...}},
    {"type": "regex", "regex": "..."} or {"type": "lark", "lark": "..."}. Enforced at each token."""
    echo: bool = False
    """Whether `logprobs` of the prompt's own tokens are wanted too (legacy completions)."""


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token with its log-probability (nats), over the whole vocabulary at temperature 1."""

    text: str
    logprob: float
    bytes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A drawn token and the likeliest in its place."""

    token: TokenChance
    top: tuple[TokenChance, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt was read."""

    id: str
    prompt_tokens: int
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    """Only with `echo`; the first token has none."""
    thinking: bool = False
    """Whether the chat template ended the prompt inside an open `<think>`: the answer then begins
    with reasoning."""


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of answer `index`; whole characters only, and never a part of a stop string."""

    id: str
    index: int
    text: str
    tokens: int
    """How many were drawn since the last delta of this answer."""
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """Answer `index` is complete."""

    id: str
    index: int
    reason: EndReason
    """`stop`: the model's end token; `stop_string`: one of `stop`; `length`: cut off."""
    tokens: int
    """Of the whole answer, the end token included."""
    stop_string: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no answer; `code` is that of a TunestoneError, or `internal_error`."""

    id: str
    code: str
    message: str


GenerationEvent = Started | Delta | Ended | Failed


class Engine(Protocol):
    """The seam between the dialects and whatever answers."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        """Started, deltas, and one Ended per answer. Closing the iterator cancels the request.

        Raises RequestError (the request cannot be answered: too long, no such model, a schema that
        is none) or WorldError (the engine died or is overloaded; asking again makes sense).
        """
        ...


def to_json(record: GenerationRequest | GenerationEvent) -> dict[str, Any]:
    """A record as plain data, its kind under `kind`."""
    return {"kind": type(record).__name__, **asdict(record)}


_ADAPTERS = {
    kind.__name__: TypeAdapter(kind) for kind in (GenerationRequest, Started, Delta, Ended, Failed)
}


def from_json(data: Mapping[str, Any]) -> Any:
    """What `to_json` gave. Raises pydantic's ValidationError, or KeyError for an unknown kind."""
    fields = dict(data)
    return _ADAPTERS[fields.pop("kind")].validate_python(fields)
