"""Completions held to a grammar: both samplers draw only what it allows."""

import json

import jsonschema
import pytest
import torch

from tunestone.config import TrainConfig
from tunestone.core.constraint import answer_grammar
from tunestone.core.prepare import template_variables
from tunestone.core.rows_sampler import RowsSampler
from tunestone.core.sampler import Sampler, SamplingParams
from tunestone.errors import GrammarError

SCHEMA = {
    "type": "object",
    "properties": {"good": {"type": "boolean"}, "digit": {"enum": [1, 2, 3]}},
    "required": ["good", "digit"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}}
PROMPTS = [[60, 61, 62], [60, 61, 70, 71]]


def params(temperature=1.0, response_format=FORMAT, max_tokens=250):
    grammar = answer_grammar(response_format)
    return SamplingParams(max_tokens=max_tokens, temperature=temperature, grammar=grammar)


@pytest.mark.parametrize("kind", [Sampler, RowsSampler])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_answer_is_json_of_the_schema(tiny_base, kind, temperature):
    sampler = kind(tiny_base.network, tiny_base)
    groups = sampler.sample(PROMPTS, 4, params(temperature), seed=(3,))
    completions = [completion for group in groups for completion in group]
    for completion in completions:
        assert completion.finish_reason == "stop", completion.text
        jsonschema.validate(json.loads(completion.text), SCHEMA)
    if temperature:
        assert len({completion.text for completion in completions}) > 1


def test_without_a_grammar_the_same_model_writes_no_json(tiny_base):
    """Else the test above would show nothing."""
    sampler = Sampler(tiny_base.network, tiny_base)
    [[completion]] = sampler.sample([PROMPTS[0]], 1, params(0.0, {"type": "text"}))
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(completion.text)


def test_log_probabilities_stay_those_of_the_whole_vocabulary(tiny_base):
    """A forced token is certain under the grammar and anything but certain under the policy."""
    sampler = Sampler(tiny_base.network, tiny_base)
    [[completion]] = sampler.sample([PROMPTS[0]], 1, params())
    row = torch.tensor([[*PROMPTS[0], *completion.tokens]])
    with torch.inference_mode():
        logits = tiny_base.network(row).logits[0, len(PROMPTS[0]) - 1 : -1]
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion.tokens)[:, None])[:, 0]
    assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=1e-4)
    assert completion.logprobs[0] < -0.1  # "{" was the only choice


def test_the_two_samplers_agree_on_the_greedy_answer(tiny_base):
    ours, plain = (
        kind(tiny_base.network, tiny_base).sample(PROMPTS, 1, params(0.0))
        for kind in (Sampler, RowsSampler)
    )
    assert [group[0].tokens for group in ours] == [group[0].tokens for group in plain]


def test_a_schema_that_cannot_be_enforced_is_refused(tiny_base):
    broken = {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}
    sampler = Sampler(tiny_base.network, tiny_base)
    with pytest.raises(GrammarError, match="cannot be used"):
        sampler.sample([PROMPTS[0]], 1, params(1.0, broken))


def test_what_the_chat_template_is_told():
    assert template_variables(TrainConfig()) == {}
    assert template_variables(TrainConfig(reasoning_effort="low")) == {
        "reasoning_effort": "low",
        "enable_thinking": True,
    }
    assert template_variables(TrainConfig(response_format=FORMAT)) == {"enable_thinking": False}


def test_a_prompt_is_encoded_with_what_the_template_is_told(tiny_base):
    import dataclasses

    from tunestone.types import Prompt

    prompt = Prompt(id="a", messages=({"role": "user", "content": "Hi"},))
    tokenizer = type(tiny_base.tokenizer).from_pretrained(tiny_base.location)
    tokenizer.chat_template += "{{ reasoning_effort or '' }}"
    base = dataclasses.replace(tiny_base, tokenizer=tokenizer)
    low = base.encode(prompt, {"reasoning_effort": "low"})
    assert tokenizer.decode(low) == tokenizer.decode(base.encode(prompt)) + "low"


def test_a_schema_with_null_is_kept_whole_as_text():
    nullable = {"type": "json_schema", "json_schema": {"schema": {"enum": [None, 1]}}}
    config = TrainConfig(response_format=json.dumps(nullable))
    assert config.response_format == nullable
