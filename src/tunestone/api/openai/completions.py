"""Legacy completions: a raw text goes on, without a chat template."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import JSONResponse, Response

from tunestone.api.http import Call, Route
from tunestone.api.inference.answers import (
    Answer,
    Answers,
    Finished,
    Part,
    Piece,
    collect,
    merged,
    opened,
    read,
    unless_gone,
)
from tunestone.api.inference.targets import Target
from tunestone.api.openai.asking import (
    Bias,
    Penalty,
    Question,
    Seed,
    Share,
    Stops,
    Temperature,
    fingerprint,
    headers_of,
    new_name,
    read_question,
    unix_now,
)
from tunestone.api.openai.chat import finish_reason, render_usage
from tunestone.api.openai.chat_body import StreamOptions
from tunestone.api.openai.sse import DONE, GONE, encode, ending_with_errors, stream
from tunestone.api.openai.wording import invalid, missing, unsupported
from tunestone.generation import GenerationRequest, Started, TokenLogprob

_DEFAULT_TOKENS = 16
_MOST_PROMPTS = 128


class CompletionBody(Question):
    """`POST /v1/completions`."""

    prompt: Any = None
    """A text, or several."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    stop: Stops = Field(default_factory=list)
    seed: Seed | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    suffix: str | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Bias | None = None


async def create_completion(call: Call) -> Response:
    """`POST /v1/completions`."""
    body, target = await read_question(call, CompletionBody, unknown="argument")
    prompts = _read_prompts(body)
    _check(body)
    name = new_name("cmpl-")
    requests = [_request(body, target, f"{name}-{i}", text) for i, text in enumerate(prompts)]
    parts = [read(call.services.engine, request) for request in requests]
    head = {
        "id": name,
        "object": "text_completion",
        "created": unix_now(),
        "model": body.model,
        "system_fingerprint": fingerprint(target),
    }
    if body.stream:
        written = _Chunks(body, prompts, head).write(await opened(merged(parts)))
        return stream(ending_with_errors(written), headers_of(target))
    all_answers = await unless_gone(
        call.request, _gather([collect(one_prompt) for one_prompt in parts])
    )
    if all_answers is None:
        return GONE
    choices = [
        _render_choice(body, prompts[i], answers.prompt_logprobs, answer)
        for i, answers in enumerate(all_answers)
        for answer in _best(body, answers)
    ]
    numbered = [{**choice, "index": index} for index, choice in enumerate(choices)]
    whole = {**head, "choices": numbered, "usage": render_usage(_sum(all_answers))}
    return JSONResponse(whole, headers=headers_of(target))


async def _gather(work: Sequence[Coroutine[Any, Any, Answers]]) -> list[Answers]:
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _read_prompts(body: CompletionBody) -> list[str]:
    if body.prompt is None:
        raise missing("prompt")
    prompts = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    if any(isinstance(prompt, int | list) for prompt in prompts):
        why = "It takes texts, not token ids: those of another tokenizer would mean another text."
        raise unsupported("prompt", why)
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        message = "Invalid type for 'prompt': expected a string or an array of strings."
        raise invalid(message, "prompt", "invalid_type")
    if not 1 <= len(texts) <= _MOST_PROMPTS:
        message = f"Invalid 'prompt': expected 1 to {_MOST_PROMPTS} texts, but got {len(texts)}."
        raise invalid(message, "prompt", "invalid_value")
    return texts


def _check(body: CompletionBody) -> None:
    if body.suffix is not None:
        raise unsupported("suffix", "Its models write on; they fill no gaps.")
    if body.stream_options is not None and not body.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise invalid(message, "stream_options", "invalid_parameter_combination")
    best_of = body.best_of or body.n or 1
    if best_of < (body.n or 1):
        raise invalid("'best_of' must not be less than 'n'.", "best_of", "invalid_value")
    if best_of > (body.n or 1) and body.stream:
        message = "'best_of' cannot choose while it streams: leave out one of both."
        raise invalid(message, "best_of", "invalid_parameter_combination")


def _request(body: CompletionBody, target: Target, name: str, text: str) -> GenerationRequest:
    chooses = (body.best_of or 1) > (body.n or 1)
    return GenerationRequest(
        id=name,
        model=target.ref,
        text=text,
        n=max(body.best_of or 1, body.n or 1),
        max_tokens=_DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=tuple(body.stop),
        seed=body.seed,
        logprobs=body.logprobs if body.logprobs is not None else 0 if chooses else None,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        echo=bool(body.echo),
    )


def _best(body: CompletionBody, answers: Answers) -> list[Answer]:
    """The n answers with the highest log-probability per token, the best first."""
    n = body.n or 1
    if len(answers.answers) == n:
        return answers.answers

    def likeliness(answer: Answer) -> float:
        drawn = [logprob.token.logprob for logprob in answer.logprobs]
        return sum(drawn) / len(drawn) if drawn else float("-inf")

    return sorted(answers.answers, key=likeliness, reverse=True)[:n]


def _sum(all_answers: Sequence[Answers]) -> Answers:
    return Answers(
        prompt_tokens=sum(answers.prompt_tokens for answers in all_answers),
        answers=[answer for answers in all_answers for answer in answers.answers],
    )


def _render_choice(
    body: CompletionBody,
    prompt: str,
    prompt_logprobs: Sequence[TokenLogprob | None],
    answer: Answer,
) -> dict[str, Any]:
    text = prompt + answer.text if body.echo else answer.text
    logprobs = None
    if body.logprobs is not None:
        logprobs = _render_logprobs(answer.logprobs, len(prompt))
        if body.echo:
            echoed = _render_prompt_logprobs(prompt_logprobs, prompt)
            logprobs = {key: echoed[key] + logprobs[key] for key in logprobs}
    return {"text": text, "logprobs": logprobs, "finish_reason": finish_reason(answer.reason)}


def _render_logprobs(logprobs: Sequence[TokenLogprob], start: int) -> dict[str, list[Any]]:
    """Four parallel lists; `start` is where in the text the first token begins."""
    lengths = [len(logprob.token.text) for logprob in logprobs]
    return {
        "tokens": [logprob.token.text for logprob in logprobs],
        "token_logprobs": [logprob.token.logprob for logprob in logprobs],
        "top_logprobs": [
            {chance.text: chance.logprob for chance in logprob.top} for logprob in logprobs
        ],
        "text_offset": [start + sum(lengths[:i]) for i in range(len(lengths))],
    }


def _render_prompt_logprobs(
    logprobs: Sequence[TokenLogprob | None], prompt: str
) -> dict[str, list[Any]]:
    """The same of the prompt's own tokens; nothing stands before the first, so it has none."""
    known = [logprob for logprob in logprobs if logprob is not None]
    start = max(0, len(prompt) - sum(len(logprob.token.text) for logprob in known))
    first = {"tokens": prompt[:start], "token_logprobs": None, "top_logprobs": None}
    rest = _render_logprobs(known, start)
    return {key: [first.get(key, 0), *values] for key, values in rest.items()}


class _Chunks:
    """Writes a stream of several prompts' answers."""

    def __init__(
        self, body: CompletionBody, prompts: Sequence[str], head: Mapping[str, Any]
    ) -> None:
        self._body = body
        self._prompts = prompts
        self._head = head
        self._tells_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._whole = Answers()
        self._ends: dict[int, int] = {}
        """How long each answer's text is so far, its prompt included."""

    async def write(
        self, parts: AsyncGenerator[tuple[int, Part], None]
    ) -> AsyncGenerator[bytes, None]:
        n = self._body.n or 1
        async for place, part in parts:
            match part:
                case Started():
                    self._whole.prompt_tokens += part.prompt_tokens
                    for index in range(place * n, place * n + n):
                        self._ends[index] = len(self._prompts[place])
                        if self._body.echo:
                            yield self._echo(index, self._prompts[place], part)
                case Piece():
                    yield self._piece(place * n + part.index, part)
                case Finished():
                    self._whole.answers.append(Answer(part.index, tokens=part.tokens))
                    reason = finish_reason(part.reason)
                    yield self._chunk(place * n + part.index, "", None, reason=reason)
        if self._tells_usage:
            yield encode({**self._head, "choices": [], "usage": render_usage(self._whole)})
        yield DONE

    def _echo(self, index: int, prompt: str, part: Started) -> bytes:
        return self._chunk(index, prompt, _render_prompt_logprobs(part.prompt_logprobs, prompt))

    def _piece(self, index: int, part: Piece) -> bytes:
        logprobs = _render_logprobs(part.logprobs, self._ends[index])
        self._ends[index] += len(part.text)
        return self._chunk(index, part.text, logprobs)

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: Mapping[str, Any] | None,
        *,
        reason: str | None = None,
    ) -> bytes:
        shown = None if self._body.logprobs is None else logprobs
        choice = {"index": index, "text": text, "logprobs": shown, "finish_reason": reason}
        usage = {"usage": None} if self._tells_usage else {}
        return encode({**self._head, "choices": [choice], **usage})


ROUTES = (
    Route(
        dialect="openai",
        operation="completions.create",
        method="POST",
        path="/completions",
        handler=create_completion,
        body=CompletionBody,
    ),
)
