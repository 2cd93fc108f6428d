"""Model sources and the policy: what is refused, and what is shared."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from tiny import tiny_tokenizer, write_tiny_model
from tunestone.core.model import BaseModel, Policy, load_base, with_adapter
from tunestone.engine.prompts import encode_request
from tunestone.errors import ModelError
from tunestone.generation import GenerationRequest, ModelRef
from tunestone.types import Prompt


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could not be loaded"):
        load_base(str(tmp_path))


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template") as caught:
        load_base(str(folder))
    assert "instruct" in caught.value.remedy


CALLING_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{% for key, value in call.function.arguments.items() %}[{{ key }}={{ value }}]{% endfor %}"
    "{% endfor %}{% endfor %}{{ tools | length }}<assistant>"
)
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
DIALOG = (
    {"role": "developer", "content": "Count."},
    {"role": "user", "content": "2 + 2?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "4"},
)


def test_a_prompt_is_the_same_tokens_in_training_and_when_it_is_asked(
    tiny_base: BaseModel,
) -> None:
    """Templates walk over the arguments of calls, which OpenAI's clients send as JSON text."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CALLING_TEMPLATE
    base = replace(tiny_base, tokenizer=tokenizer)
    trained = base.encode(Prompt(id="1", messages=DIALOG, tools=(ADD,)))
    said = "<system>Count.<user>2 + 2?<assistant>[a=2]<tool>41<assistant>"
    assert tokenizer.decode(trained) == said
    request = GenerationRequest("1", ModelRef("tiny"), messages=DIALOG, tools=(ADD,))
    assert encode_request(tokenizer, request).tokens == trained


def test_the_view_shares_all_parameters(tiny_base: BaseModel) -> None:
    policy = Policy(tiny_base, lora_rank=4)
    embedding = policy.network.get_base_model().get_input_embeddings().weight
    view = policy.view.get_input_embeddings().weight
    assert view.data_ptr() == embedding.data_ptr()
    assert sum(p.requires_grad for p in policy.view.parameters()) == len(policy.trainable)


def test_the_sampling_view_follows_the_weights(tiny_base: BaseModel) -> None:
    policy = Policy(tiny_base, lora_rank=4)
    tokens = torch.tensor([[5, 6, 7, 8]])
    before = policy.view(tokens).logits
    with torch.no_grad():
        for name, parameter in policy.trainable.items():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    policy.refresh()
    after = policy.view(tokens).logits
    torch.testing.assert_close(after, policy.network(tokens).logits, rtol=1e-4, atol=1e-4)
    assert not after.allclose(before, atol=1e-2)
    with policy.reference() as network:
        torch.testing.assert_close(network(tokens).logits, before, rtol=1e-5, atol=1e-5)


def test_a_saved_adapter_is_standard_peft(tiny_base: BaseModel, tmp_path: Path) -> None:
    """Others load it with peft alone, and get what we sample from."""
    policy = Policy(tiny_base, lora_rank=4)
    with torch.no_grad():
        for parameter in policy.trainable.values():
            parameter.add_(0.05)
    policy.refresh()
    policy.save(tmp_path / "adapter")
    tokens = torch.tensor([[5, 6, 7, 8]])
    ours = policy.view(tokens).logits
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(theirs(tokens).logits, ours, rtol=1e-4, atol=1e-4)
    merged = with_adapter(load_base(tiny_base.location), tmp_path / "adapter")
    torch.testing.assert_close(merged.network(tokens).logits, ours, rtol=1e-4, atol=1e-4)


def test_weights_of_another_rank_are_refused(tiny_folder: Path) -> None:
    small, full = (Policy(load_base(str(tiny_folder)), lora_rank=rank) for rank in (4, 0))
    with pytest.raises(ModelError, match="another model or LoRA rank"):
        full.load_weights(small.weights())
