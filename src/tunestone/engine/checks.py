"""What is refused before a model is asked."""

import math

from tunestone.engine.cache import room_for
from tunestone.engine.shelf import Loaded
from tunestone.errors import ContextLengthError, RequestError
from tunestone.generation import GenerationRequest

DEFAULT_MAX_TOKENS = 4096
"""Longest answer where a request names none, though the model's positions may leave more."""


def check_request(request: GenerationRequest, *, most_rows: int) -> None:
    """Raise RequestError for values that are wrong whatever the model."""
    wrong = {
        f"n is {request.n}; this server draws 1 to {most_rows} answers at a time": not (
            1 <= request.n <= most_rows
        ),
        f"max_tokens is {request.max_tokens}; it must not be negative": (
            request.max_tokens is not None and request.max_tokens < 0
        ),
        f"temperature is {request.temperature}; it must be 0 to 100": not (
            0.0 <= request.temperature <= 100.0
        ),
        f"top_p is {request.top_p}; it must be 0 to 1": not 0.0 <= request.top_p <= 1.0,
        f"top_k is {request.top_k}; it must not be negative": request.top_k < 0,
        f"logprobs is {request.logprobs}; it must be 0 to 20": (
            request.logprobs is not None and not 0 <= request.logprobs <= 20
        ),
        "logit_bias has a key that is no token id": not all(
            token.isdecimal() for token in request.logit_bias
        ),
        "A penalty or a bias is no finite number": not all(
            math.isfinite(number)
            for number in (
                request.frequency_penalty,
                request.presence_penalty,
                *request.logit_bias.values(),
            )
        ),
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise RequestError(f"{message}.")


def longest_answer(
    request: GenerationRequest, prompt_tokens: int, loaded: Loaded, cache_bytes: int
) -> int:
    """How many tokens an answer may have at most.

    Raises ContextLengthError when prompt and answer outgrow the model's positions, RequestError
    when they outgrow the engine's memory or a biased token does not exist.
    """
    wanted = request.max_tokens
    most = min(loaded.positions - prompt_tokens, DEFAULT_MAX_TOKENS) if wanted is None else wanted
    total = prompt_tokens + most
    if total > loaded.positions or (wanted is None and most < 1):
        asked = "at least 1" if wanted is None else str(wanted)
        raise ContextLengthError(
            f"This model's maximum context length is {loaded.positions} tokens. However, you "
            f"requested {prompt_tokens + (1 if wanted is None else wanted)} tokens "
            f"({prompt_tokens} in the messages, {asked} in the completion).",
            remedy="Please reduce the length of the messages or completion.",
        )
    needed = (prompt_tokens + request.n * room_for(total)) * loaded.bytes_per_token
    if needed > cache_bytes:
        raise RequestError(
            f"{request.n} answers of up to {total} tokens with their prompt need "
            f"{needed / 2**20:.0f} MiB of keys and values; the engine has "
            f"{cache_bytes / 2**20:.0f} MiB.",
            remedy="Ask for fewer answers, or set a smaller max_tokens.",
        )
    vocabulary = loaded.base.network.get_output_embeddings().weight.shape[0]
    beyond = [token for token in request.logit_bias if int(token) >= vocabulary]
    if beyond:
        raise RequestError(f"logit_bias names token {beyond[0]}; the model has {vocabulary}.")
    return most
