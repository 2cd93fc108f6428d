"""Asking one judge many things: at once, read as JSON, cached, and never silently zero.

A `Question` holds the conversation, the shape of the answer and a function that reads it; an
`Answer` holds what it read, or why there is nothing to read. Requests are the only thing done in
threads: everything before and after happens where `ask_all` was called.

An answer that is not the JSON asked for gets one more chance ("the JSON only"), then it is an
error. Where an answer holds several JSON objects none is picked: one of them may well be a quote
from the text being judged, planted there for us to find.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NoReturn, TypeVar, final

from tunestone.errors import RewardError
from tunestone.rewards.judges.bedrock_chat import BedrockChat
from tunestone.rewards.judges.cache import ReplyCache, cache_key
from tunestone.rewards.judges.chat_models import (
    ChatFailure,
    ChatModel,
    Endpoint,
    Message,
    Reply,
    SamplingParams,
    Schema,
    ServerFailure,
)
from tunestone.rewards.judges.openai_chat import OpenAIChat
from tunestone.rewards.spec import Context
from tunestone.types import Grade, GradeFlag

T = TypeVar("T")

_NUDGE = "That cannot be read. Answer again with the JSON object only, nothing before or after it."
_THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
"""Reasoning that some servers leave in front of the answer."""
_QUOTED_CHARACTERS = 300


class UnreadableReply(Exception):
    """The answer is not what was asked for; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """One thing to ask."""

    messages: tuple[Message, ...]
    schema: Schema
    read: Callable[[Mapping[str, Any]], T]
    """From the JSON object to the value. Raises UnreadableReply."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What came of a question: a value, or an error of some kind."""

    value: T | None = None
    error: str = ""
    flag: GradeFlag = "other_error"
    """What kind of error; means nothing without one."""
    seconds: float = 0.0
    attempts: int = 1
    tokens: Mapping[str, int] = field(default_factory=dict)
    """`prompt`, `completion`, `cached`; empty when the answer was known already."""


@final
class Asker:
    """Asks one model, at one endpoint, with one set of sampling parameters."""

    def __init__(
        self,
        model: ChatModel,
        *,
        name: str,
        endpoint: Endpoint,
        params: SamplingParams,
        cache: ReplyCache,
    ) -> None:
        """`name` is what the endpoint calls the model."""
        self.name = name
        self.hits = 0
        """Questions answered from the cache, or by an equal one of the same call."""
        self.misses = 0
        """Questions the model was asked."""
        self._model = model
        self._endpoint = endpoint
        self._params = params
        self._cache = cache
        self._pool = ThreadPoolExecutor(endpoint.concurrency, thread_name_prefix="judge")

    def ask_all(self, questions: Sequence[Question[T]]) -> list[Answer[T]]:
        """One answer per question, in order. Raises StorageError when the cache is unusable."""
        keys, found = list[str](), dict[str, Answer[T] | Future[Answer[T]]]()
        for question in questions:
            sendable = replace(question, messages=tuple(map(_sendable, question.messages)))
            key = self._key(sendable)
            keys.append(key)
            if key not in found:
                known = self._find(sendable, key)
                found[key] = known or self._pool.submit(self._ask, sendable, key)
        asked = sum(isinstance(entry, Future) for entry in found.values())
        self.misses += asked
        self.hits += len(keys) - asked
        answers = {
            key: entry.result() if isinstance(entry, Future) else entry
            for key, entry in found.items()
        }
        # An answer that several questions share is paid for by the first of them.
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        return [
            answers[key] if first[key] == i else replace(answers[key], tokens={}, seconds=0.0)
            for i, key in enumerate(keys)
        ]

    def close(self) -> None:
        """Ends its threads; what was not asked yet is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _key(self, question: Question[T]) -> str:
        return cache_key(
            self.name,
            self._endpoint,
            messages=question.messages,
            schema=question.schema,
            params=self._params,
        )

    def _find(self, question: Question[T], key: str) -> Answer[T] | None:
        text = self._cache.get(key)
        try:
            return None if text is None else Answer(_read(text, question))
        except UnreadableReply:  # kept by a version that read it otherwise: ask again
            return None

    def _ask(self, question: Question[T], key: str) -> Answer[T]:
        spent = list[Reply]()
        messages = question.messages
        try:
            reply = self._send(messages, question, spent)
            try:
                value = _read(reply.text, question)
            except UnreadableReply:
                said = {"role": "assistant", "content": reply.text or "(nothing)"}
                messages = (*messages, said, {"role": "user", "content": _NUDGE})
                reply = self._send(messages, question, spent)
                value = _read(reply.text, question)
        except ChatFailure as error:
            reason = str(error)
            if isinstance(error, ServerFailure):
                reason = f"the judge {self.name} at {self._endpoint.place} failed: {reason}"
            return _sum_up([*spent, error.spent], Answer(error=reason, flag=error.flag))
        except UnreadableReply as error:
            return _sum_up(spent, Answer(error=str(error), flag="model_grader_parse_error"))
        self._cache.put(key, reply.text)
        return _sum_up(spent, Answer(value))

    def _send(
        self, messages: Sequence[Message], question: Question[T], spent: list[Reply]
    ) -> Reply:
        spent.append(self._model.ask(messages, schema=question.schema, params=self._params))
        return spent[-1]


def open_asker(
    name: str,
    endpoint: Endpoint,
    *,
    params: SamplingParams,
    context: Context,
    stack: ExitStack,
) -> Asker:
    """An asker whose connections, cache and threads end with the stack. Raises RewardError."""
    model = _open_model(name, endpoint, params)
    stack.callback(model.close)
    cache = ReplyCache(context.cache)
    stack.callback(cache.close)
    asker = Asker(model, name=name, endpoint=endpoint, params=params, cache=cache)
    stack.callback(asker.close)
    return asker


def answer_grade(answer: Answer[T], *, model: str, grade: Callable[[T], Grade]) -> Grade:
    """The grade for one answer: `grade(value)`, or the error, with what it cost either way."""
    tokens = {model: answer.tokens} if answer.tokens else {}
    if answer.value is None:
        result = Grade(reward=None, error=answer.error, flags=(answer.flag,))
    else:
        result = grade(answer.value)
    return replace(result, seconds=answer.seconds, attempts=answer.attempts, tokens=tokens)


def total_cost(answer: Answer[T], spent: Sequence[Reply | Answer[Any]]) -> Answer[T]:
    """The answer with the cost of all that was spent on it.

    Attempts are those of the request that needed most: more than 1 means that something failed.
    """
    names = dict.fromkeys(name for one in spent for name in one.tokens)
    return replace(
        answer,
        seconds=sum(one.seconds for one in spent),
        attempts=max((one.attempts for one in spent), default=1),
        tokens={name: sum(one.tokens.get(name, 0) for one in spent) for name in names},
    )


def object_schema(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """An object with these keys and no others; let the reasons come before the verdict."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def parse_object(text: str) -> Mapping[str, Any]:
    """The one JSON object in a text, with or without a fence and words around it.

    Raises UnreadableReply for none, for more than one, for NaN or Infinity, and for a brace that
    opens no valid object: what stands inside a broken object may be a quote of the judged text.
    """
    text = _THOUGHTS.sub("", text, count=1)
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    objects, position = list[Mapping[str, Any]](), text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise UnreadableReply(f"broken JSON in the judge's answer: {_quote(text)}") from error
        objects.append(value)
        position = text.find("{", end)
    if len(objects) != 1:
        found = f"{len(objects)} JSON objects" if objects else "no JSON object"
        raise UnreadableReply(f"{found} in the judge's answer: {_quote(text)}")
    return objects[0]


def read_number(reply: Mapping[str, Any], name: str) -> float:
    """A finite number under a key of the reply; neither true nor "1" is one."""
    value = reply.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnreadableReply(f"{name!r} should be a number in the judge's answer, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UnreadableReply(f"{name!r} is not a finite number in the judge's answer")
    return number


def _sum_up(spent: Sequence[Reply], answer: Answer[T]) -> Answer[T]:
    """One question's requests, a repeated one included; here the attempts add up."""
    return replace(total_cost(answer, spent), attempts=sum(reply.attempts for reply in spent))


def _read(text: str, question: Question[T]) -> T:
    return question.read(parse_object(text))


def _open_model(name: str, endpoint: Endpoint, params: SamplingParams) -> OpenAIChat | BedrockChat:
    if endpoint.api == "openai":
        return OpenAIChat(name, endpoint)
    for unknown in ("seed", "reasoning_effort"):
        if getattr(params, unknown) is not None:
            raise RewardError(
                f"The judge's sampling_params set {unknown}, which Bedrock's Converse has not.",
                remedy="Leave it out, or use the model's OpenAI-compatible endpoint.",
            )
    return BedrockChat(name, endpoint)


def _sendable(message: Message) -> Message:
    """Without lone surrogates, which JSON cannot carry in UTF-8."""
    return {name: text.encode("utf-8", "replace").decode() for name, text in message.items()}


def _quote(text: str) -> str:
    return repr(text[:_QUOTED_CHARACTERS])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not in the standard")
