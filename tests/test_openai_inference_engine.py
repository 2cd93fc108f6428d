"""The three inference APIs on a real (tiny, random) model in the real engine process."""

import contextlib
import json

import openai
import pytest
from pydantic import BaseModel

from live_server import running, services_in
from tunestone.api.inference.client import EngineClient
from tunestone.api.openai import ROUTES, render_error
from tunestone.jobs.settings import ServerSettings

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def client(tiny_folder, tmp_path_factory):
    engine = EngineClient(ServerSettings(engine_threads=1))

    @contextlib.asynccontextmanager
    async def life():
        yield
        await engine.aclose()

    names = {"tiny": {"source": str(tiny_folder)}}
    services = services_in(tmp_path_factory.mktemp("data"), engine=engine, base_models=names)
    with running(services, ROUTES, {"openai": render_error}, lifespan=life) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client, **more):
    return client.chat.completions.create(
        **{"model": "tiny", "messages": HELLO, "max_tokens": 12, **more}
    )


def test_the_same_seed_the_same_answer_whole_or_streamed(client):
    first = ask(client, seed=7, n=2)
    again = ask(client, seed=7, n=2)
    other = ask(client, seed=8, n=2)
    texts = [[choice.message.content for choice in one.choices] for one in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]
    streamed = {0: "", 1: ""}
    for chunk in ask(client, seed=7, n=2, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert [streamed[0], streamed[1]] == texts[0]
    assert first.usage.prompt_tokens == len("hello") + 3
    assert first.choices[0].finish_reason in {"length", "stop"}


def test_greedy_logprobs_are_those_of_the_likeliest(client):
    answer = ask(client, temperature=0, logprobs=True, top_logprobs=3)
    for token in answer.choices[0].logprobs.content:
        assert token.logprob == token.top_logprobs[0].logprob
        assert token.logprob >= token.top_logprobs[1].logprob >= token.top_logprobs[2].logprob
        assert bytes(token.bytes)


class Answer(BaseModel):
    """Every value has an end, for a random model rarely comes to one."""

    yes: bool


def test_a_schema_is_enforced_on_a_model_that_knows_none(client):
    # A model of random weights likes blanks, of which JSON allows 16 in each of five places.
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 150, "seed": 1}
    parsed = client.chat.completions.parse(**asked, response_format=Answer)
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    response = client.responses.parse(
        model="tiny", input="hello", text_format=Answer, max_output_tokens=150
    )
    assert isinstance(response.output_parsed, Answer)


def test_a_required_tool_is_called_by_a_model_that_knows_none(client):
    parameters = Answer.model_json_schema() | {"additionalProperties": False}
    function = {"name": "say", "parameters": parameters}
    answer = ask(
        client,
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "say"}},
        max_tokens=150,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "say"
    assert set(json.loads(call.function.arguments)) == {"yes"}
    assert answer.choices[0].finish_reason == "tool_calls"


def test_a_schema_that_is_none_is_refused(client):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, response_format=form)
    assert caught.value.code == "grammar_error"


def test_a_prompt_too_long_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=[{"role": "user", "content": "x" * 2000}])
    assert caught.value.code == "context_length_exceeded"


def test_a_text_goes_on_and_is_echoed_with_its_scores(client):
    answer = client.completions.create(
        model="tiny", prompt=["ab", "abc"], max_tokens=3, temperature=0, echo=True, logprobs=1
    )
    for prompt, choice in zip(["ab", "abc"], answer.choices, strict=True):
        assert choice.text.startswith(prompt)
        assert choice.logprobs.tokens[: len(prompt)] == list(prompt)
        assert choice.logprobs.token_logprobs[0] is None
        assert all(score <= 0 for score in choice.logprobs.token_logprobs[1:])


def test_a_response_streams_to_its_end(client):
    events = list(
        client.responses.create(model="tiny", input="hi", max_output_tokens=5, stream=True)
    )
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].type in {"response.completed", "response.incomplete"}
    assert events[-1].response.output_text == text
    assert client.responses.retrieve(events[-1].response.id).output_text == text


def test_who_hangs_up_leaves_the_engine_to_others(client):
    stream = ask(client, stream=True, max_tokens=900)
    next(iter(stream))
    stream.close()
    assert ask(client, max_tokens=2).usage.completion_tokens <= 2
