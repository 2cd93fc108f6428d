"""What the engine draws, against transformers' `generate`: alone, together, with adapters."""

import dataclasses

import pytest
import torch
from peft import PeftModel

from engine_steps import Engine, tiny, write_adapter
from steps import row_logprobs
from tiny import write_tiny_model
from tunestone.core.model import load_base
from tunestone.engine.adapters import read_adapter
from tunestone.engine.decoder import PackedDecoder, Piece, PlainDecoder
from tunestone.engine.text import TokenBytes

LONG = "the quick brown fox jumps over the lazy dog; " * 8  # 360 tokens: read in two pieces


@pytest.fixture(scope="module")
def adapters(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [
        write_adapter(tiny_folder, folder / "a", seed=1),
        write_adapter(tiny_folder, folder / "b", seed=2, r=3, lora_alpha=5, use_rslora=True),
    ]


def generated(folder, text, max_tokens, *, adapter=None):
    """Tokens that transformers and PEFT draw greedily, and their log-probabilities."""
    base = load_base(str(folder))
    network = base.network
    if adapter:
        network = PeftModel.from_pretrained(network, adapter).eval()
    prompt = base.tokenizer(text)["input_ids"]
    output = network.generate(
        input_ids=torch.tensor([prompt]),
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=sorted(base.end_tokens),
        pad_token_id=base.pad_token,
    )
    tokens = output[0, len(prompt) :].tolist()
    with torch.no_grad():
        return tokens, [float(x) for x in row_logprobs(network, prompt, tokens, 1.0)]


def check(told, folder, text, max_tokens, *, adapter=None, index=0):
    """The answer is token for token what transformers says, with its log-probabilities."""
    assert told.failed is None
    tokens, logprobs = generated(folder, text, max_tokens, adapter=adapter)
    base = load_base(str(folder))
    shown = tokens[:-1] if tokens[-1] in base.end_tokens else tokens
    assert len(set(shown)) > 3  # a model that repeats itself would prove little
    of, drawn = TokenBytes(base.tokenizer), told.logprobs[index]
    assert [bytes(x.token.bytes) for x in drawn] == [of.of(token) for token in shown]
    assert [x.token.logprob for x in drawn] == pytest.approx(logprobs[: len(shown)], abs=1e-4)
    assert told.texts[index] == base.tokenizer.decode(shown, skip_special_tokens=True)
    assert told.ended[index].tokens == len(tokens)
    assert told.ended[index].reason == ("stop" if len(shown) < len(tokens) else "length")
    assert sum(delta.tokens for delta in told.deltas[index]) == len(shown)


GREEDY = {"temperature": 0.0, "logprobs": 0}


@pytest.mark.parametrize("text", ["a", "once upon a time", LONG], ids=["one", "some", "long"])
def test_a_single_answer_equals_generate(tiny_folder, adapters, text):
    # 90 tokens after 1 and 16: rows outgrow the pools of 64; after 360 those of 512 are used.
    engine = Engine()
    for adapter in (None, *adapters):
        told = engine.ask(model=tiny(tiny_folder, adapter), text=text, max_tokens=90, **GREEDY)
        check(told, tiny_folder, text, 90, adapter=adapter)
        assert told.started.prompt_tokens == len(text)


def test_base_and_adapters_together_joined_at_different_times(tiny_folder, adapters):
    engine = Engine()
    asked = {}

    def join(text, adapter, max_tokens, n=1):
        model = tiny(tiny_folder, adapter)
        name = engine.submit(
            id=f"{len(asked)}", model=model, text=text, max_tokens=max_tokens, n=n, **GREEDY
        )
        asked[name] = (text, adapter, max_tokens, n)

    engine.ask(id="first", model=tiny(tiny_folder), text="x", max_tokens=1)  # loads the base
    join("one", None, 100)
    join("two by two", adapters[0], 30)
    engine.step(5)
    join(LONG, adapters[1], 40)
    join("three", adapters[0], 70, n=3)
    engine.step(20)
    join(LONG[:300], None, 25)
    join("four", adapters[1], 9)
    engine.step(3)
    assert engine.scheduler.stats()["rows"] == 8  # all of them at the same time
    told = engine.finish()
    for name, (text, adapter, max_tokens, n) in asked.items():
        for index in range(n):
            check(told[name], tiny_folder, text, max_tokens, adapter=adapter, index=index)
    stats = engine.scheduler.stats()
    assert (stats["rows"], stats["cache_bytes"], len(stats["adapters"])) == (0, 0, 2)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gpt2", "mistral"])
def test_other_models(tmp_path, architecture):
    # Mistral's window of 8 tokens is shorter than the texts: it has to be asked by itself.
    folder = write_tiny_model(tmp_path / "base", architecture=architecture)
    adapter = write_adapter(
        folder, tmp_path / "adapter", seed=1, fan_in_fan_out=architecture == "gpt2"
    )
    engine = Engine()
    for name, (text, which) in {
        "1": ("one of two", None),
        "2": ("something longer than that", adapter),
    }.items():
        engine.submit(id=name, model=tiny(folder, which), text=text, max_tokens=20, n=2, **GREEDY)
    told = engine.finish()
    kind = PlainDecoder if architecture == "mistral" else PackedDecoder
    assert type(engine.shelf.find(str(folder)).decoder) is kind
    for index in range(2):
        check(told["1"], folder, "one of two", 20, index=index)
        check(told["2"], folder, "something longer than that", 20, adapter=adapter, index=index)


def test_other_models_end_their_answers_at_different_times(tmp_path):
    folder = write_tiny_model(tmp_path, architecture="mistral")
    engine = Engine()
    whole = engine.ask(model=tiny(folder), text="x", max_tokens=30, n=4, seed=1, logprobs=0)
    ends = {bytes(whole.logprobs[i][3 * i + 2].token.bytes) for i in range(4)}
    loaded = engine.shelf.find(str(folder))
    ids = frozenset(t for t in range(256) if TokenBytes(loaded.base.tokenizer).of(t) in ends)
    loaded.base = dataclasses.replace(loaded.base, end_tokens=ids)
    cut = engine.ask(model=tiny(folder), text="x", max_tokens=30, n=4, seed=1, logprobs=0)
    assert len({ended.tokens for ended in cut.ended.values()}) > 1
    for i in range(4):
        first = next(t for t, x in enumerate(whole.logprobs[i]) if bytes(x.token.bytes) in ends)
        assert cut.ended[i].tokens == first + 1
        assert cut.ended[i].reason == "stop"
        assert [x.token.bytes for x in cut.logprobs[i]] == [
            x.token.bytes for x in whole.logprobs[i][:first]
        ]


def test_answers_go_on_while_a_long_prompt_is_read(tiny_folder):
    engine = Engine()
    engine.ask(model=tiny(tiny_folder), text="x", max_tokens=1)
    engine.submit(id="1", model=tiny(tiny_folder), text="one", max_tokens=60, temperature=0.0)
    engine.step()
    before = engine.scheduler.stats()["tokens_drawn"]
    engine.submit(id="2", model=tiny(tiny_folder), text="x" * 900, max_tokens=5)
    for step in range(1, 4):  # 900 tokens are read in four pieces
        engine.step()
        assert engine.told["2"].started is None
        assert engine.scheduler.stats()["tokens_drawn"] == before + step
    engine.step()
    assert engine.told["2"].started.prompt_tokens == 900


def test_messages_go_through_the_chat_template_and_a_last_assistant_turn_is_continued(tiny_folder):
    engine = Engine()
    turns = ({"role": "user", "content": "Hello"},)
    told = engine.ask(model=tiny(tiny_folder), messages=turns, max_tokens=20, **GREEDY)
    check(told, tiny_folder, "<|user|>Hello<|end|><|assistant|>", 20)
    assert not told.started.thinking
    turns = (*turns, {"role": "assistant", "content": [{"type": "text", "text": "<think>Well"}]})
    told = engine.ask(model=tiny(tiny_folder), messages=turns, max_tokens=20, **GREEDY)
    check(told, tiny_folder, "<|user|>Hello<|end|><|assistant|><think>Well", 20)
    assert told.started.thinking


def test_echo_tells_how_likely_the_prompt_was(tiny_folder):
    base = load_base(str(tiny_folder))
    tokens = base.tokenizer(LONG)["input_ids"]
    with torch.no_grad():
        expected = [float(x) for x in row_logprobs(base.network, tokens[:1], tokens[1:], 1.0)]
        best = base.network(torch.tensor([tokens])).logits[0].argmax(dim=-1).tolist()
    told = Engine().ask(
        model=tiny(tiny_folder), text=LONG, max_tokens=0, n=2, logprobs=2, echo=True
    )
    first, *others = told.started.prompt_logprobs
    assert first is None
    assert "".join(x.token.text for x in others) == LONG[1:]
    assert [x.token.logprob for x in others] == pytest.approx(expected, abs=1e-4)
    of = TokenBytes(base.tokenizer)
    assert [bytes(x.top[0].bytes) for x in others] == [of.of(token) for token in best[:-1]]
    assert {len(x.top) for x in others} == {2}
    assert [(told.ended[i].tokens, told.ended[i].reason) for i in (0, 1)] == [(0, "length")] * 2
    assert not told.texts


def test_adapters_on_a_base_in_bf16_are_added_as_peft_adds_them(tiny_folder, adapters):
    # On a GPU the base is bf16 and adapters are fp32: both round the sum once.
    base = load_base(str(tiny_folder))
    tokens = base.tokenizer("one upon a time")["input_ids"]
    network = base.network.to(torch.bfloat16)
    decoder = PackedDecoder(base)
    reading = decoder.open(tokens, read_adapter(adapters[0], network), 1)
    (logits,), _ = decoder.forward([Piece(reading, len(tokens), wants_all=True)], [], [])
    plain = decoder.open(tokens, None, 1)
    (before,), _ = decoder.forward([Piece(plain, len(tokens), wants_all=True)], [], [])
    network = PeftModel.from_pretrained(network, adapters[0]).eval()
    with torch.no_grad():
        expected = network(torch.tensor([tokens])).logits[0].float()
    difference = (logits - expected).abs().max()
    assert difference < 0.1 * (before - expected).abs().max()
    assert difference < 0.02 * expected.abs().max()
