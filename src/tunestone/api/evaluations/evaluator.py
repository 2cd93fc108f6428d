"""The engine as a judge's model: asked from a grader's threads, answering on the event loop."""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from tunestone.api.inference.answers import Answers, collect, read
from tunestone.errors import TunestoneError
from tunestone.generation import Engine, GenerationRequest, ModelRef
from tunestone.jobs.store import new_id
from tunestone.rewards.judges.chat_models import (
    Message,
    Reply,
    SamplingParams,
    Schema,
    ServerFailure,
    cut_off,
    spent_since,
)


class EngineChat:
    """A `ChatModel` over the server's own engine."""

    def __init__(self, engine: Engine, model: ModelRef, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._model = model
        self._loop = loop
        self._lock = threading.Lock()
        self._ended = False
        self._asked = set[Future[Answers]]()

    def ask(
        self, messages: Sequence[Message], *, schema: Schema | None, params: SamplingParams
    ) -> Reply:
        """See ChatModel. The schema is enforced while the answer is drawn."""
        started = time.perf_counter()
        request = GenerationRequest(
            id=new_id(),
            model=self._model,
            messages=tuple(messages),
            max_tokens=params.max_completions_tokens,
            temperature=params.temperature or 0.0,
            grammar=None if schema is None else _grammar(schema),
        )
        try:
            answers = self._wait_for(request)
        except (TunestoneError, CancelledError) as error:
            told = str(error) or "the evaluation was stopped"
            raise ServerFailure(told, spent_since(started, 1)) from error
        tokens = {"prompt": answers.prompt_tokens, "completion": answers.tokens}
        spent = Reply("", tokens, seconds=time.perf_counter() - started)
        (answer,) = answers.answers
        if answer.reason == "length":
            cut_off(spent)
        return Reply(answer.text, tokens, seconds=spent.seconds)

    def close(self) -> None:
        """Ends what is being answered and refuses the rest: the job was stopped."""
        with self._lock:
            self._ended = True
            asked = list(self._asked)
        for one in asked:
            one.cancel()

    def _wait_for(self, request: GenerationRequest) -> Answers:
        with self._lock:
            if self._ended:
                raise CancelledError
            asked = asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)
            self._asked.add(asked)
        try:
            return asked.result()
        finally:
            with self._lock:
                self._asked.discard(asked)

    async def _answer(self, request: GenerationRequest) -> Answers:
        return await collect(read(self._engine, request))


def _grammar(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "schema": dict(schema)}
