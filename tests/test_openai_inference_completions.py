"""Legacy completions through the real openai client: whole and streaming."""

from collections.abc import AsyncIterator

import openai
import pytest

from live_server import running, services_in
from tunestone.api.openai import ROUTES, render_error
from tunestone.errors import RequestError
from tunestone.generation import (
    Delta,
    Ended,
    GenerationEvent,
    GenerationRequest,
    Started,
    TokenChance,
    TokenLogprob,
)


def _scored(text: str, logprob: float) -> TokenLogprob:
    chance = TokenChance(text, logprob, tuple(text.encode()))
    return TokenLogprob(chance, (chance, TokenChance("?", -9.0)))


class Repeater:
    """Says the text twice; each token of answer i has a log-probability of -i."""

    def __init__(self) -> None:
        self.asked: list[GenerationRequest] = []

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        self.asked.append(request)
        if request.text == "bad":
            raise RequestError("The prompt is bad.")
        assert request.text is not None
        tokens = request.text.replace(" ", "\n ").split("\n")
        echoed = (None, *(_scored(token, -0.5) for token in tokens[1:])) if request.echo else ()
        yield Started(request.id, len(tokens), echoed)
        for index in range(request.n):
            shown = (tokens * 2)[: request.max_tokens]
            for token in shown:
                scores = () if request.logprobs is None else (_scored(token, -1.0 * index),)
                yield Delta(request.id, index, token, 1, scores)
            yield Ended(request.id, index, "length" if len(shown) < 4 else "stop", len(shown))


@pytest.fixture(scope="module")
def engine():
    return Repeater()


@pytest.fixture(scope="module")
def client(engine, tmp_path_factory):
    services = services_in(tmp_path_factory.mktemp("data"), engine=engine)
    with running(services, ROUTES, {"openai": render_error}) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client, prompt="ab cd", **more):
    return client.completions.create(model="smollm2-135m", prompt=prompt, **more)


def test_a_whole_text(client, engine):
    answer = ask(client, max_tokens=3, temperature=0.5, stop="x", seed=4, user="me")
    assert (answer.object, answer.model) == ("text_completion", "smollm2-135m")
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, "ab cdab", "length")
    assert choice.logprobs is None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 3)
    asked = engine.asked[-1]
    assert (asked.text, asked.messages) == ("ab cd", ())
    assert (asked.temperature, asked.stop, asked.seed) == (0.5, ("x",), 4)


def test_sixteen_tokens_are_the_default(client, engine):
    ask(client)
    assert engine.asked[-1].max_tokens == 16


def test_several_prompts_and_answers_are_numbered_in_order(client):
    answer = ask(client, ["a b", "c d"], n=2, max_tokens=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "a b"),
        (1, "a b"),
        (2, "c d"),
        (3, "c d"),
    ]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 8)


def test_a_stream_of_several(client):
    texts, reasons, usage = {}, {}, None
    chunks = ask(client, ["a b", "c d"], n=2, stream=True, stream_options={"include_usage": True})
    for chunk in chunks:
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == {0: "a ba b", 1: "a ba b", 2: "c dc d", 3: "c dc d"}
    assert reasons == dict.fromkeys(range(4), "stop")
    assert (usage.prompt_tokens, usage.completion_tokens) == (4, 16)


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs(client, engine, stream):
    answer = ask(client, echo=True, logprobs=2, max_tokens=2, stream=stream)
    found = {"tokens": [], "token_logprobs": [], "text_offset": [], "top_logprobs": []}
    text = ""
    for one in answer if stream else [answer]:
        (choice,) = one.choices
        text += choice.text
        for key, values in found.items():
            values += getattr(choice.logprobs, key) if choice.logprobs else []
    assert text == "ab cdab cd"
    assert found["tokens"] == ["ab", " cd", "ab", " cd"]
    assert found["token_logprobs"] == [None, -0.5, 0.0, 0.0]
    assert found["text_offset"] == [0, 2, 5, 7]
    assert found["top_logprobs"][0] is None
    assert found["top_logprobs"][1] == {" cd": -0.5, "?": -9.0}
    assert engine.asked[-1].echo


def test_scoring_a_text_draws_nothing(client):
    answer = ask(client, echo=True, logprobs=1, max_tokens=0)
    assert answer.choices[0].text == "ab cd"
    assert answer.choices[0].logprobs.token_logprobs == [None, -0.5]
    assert answer.usage.completion_tokens == 0


def test_the_best_of_several_comes_first(client, engine):
    answer = ask(client, n=2, best_of=3, logprobs=1, max_tokens=1)
    assert engine.asked[-1].n == 3
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [choice.logprobs.token_logprobs for choice in answer.choices] == [[0.0], [-1.0]]
    assert answer.usage.completion_tokens == 3  # what was drawn, not only what is shown


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"prompt": [1, 2]}, "prompt", "Unsupported parameter: 'prompt' is not supported"),
        ({"prompt": {"a": 1}}, "prompt", "Invalid type for 'prompt': expected a string or an"),
        ({"prompt": []}, "prompt", "Invalid 'prompt': expected 1 to 128 texts, but got 0."),
        ({"prompt": None}, "prompt", "Missing required parameter: 'prompt'."),
        ({"suffix": "x"}, "suffix", "Unsupported parameter: 'suffix' is not supported"),
        ({"n": 3, "best_of": 2}, "best_of", "'best_of' must not be less than 'n'."),
        ({"best_of": 2, "stream": True}, "best_of", "'best_of' cannot choose while it streams"),
        ({"logprobs": 6}, "logprobs", "Invalid 'logprobs': integer above maximum value."),
        ({"stream_options": {}}, "stream_options", "The 'stream_options' parameter is only"),
        ({"messages": []}, None, "Unrecognized request argument supplied: messages"),
    ],
)
def test_what_is_refused(client, body, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, extra_body=body)
    assert caught.value.body["message"].startswith(message)
    assert caught.value.param == param


@pytest.mark.parametrize("stream", [False, True])
def test_one_bad_prompt_refuses_all(client, stream):
    with pytest.raises(openai.BadRequestError, match="The prompt is bad"):
        ask(client, ["bad", "ab"], stream=stream)
