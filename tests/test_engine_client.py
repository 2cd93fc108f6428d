"""The engine as the server has it: a child process behind pipes, and what happens when it dies."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from engine_steps import Told, tiny, write_adapter
from tunestone.api.inference.client import EngineClient
from tunestone.errors import (
    ContextLengthError,
    GrammarError,
    ModelError,
    OverloadedError,
    RequestError,
    WorldError,
)
from tunestone.generation import Ended, GenerationRequest
from tunestone.jobs.settings import ServerSettings

SETTINGS = ServerSettings(engine_threads=1, engine_rows=8)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def client(runner):
    client = EngineClient(SETTINGS)
    yield client
    runner.run(client.aclose())


async def ask(client, **fields) -> Told:
    told = Told()
    async for event in client.generate(GenerationRequest(**{"id": "mine", **fields})):
        assert event.id == "mine"
        told.take(event)
    return told


async def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_many_requests_at_once_with_equal_ids(runner, client, tiny_folder, tmp_path):
    adapter = write_adapter(tiny_folder, tmp_path / "adapter", seed=1)

    async def all_at_once():
        assert client.stats() == {"alive": 0.0}  # nobody asked yet, so there is no child
        return await asyncio.gather(
            *(
                ask(
                    client,
                    model=tiny(tiny_folder, adapter if i % 2 else None),
                    text="x" * (i + 1),
                    n=1 + i % 3,
                    max_tokens=20 + i,
                    temperature=0.0,
                    logprobs=1,
                )
                for i in range(12)
            )
        )

    answers = runner.run(all_at_once())
    for i, told in enumerate(answers):
        assert told.started.prompt_tokens == i + 1
        assert set(told.ended) == set(range(1 + i % 3))
        assert {ended.tokens for ended in told.ended.values()} == {20 + i}
        assert len(told.logprobs[0]) == 20 + i
    again = runner.run(
        ask(client, model=tiny(tiny_folder), text="xxx", max_tokens=22, temperature=0.0, n=1)
    )
    assert again.texts[0] == answers[2].texts[0] == answers[2].texts[1]


def test_errors_arrive_as_what_they_are(runner, client, tiny_folder, tmp_path):
    def failing(**fields):
        runner.run(ask(client, **{"model": tiny(tiny_folder), "text": "x", **fields}))

    with pytest.raises(
        ContextLengthError, match=r"maximum context length is 1024 tokens"
    ) as caught:
        failing(max_tokens=5000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(GrammarError, match="unclosed group"):
        failing(grammar={"type": "regex", "regex": "("})
    with pytest.raises(ModelError, match="There is no model folder"):
        failing(model=tiny(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="There is no adapter in"):
        failing(model=tiny(tiny_folder, tmp_path / "nowhere"))
    with pytest.raises(RequestError, match="n is 9; this server draws 1 to 8 answers at a time"):
        failing(n=9)  # --rows reached the child


def test_closing_the_iterator_cancels_and_numbers_are_told(runner, client, tiny_folder):
    async def hang_up():
        long = GenerationRequest(
            id="long",
            model=tiny(tiny_folder),
            text="x",
            max_tokens=1000,
            n=8,
            logit_bias={"256": -100.0},
        )
        events = client.generate(long)
        await anext(events)
        await anext(events)
        await events.aclose()
        # All eight rows are free again, or this would wait for 1000 tokens more.
        told = await ask(client, model=tiny(tiny_folder), text="y", max_tokens=3, n=8)
        assert len(told.ended) == 8
        # Numbers come once a second: wait for those of now.
        await until(lambda: client.stats().get("models") == 1 and not client.stats()["running"])
        return client.stats()

    stats = runner.run(hang_up())
    assert (stats["alive"], stats["asked"], stats["rows"], stats["models"]) == (1, 0, 0, 1)
    assert 0 < stats["tokens_drawn"] < 8 * 1000
    assert all(isinstance(value, float) for value in stats.values())


def test_a_child_that_dies_fails_what_it_was_answering_and_a_new_one_answers(
    runner, client, tiny_folder
):
    asked = {"model": tiny(tiny_folder), "text": "x", "max_tokens": 1000, "n": 8}

    async def die():
        first = client._child._process.pid
        tasks = [asyncio.create_task(ask(client, **asked, seed=i)) for i in range(3)]
        await until(lambda: client.stats()["asked"] == 3)
        os.kill(first, signal.SIGKILL)
        for task in tasks:
            with pytest.raises(WorldError, match="The engine ended while it was answering"):
                await task
        told = await ask(client, model=tiny(tiny_folder), text="x", max_tokens=5, temperature=0.0)
        assert told.ended[0].tokens == 5
        assert client._child._process.pid != first

    runner.run(die())


def test_too_many_requests_are_refused_at_once(runner, client, tiny_folder):
    narrow = EngineClient(SETTINGS, most_waiting=2)
    narrow._child = client._child

    async def crowd():
        asked = {"model": tiny(tiny_folder), "text": "x", "max_tokens": 400}
        tasks = [asyncio.create_task(ask(narrow, **asked)) for _ in range(3)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Told, Told, OverloadedError]
        assert str(results[2]) == (
            "2 questions are being answered or wait already. Ask again in a moment."
        )

    runner.run(crowd())


SERVER = """
    import asyncio, os, sys
    from tunestone.api.inference.client import EngineClient
    from tunestone.jobs.settings import ServerSettings
    from tunestone.generation import GenerationRequest, ModelRef
    assert not {"torch", "transformers", "peft"} & set(sys.modules)
    async def main():
        client = EngineClient(ServerSettings(engine_threads=1))
        model = ModelRef(sys.argv[1])
        async for event in client.generate(GenerationRequest("1", model, text="x")):
            print(client._child._process.pid, flush=True)
    asyncio.run(main())
"""


def test_the_child_ends_when_its_server_is_killed(tiny_folder, tmp_path):
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(SERVER))
    server = subprocess.Popen(
        [sys.executable, script, tiny_folder], stdout=subprocess.PIPE, text=True
    )
    child = int(server.stdout.readline())  # it is in the middle of an answer
    server.kill()
    server.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if "State:\tZ" in Path(f"/proc/{child}/status").read_text():
            break  # ended, and nobody reaps it in this container
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_events_keep_their_order(runner, client, tiny_folder):
    async def kinds():
        request = GenerationRequest("1", tiny(tiny_folder), text="x", max_tokens=7, n=2)
        return [type(event).__name__ async for event in client.generate(request)]

    found = runner.run(kinds())
    assert found[0] == "Started"
    assert found.count(Ended.__name__) == 2
    assert found[-1] == Ended.__name__


def test_after_closing_nothing_is_answered_and_no_child_is_left(runner, client, tiny_folder):
    async def close():
        asked = asyncio.create_task(ask(client, model=tiny(tiny_folder), text="x", n=8))
        await until(lambda: client.stats().get("asked") == 1)
        process = client._child._process
        await client.aclose()
        assert process.returncode is not None
        with pytest.raises(WorldError, match="ended while it was answering"):
            await asked
        with pytest.raises(WorldError, match="shutting down"):
            await ask(client, model=tiny(tiny_folder), text="x")

    runner.run(close())
