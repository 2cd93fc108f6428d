"""The answers of the models of an evaluation, kept as they come so that a restart goes on."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path

from tunestone.api.evaluations.asked import AskedModel, Sampling
from tunestone.api.evaluations.dataset import Item
from tunestone.api.evaluations.metrics import Written
from tunestone.errors import DataError, WorldError
from tunestone.generation import Delta, Ended, Engine, GenerationRequest, ModelRef
from tunestone.jobs.store import new_id

_AT_ONCE = 8
"""Prompts that are answered together, so that other requests find room between them."""
_WAITS_SECONDS = (1.0, 5.0, 20.0)
"""Before each further try when the engine is overloaded or died."""


def given_answers(model: AskedModel, items: Sequence[Item]) -> list[Written]:
    """Those that stand in the dataset. Raises DataError when one is missing."""
    missing = [item for item in items if model.identifier not in item.given]
    if missing:
        raise DataError(
            f"The row {missing[0].prompt.source} holds no answer of '{model.identifier}'.",
            remedy="Add it to the row's `modelResponses`.",
        )
    return [Written(item.given[model.identifier], truncated=False) for item in items]


async def ask_all(
    engine: Engine,
    ref: ModelRef,
    *,
    sampling: Sampling,
    items: Sequence[Item],
    kept: Path,
) -> list[Written]:
    """One answer per item. `kept` is the file of those that came already; it grows meanwhile.

    Raises what the engine raises, WorldError after some further tries.
    """
    done = await asyncio.to_thread(_read_kept, kept)
    room = asyncio.Semaphore(_AT_ONCE)

    async def answer(position: int) -> None:
        async with room:
            request = _question(items[position], ref, sampling)
            done[position] = await _ask(engine, request)
        await asyncio.to_thread(_keep, kept, position, done[position])

    try:
        async with asyncio.TaskGroup() as tasks:
            for position in range(len(items)):
                if position not in done:
                    tasks.create_task(answer(position))
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    return [done[position] for position in range(len(items))]


async def _ask(engine: Engine, request: GenerationRequest) -> Written:
    for wait in _WAITS_SECONDS:
        try:
            return await _ask_once(engine, request)
        except WorldError:
            await asyncio.sleep(wait)
    return await _ask_once(engine, request)


async def _ask_once(engine: Engine, request: GenerationRequest) -> Written:
    """The answer as the model wrote it, its reasoning included: that is what rewards look at."""
    text, truncated = "", False
    events = engine.generate(request)
    async with aclosing(events):  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
            elif isinstance(event, Ended):
                truncated = event.reason == "length"
    return Written(text, truncated)


def _question(item: Item, ref: ModelRef, sampling: Sampling) -> GenerationRequest:
    return GenerationRequest(
        id=new_id(),
        model=ref,
        messages=item.prompt.messages,
        tools=item.prompt.tools,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=0,
    )


def _read_kept(path: Path) -> dict[int, Written]:
    """What is on disk; a line that was cut by a kill is taken off."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    lines = [json.loads(line) for line in whole.splitlines()]
    return {line["position"]: Written(line["text"], line["truncated"]) for line in lines}


def _keep(path: Path, position: int, written: Written) -> None:
    line = json.dumps({"position": position, **asdict(written)}, ensure_ascii=False)
    with path.open("ab") as file:
        file.write(line.encode() + b"\n")
