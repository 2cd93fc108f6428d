"""What one can ask of the engine, how answers end, and what is refused."""

import dataclasses
import json
import re
import shutil

import jsonschema
import pytest
import torch

from engine_steps import Engine, tiny, write_adapter
from tiny import write_tiny_model
from tunestone.core.model import load_base
from tunestone.core.sampler import truncate
from tunestone.engine.drawing import narrow

WARM = {"max_tokens": 24, "temperature": 0.9, "logprobs": 0}


@pytest.fixture(scope="module")
def engine(tiny_folder):
    """Shared: what one request leaves behind must not matter to the next."""
    return Engine()


def byte_rows(told):
    return {i: [x.token.bytes for x in drawn] for i, drawn in told.logprobs.items()}


# --- seeds and company ----------------------------------------------------------------------


def test_an_answer_does_not_depend_on_who_else_is_answered(engine, tiny_folder):
    asked = {"model": tiny(tiny_folder), "text": "say", "n": 3, "seed": 5, **WARM}
    alone = byte_rows(engine.ask(**asked))
    assert len({tuple(row) for row in alone.values()}) == 3
    company = [
        engine.submit(id=f"c{i}", model=tiny(tiny_folder), text="x" * (9 + i), seed=i, **WARM)
        for i in range(4)
    ]
    engine.step(7)
    name = engine.submit(id="late", **asked, top_k=0)
    told = engine.finish()
    assert byte_rows(told[name]) == alone
    assert all(told[other].ended for other in company)
    other_seed = engine.ask(**{**asked, "seed": 6})
    assert all(byte_rows(other_seed)[i] != alone[i] for i in range(3))


def test_a_single_answer_is_the_first_of_many_and_negative_seeds_are_seeds(engine, tiny_folder):
    asked = {"model": tiny(tiny_folder), "text": "say", "seed": -3, **WARM}
    many, one = engine.ask(**asked, n=4), engine.ask(**asked)
    assert byte_rows(one)[0] == byte_rows(many)[0]


def test_without_a_seed_answers_differ(engine, tiny_folder):
    asked = {"model": tiny(tiny_folder), "text": "say", **WARM}
    assert byte_rows(engine.ask(**asked)) != byte_rows(engine.ask(**asked))


@pytest.mark.parametrize(
    ("spread", "top_k", "top_p"),
    [(3.0, 0, 0.9), (3.0, 40, 0.8), (3.0, 40, 1.0), (3.0, 1500, 0.9), (0.1, 0, 0.9), (3.0, 0, 1.0)],
)
def test_narrowing_is_what_a_full_sort_gives(spread, top_k, top_p):
    # A spread of 0.1 is nearly uniform: its best 1024 of 5000 hold less than 0.9.
    generator = torch.Generator().manual_seed(1)
    probabilities = (torch.randn(4, 5000, generator=generator) * spread).softmax(dim=-1)
    expected = truncate(probabilities.clone(), top_k, top_p)
    assert torch.equal(narrow(probabilities, top_k, top_p), expected)
    assert (expected.count_nonzero() < probabilities.numel()) == (top_k > 0 or top_p < 1)


@pytest.mark.parametrize("narrowed", [{"top_k": 1}, {"top_p": 1e-9}, {"top_p": 0.0}])
def test_the_narrowest_choice_is_the_greedy_one(engine, tiny_folder, narrowed):
    asked = {"model": tiny(tiny_folder), "text": "say", "max_tokens": 12, "logprobs": 0}
    greedy = engine.ask(**asked, temperature=0.0)
    assert byte_rows(engine.ask(**asked, temperature=1.5, **narrowed)) == byte_rows(greedy)
    assert byte_rows(engine.ask(**asked, temperature=1e-30)) == byte_rows(greedy)


def test_top_k_draws_from_the_likeliest_only(engine, tiny_folder):
    told = engine.ask(model=tiny(tiny_folder), text="a", max_tokens=60, logprobs=3, top_k=3, seed=1)
    places = [[y.bytes for y in x.top].index(x.token.bytes) for x in told.logprobs[0]]
    assert set(places) == {0, 1, 2}


# --- penalties and biases -------------------------------------------------------------------


def slow_greedy(folder, text, count, *, frequency=0.0, presence=0.0, bias=None):
    """One plain forward per token, penalties by their definition (OpenAI's API reference)."""
    base = load_base(str(folder))
    row, drawn = base.tokenizer(text)["input_ids"], []
    for _ in range(count):
        with torch.no_grad():
            logits = base.network(torch.tensor([row + drawn])).logits[0, -1].tolist()
        for token in range(len(logits)):
            times = drawn.count(token)
            logits[token] -= frequency * times + presence * (times > 0)
            logits[token] += (bias or {}).get(token, 0.0)
        drawn.append(max(range(len(logits)), key=logits.__getitem__))
    return drawn


@pytest.mark.parametrize(
    "settings",
    [
        {"frequency": 1.1},
        {"presence": 0.7},
        {"frequency": -0.5, "presence": 2.0},
        {"bias": {65: 100.0}},
        {"bias": {184: -100.0, 66: 1.5}, "frequency": 0.3},
    ],
)
def test_penalties_and_biases(engine, tiny_folder, settings):
    told = engine.ask(
        model=tiny(tiny_folder),
        text="say",
        max_tokens=16,
        temperature=0.0,
        frequency_penalty=settings.get("frequency", 0.0),
        presence_penalty=settings.get("presence", 0.0),
        logit_bias={str(token): value for token, value in settings.get("bias", {}).items()},
        logprobs=0,
    )
    base = engine.shelf.find(str(tiny_folder))
    expected = slow_greedy(tiny_folder, "say", 16, **settings)
    assert expected != slow_greedy(tiny_folder, "say", 16)
    assert [bytes(x.token.bytes) for x in told.logprobs[0]] == [
        base.token_bytes.of(token) for token in expected
    ]


# --- how answers end ------------------------------------------------------------------------


def test_a_stop_string_ends_an_answer_and_is_never_shown(engine, tiny_folder):
    # With these biases the model writes letters a and b only.
    asked = {
        "model": tiny(tiny_folder),
        "text": "x",
        "logit_bias": {"64": 60.0, "65": 60.0},
        "max_tokens": 60,
        "temperature": 2.0,
        "seed": 2,
        "logprobs": 0,
    }
    whole = engine.ask(**asked)
    assert set(whole.texts[0]) == {"a", "b"}
    text = whole.texts[0]
    cut = next(i for i in range(4, 50) if text.find(text[i : i + 5]) == i)
    stop = text[cut : cut + 5]
    told = engine.ask(**asked, stop=("zzz", stop, "a" * 50))
    assert told.texts[0] == whole.texts[0][:cut]
    ended = told.ended[0]
    assert (ended.reason, ended.stop_string, ended.tokens) == ("stop_string", stop, cut + 5)
    assert len(told.logprobs[0]) == cut  # those of the stop string are not told
    assert len(told.deltas[0]) > 1


def test_an_end_token_ends_an_answer_and_is_counted(tiny_folder):
    engine = Engine()
    whole = engine.ask(model=tiny(tiny_folder), text="x", seed=1, **WARM)
    loaded = engine.shelf.find(str(tiny_folder))
    end = loaded.base.tokenizer.convert_tokens_to_ids(
        next(
            loaded.base.tokenizer.convert_ids_to_tokens(t)
            for t in range(256)
            if loaded.token_bytes.of(t) == bytes(whole.logprobs[0][6].token.bytes)
        )
    )
    first = [x.token.bytes for x in whole.logprobs[0]].index(whole.logprobs[0][6].token.bytes)
    loaded.base = dataclasses.replace(loaded.base, end_tokens=frozenset([end]))
    told = engine.ask(model=tiny(tiny_folder), text="x", seed=1, **WARM)
    assert (told.ended[0].reason, told.ended[0].tokens) == ("stop", first + 1)
    assert len(told.logprobs[0]) == first


def test_without_max_tokens_the_positions_end_the_answer(engine, tiny_folder):
    told = engine.ask(model=tiny(tiny_folder), text="x" * 1000, temperature=0.0)
    assert (told.ended[0].reason, told.ended[0].tokens) == ("length", 24)  # of 1024 positions


# --- grammars -------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_random_weights_write_json_of_the_schema(engine, tiny_folder, temperature):
    told = engine.ask(
        model=tiny(tiny_folder),
        text="x",
        n=8,
        max_tokens=400,
        temperature=temperature,
        seed=3,
        grammar={"type": "json_schema", "schema": SCHEMA},
    )
    assert len(told.ended) == 8
    for index in range(8):
        jsonschema.validate(json.loads(told.texts[index]), SCHEMA)
        assert told.ended[index].reason == "stop"


def test_other_grammars(engine, tiny_folder):
    asked = {"model": tiny(tiny_folder), "text": "x", "max_tokens": 200, "seed": 3, "n": 4}
    told = engine.ask(**asked, grammar={"type": "regex", "regex": r"[a-c]{2,5}-\d\d"})
    assert all(re.fullmatch(r"[a-c]{2,5}-\d\d", text) for text in told.texts.values())
    lark = 'start: "yes" | "no" " " WHY\nWHY: /[xyz]{3}/'
    told = engine.ask(**asked, grammar={"type": "lark", "lark": lark})
    assert all(re.fullmatch(r"yes|no [xyz]{3}", text) for text in told.texts.values())
    assert len(told.texts) == 4


def test_a_json_object_is_one_or_its_beginning(engine, tiny_folder):
    told = engine.ask(
        model=tiny(tiny_folder),
        text="x",
        n=16,
        max_tokens=80,
        seed=1,
        grammar={"type": "json_object"},
    )
    ended = [i for i, end in told.ended.items() if end.reason == "stop"]
    assert ended
    assert all(isinstance(json.loads(told.texts[i]), dict) for i in ended)
    assert all(text.startswith("{") for text in told.texts.values())
    for i, end in told.ended.items():
        assert i in ended or (end.reason, end.tokens) == ("length", 80)


def test_a_grammar_leaves_the_shown_chances_alone(engine, tiny_folder):
    asked = {"model": tiny(tiny_folder), "text": "x", "max_tokens": 1, "logprobs": 5}
    free = engine.ask(**asked, temperature=0.0).logprobs[0][0]
    bound = engine.ask(**asked, grammar={"type": "regex", "regex": "Q"}).logprobs[0][0]
    assert bound.top == free.top
    assert bound.token.text == "Q"
    assert bound.token.logprob < free.top[0].logprob


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ({"type": "json_schema", "schema": {"type": "objekt"}}, "Invalid type: objekt"),
        ({"type": "json_schema", "schema": {"not": {"type": "string"}}}, 'keys: ["not"]'),
        ({"type": "json_schema"}, "There is no grammar in"),
        ({"type": "regex", "regex": "(ab"}, "unclosed group"),
        ({"type": "lark", "lark": "start: foo"}, 'unknown name: "foo"'),
        ({"type": "yaml"}, "Types are json_object"),
        ({"type": "json_schema", "schema": {"minimum": 10**30}}, "not JSON serializable"),
    ],
)
def test_a_grammar_that_is_none_is_refused_with_the_reason(engine, tiny_folder, grammar, reason):
    told = engine.ask(model=tiny(tiny_folder), text="x", grammar=grammar)
    assert told.failed.code == "grammar_error"
    assert reason in told.failed.message
    assert told.started is None


def test_a_grammar_that_would_never_be_compiled_is_refused_and_nobody_waits_for_it(
    engine, tiny_folder
):
    schema = {"type": "integer", "multipleOf": 99_999_989}
    bomb = engine.submit(
        id="bomb",
        model=tiny(tiny_folder),
        text="x",
        grammar={"type": "json_schema", "schema": schema},
    )
    beside = engine.ask_beside(model=tiny(tiny_folder), text="x", max_tokens=3)
    assert beside.ended[0].tokens == 3
    assert engine.told[bomb].failed is None  # it is still being tried
    told = engine.finish()[bomb]
    assert told.failed.code == "grammar_error"
    assert "too complex: it takes more than 2 seconds" in told.failed.message


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"n": 0}, "request_error", "n is 0; this server draws 1 to 64 answers at a time."),
        ({"n": 65}, "request_error", "n is 65; this server draws 1 to 64"),
        ({"max_tokens": -1}, "request_error", "max_tokens is -1"),
        ({"temperature": -0.1}, "request_error", "temperature is -0.1"),
        ({"temperature": float("nan")}, "request_error", "temperature is nan"),
        ({"top_p": 1.2}, "request_error", "top_p is 1.2"),
        ({"top_k": -1}, "request_error", "top_k is -1"),
        ({"logprobs": 21}, "request_error", "logprobs is 21; it must be 0 to 20."),
        ({"logit_bias": {"yes": 1.0}}, "request_error", "logit_bias has a key that is no token"),
        ({"logit_bias": {"264": 1.0}}, "request_error", "names token 264; the model has 264"),
        ({"logit_bias": {"3": float("inf")}}, "request_error", "is no finite number"),
        ({"text": ""}, "request_error", "The prompt is empty."),
        ({"text": None}, "request_error", "There are no messages."),
        (
            {"max_tokens": 1024},
            "context_length_exceeded",
            "This model's maximum context length is 1024 tokens. However, you requested 1025 "
            "tokens (1 in the messages, 1024 in the completion).",
        ),
        ({"text": "x" * 1024}, "context_length_exceeded", "1024 in the messages, at least 1 in"),
        (
            {"text": None, "messages": ({"role": "user"},), "template": {"tokenize": True}},
            "request_error",
            "variable 'tokenize' cannot be set",
        ),
        (
            {
                "text": None,
                "messages": ({"role": "user", "content": [{"type": "image_url"}]},),
            },
            "request_error",
            "A message holds 'image_url'; only text can be read here.",
        ),
        ({"text": None, "messages": ({"content": "x"},)}, "request_error", "has no role"),
        (
            {"text": "x" * (1024 * len("<|assistant|>") + 1)},
            "context_length_exceeded",
            "13,313 characters cannot fit",
        ),
        (
            {"text": None, "messages": ({"role": "user", "content": "x" * 20_000},)},
            "context_length_exceeded",
            "characters cannot fit",
        ),
        (
            {"text": None, "messages": ({"role": "user", "content": ""},) * 1025},
            "context_length_exceeded",
            "1,025 messages cannot fit",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(engine, tiny_folder, fields, code, message):
    told = engine.ask(**{"model": tiny(tiny_folder), "text": "x", **fields})
    assert (told.failed.code, message in told.failed.message) == (code, True), told.failed
    assert told.started is None


def test_a_template_that_refuses_is_the_requests_fault(tmp_path):
    folder = write_tiny_model(tmp_path)
    template = "{{ raise_exception('Roles must alternate') }}"
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    engine = Engine()
    engine.ask(model=tiny(folder), text="x", max_tokens=1)
    engine.shelf.find(str(folder)).base.tokenizer.chat_template = template
    told = engine.ask(model=tiny(folder), messages=({"role": "user", "content": "x"},))
    assert told.failed.code == "request_error"
    assert "refuses these messages: Roles must alternate." in told.failed.message


def test_more_memory_than_there_is_is_refused_and_less_is_waited_for(tiny_folder):
    # A token takes 2 layers x 2 heads x 8 numbers x 4 bytes x 2 = 256 bytes; a row of up to 64
    # tokens 16 KiB, and its prompt of one token 256 bytes.
    engine = Engine(cache_bytes=40_000)
    told = engine.ask(model=tiny(tiny_folder), text="x", max_tokens=500)
    assert told.failed.code == "request_error"
    assert "up to 501 tokens with their prompt need" in told.failed.message
    for i in range(5):
        engine.submit(id=f"{i}", model=tiny(tiny_folder), text="x", max_tokens=20, seed=i)
    engine.step()
    assert (engine.scheduler.stats()["running"], engine.scheduler.stats()["waiting"]) == (2, 3)
    assert engine.scheduler.stats()["cache_bytes"] == 2 * 65 * 256
    assert all(engine.finish()[f"{i}"].ended[0] for i in range(5))


def test_rows_are_limited_and_questions_keep_their_order(tiny_folder):
    engine = Engine(rows=4)
    engine.ask(model=tiny(tiny_folder), text="x", max_tokens=1)
    for name, n in {"a": 3, "b": 2, "c": 1}.items():
        engine.submit(id=name, model=tiny(tiny_folder), text="x", max_tokens=9, n=n)
    engine.step()
    # c would fit, but it may not overtake b, which could wait for ever.
    assert [engine.told[name].started is not None for name in "abc"] == [True, False, False]
    assert set(engine.finish()["c"].ended) == {0}


# --- models -------------------------------------------------------------------------------


def test_cancelling_frees_the_place_of_a_request(engine, tiny_folder):
    asked = {"model": tiny(tiny_folder), "text": "x", "max_tokens": 900}
    asked["logit_bias"] = {"256": -100.0}  # no end token
    kept = engine.submit(id="kept", **asked, seed=1, logprobs=0)
    gone = engine.submit(id="gone", **asked, n=3)
    engine.step(5)
    engine.scheduler.cancel(gone)
    before = len(engine.told[gone].deltas[0])
    engine.step(5)
    assert (engine.scheduler.stats()["rows"], len(engine.told[gone].deltas[0])) == (1, before)
    engine.scheduler.cancel(kept)
    stats = engine.scheduler.stats()
    assert (stats["rows"], stats["running"], stats["cache_bytes"]) == (0, 0, 0)
    engine.scheduler.cancel("nobody")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "There is no adapter in"),
        (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 40), "cannot be read"),
        (lambda f: edit(f, peft_type="IA3"), "does not describe a LoRA adapter"),
        (lambda f: edit(f, use_dora=True), "uses use_dora, which cannot be swapped in"),
        (lambda f: edit(f, bias="all"), "uses bias, which cannot be swapped in"),
        (lambda f: edit(f, init_lora_weights="pissa"), "uses init_lora_weights = 'pissa'"),
        (lambda f: edit(f, lora_alpha=None), "has no lora_alpha"),
    ],
)
def test_a_broken_adapter_fails_its_request_alone(engine, tiny_folder, tmp_path, damage, message):
    folder = write_adapter(tiny_folder, tmp_path / "adapter", seed=3)
    damage(folder)
    asked = {"text": "x", "max_tokens": 9, "temperature": 0.0}
    other = engine.submit(id=f"{tmp_path}", model=tiny(tiny_folder), **asked)
    told = engine.ask(model=tiny(tiny_folder, folder), **asked)
    assert told.failed.code == "model_error"
    assert message in told.failed.message
    assert engine.told[other].ended[0].reason == "length"


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_an_adapter_of_another_model_is_refused(engine, tiny_folder, tmp_path):
    other = write_tiny_model(tmp_path / "base", architecture="gpt2")
    folder = write_adapter(other, tmp_path / "adapter", seed=1, fan_in_fan_out=True)
    told = engine.ask(model=tiny(tiny_folder, folder), text="x")
    assert told.failed.code == "model_error"
    assert "belongs to another model: there is no layer 'transformer.h.0." in told.failed.message


def test_an_adapter_that_is_written_anew_is_read_anew(engine, tiny_folder, tmp_path):
    asked = {"text": "x", "max_tokens": 9, "temperature": 0.0}
    texts = []
    for seed in (1, 2):
        folder = write_adapter(tiny_folder, tmp_path / "adapter", seed=seed)
        texts.append(engine.ask(model=tiny(tiny_folder, folder), **asked).texts[0])
    assert texts[0] != texts[1]


def test_the_longest_unused_make_room(tmp_path):
    folders = [write_tiny_model(tmp_path / f"base{i}", seed=i) for i in range(3)]
    adapters = [write_adapter(folders[0], tmp_path / f"a{i}", seed=i) for i in range(3)]
    engine = Engine(models=2, adapters=2)
    asked = {"text": "x", "max_tokens": 9, "temperature": 0.0}
    first = [engine.ask(model=tiny(folder), **asked).texts[0] for folder in folders]
    assert engine.scheduler.stats()["models"] == [str(folders[1]), str(folders[2])]
    again = [engine.ask(model=tiny(folder), **asked).texts[0] for folder in folders]
    assert again == first
    assert len(set(first)) == 3
    endless = {"max_tokens": 900, "logit_bias": {"256": -100.0}}
    engine.submit(id="long", model=tiny(folders[0], adapters[0]), text="x", **endless)
    engine.step(3)
    for adapter in (*adapters, adapters[0]):
        assert engine.ask_beside(model=tiny(folders[0], adapter), **asked).ended
        assert str(adapters[0]) in engine.scheduler.stats()["adapters"]  # in use: it stays
        assert len(engine.scheduler.stats()["adapters"]) <= 2


def test_more_bases_than_places_take_turns(tmp_path):
    folders = [write_tiny_model(tmp_path / f"base{i}", seed=i) for i in range(2)]
    engine = Engine(models=1)
    for i in range(4):
        engine.submit(id=f"{i}", model=tiny(folders[i % 2]), text="x", max_tokens=5)
    told = engine.finish()
    assert all(told[f"{i}"].ended for i in range(4))
    assert len(engine.scheduler.stats()["models"]) == 1


def test_a_base_that_cannot_be_loaded_fails_all_that_wait_for_it(engine, tmp_path):
    for name in ("x1", "x2"):
        engine.submit(id=name, model=tiny(tmp_path / "nowhere"), text="x")
    told = engine.finish()
    for name in ("x1", "x2"):
        assert told[name].failed.code == "model_error"
        assert "There is no model folder" in told[name].failed.message


def test_a_forward_that_fails_loses_its_answers_but_not_the_engine(tiny_folder):
    engine = Engine()
    engine.ask(model=tiny(tiny_folder), text="x", max_tokens=1)
    network = engine.shelf.find(str(tiny_folder)).base.network
    engine.submit(id="lost", model=tiny(tiny_folder), text="x", max_tokens=90, n=2)
    engine.step(3)

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = network.register_forward_pre_hook(fail)
    engine.step()
    hook.remove()
    assert engine.told["lost"].failed.code == "internal_error"
    assert engine.told["lost"].failed.message == "RuntimeError: out of memory"
    assert engine.scheduler.stats()["rows"] == 0
    told = engine.ask(model=tiny(tiny_folder), text="x", max_tokens=9, temperature=0.0)
    assert told.ended[0].tokens == 9
