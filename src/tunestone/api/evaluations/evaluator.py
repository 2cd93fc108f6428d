"""The engine as a judge's model: asked from the threads of a grader, answering on the event loop."""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
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
        self._ended = threading.Event()

    def ask(
        self, messages: Sequence[Message], *, schema: Schema | None, params: SamplingParams
    ) -> Reply:
        """See ChatModel. The schema is enforced while the answer is drawn."""
        started = time.perf_counter()
        if self._ended.is_set():
            raise ServerFailure("the evaluation was stopped", spent_since(started, 0))
        request = GenerationRequest(
            id=new_id(),
            model=self._model,
            messages=tuple(messages),
            max_tokens=params.max_completions_tokens,
            temperature=params.temperature or 0.0,
            grammar=None if schema is None else _grammar(schema),
        )
        asked = asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)
        try:
            answers = asked.result()
        except TunestoneError as error:
            raise ServerFailure(str(error), spent_since(started, 1)) from error
        tokens = {"prompt": answers.prompt_tokens, "completion": answers.tokens}
        spent = Reply("", tokens, seconds=time.perf_counter() - started)
        (answer,) = answers.answers
        if answer.reason == "length":
            cut_off(spent)
        return Reply(answer.text, tokens, seconds=spent.seconds)

    def close(self) -> None:
        """Refuses what is still to be asked: the job was stopped."""
        self._ended.set()

    async def _answer(self, request: GenerationRequest) -> Answers:
        return await collect(read(self._engine, request))


def _grammar(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "schema": dict(schema)}
