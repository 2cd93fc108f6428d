"""A request's messages or raw text -> the tokens that are put to the model."""

import inspect
import sys
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tunestone.core.turns import plain_content, plain_turn
from tunestone.errors import ContextLengthError, RequestError
from tunestone.generation import GenerationRequest

_RESERVED = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) - {
    "documents"
}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the model reads it."""

    tokens: list[int]
    thinking: bool
    """Whether it ends inside an open `<think>`."""


def encode_request(
    tokenizer: Any,
    request: GenerationRequest,
    *,
    positions: int = sys.maxsize,
    longest_token: int = 1,
) -> Encoded:
    """The prompt of a request, which is not read at all where it cannot fit into `positions` tokens
    of at most `longest_token` characters.

    Raises RequestError when the model's template refuses it, ContextLengthError when it is so long
    that reading it would keep everybody else waiting.
    """
    thinking = False
    _refuse_more(len(request.messages), "messages", positions)  # each is a token at least
    most_characters = positions * longest_token
    if request.text is not None:
        _refuse_more(len(request.text), "characters", most_characters)
        begins = bool(tokenizer.bos_token) and request.text.startswith(tokenizer.bos_token)
        tokens = tokenizer(request.text, add_special_tokens=not begins)["input_ids"]
    else:
        text = _render(tokenizer, request)
        _refuse_more(len(text), "characters", most_characters)
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        begun = _begun_answer(request) or text.rstrip()[-len("<think>") :]
        thinking = begun.rfind("<think>") > begun.rfind("</think>")
    if not tokens:
        raise RequestError("The prompt is empty.", remedy="Give messages or a text.")
    return Encoded(list(tokens), thinking)


def _refuse_more(count: int, unit: str, most: int) -> None:
    if count > most:
        raise ContextLengthError(
            f"This model's maximum context length is exceeded: {count:,} {unit} cannot fit in it.",
            remedy="Please reduce the length of the messages.",
        )


def _begun_answer(request: GenerationRequest) -> str:
    """What a last turn of the assistant says already."""
    last = request.messages[-1]
    return plain_content(last.get("content") or "") if last.get("role") == "assistant" else ""


def _render(tokenizer: Any, request: GenerationRequest) -> str:
    if not request.messages:
        raise RequestError("There are no messages.", remedy="Give at least one turn.")
    reserved = sorted(_RESERVED & set(request.template))
    if reserved:
        raise RequestError(f"The chat template's variable '{reserved[0]}' cannot be set.")
    turns = [plain_turn(message) for message in request.messages]
    goes_on = turns[-1]["role"] == "assistant" and not turns[-1].get("tool_calls")
    try:
        text: str = tokenizer.apply_chat_template(
            turns,
            tools=[dict(tool) for tool in request.tools] or None,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            tokenize=False,
            **request.template,
        )
    except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as error:
        # Templates are programs of the model's makers: their complaints come as any of these.
        raise RequestError(
            f"The model's chat template refuses these messages: {error}.",
            remedy="Change the roles, their order or their content, or use another model.",
        ) from error
    return text
