"""Which weights a name stands for; reasoning and tool calls told apart while text comes in."""

import json

import llguidance
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_server import services_in
from tunestone.api.inference.calls import CallGate, call_grammar
from tunestone.api.inference.reasoning import ReasoningSplitter
from tunestone.api.inference.targets import resolve_target
from tunestone.errors import ModelNotReadyError, UnknownModelError
from tunestone.jobs.store import now
from tunestone.jobs.tables import Deployment, Job, Model

ARN = "arn:aws:bedrock:us-east-1:123456789012"
TUNED, CHECKPOINT, WHOLE, HALF = "t" * 12, "c" * 12, "w" * 12, "h" * 12


def _model(id: str, **changes) -> Model:
    row = {
        "alias": f"ft:qwen.qwen3-32b:org::{id}",
        "kind": "tuned",
        "name": "mine",
        "job_id": "j" * 12,
        "dialect": "openai",
        "model": "qwen.qwen3-32b",
        "base": "smollm2-135m",
        "adapter": f"jobs/{id}/adapter",
        "status": "active",
        "region": "us-east-1",
        "step": 4,
        "metrics": {},
        "created_at": now(),
    }
    return Model(id=id, **{**row, **changes})


def _deployment(id: str, points_to: str, **changes) -> Deployment:
    row = {"kind": "deployment", "name": id, "status": "Active", "region": "us-east-1"}
    times = {"created_at": now(), "updated_at": now()}
    return Deployment(id=id, model_arn=points_to, request={}, **{**row, **times, **changes})


def _job() -> Job:
    names = ("dialect", "name", "state", "model", "base", "region")
    empty = {"request": {}, "plan": {}, "phases": {}, "progress": {}, "result_files": []}
    times = {"created_at": now(), "updated_at": now()}
    return Job(id="j" * 12, **dict.fromkeys(names, "x"), **empty, **times)


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    services = services_in(tmp_path_factory.mktemp("data"))
    with services.store.session() as session:
        session.add(_job())
        session.flush()
        session.add_all(
            [
                _model(TUNED, model="smollm2-135m", dialect="bedrock"),
                _model(CHECKPOINT, alias="ft:q:org::id:ckpt-step-4", kind="checkpoint"),
                _model(WHOLE, base=f"jobs/{WHOLE}/model", adapter=""),
                _model(HALF, status="creating"),
                _deployment("d" * 12, f"{ARN}:custom-model/smollm2-135m/{TUNED}"),
                _deployment(
                    "p" * 12, "arn:aws:bedrock:us-east-1::foundation-model/x", kind="provisioned"
                ),
                _deployment("n" * 12, f"{ARN}:custom-model/x/{TUNED}", status="Creating"),
                _deployment(
                    "f" * 12, f"{ARN}:custom-model/x/{TUNED}", status="Failed", failure="No"
                ),
                _deployment("l" * 12, f"{ARN}:custom-model-deployment/{'l' * 12}"),
                _deployment("g" * 12, f"{ARN}:custom-model/x/{'0' * 12}"),
            ]
        )
    return services


@pytest.mark.parametrize(
    ("name", "base", "adapter_of"),
    [
        ("smollm2-135m", "smollm2-135m", ""),
        ("amazon.nova-2-lite-v1:0", "amazon.nova-2-lite-v1:0", ""),
        ("us.amazon.nova-2-lite-v1:0", "amazon.nova-2-lite-v1:0", ""),
        (f"{ARN}:inference-profile/us.amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0", ""),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/qwen.qwen3-32b-v1:0",
            "qwen.qwen3-32b-v1:0",
            "",
        ),
        (f"ft:qwen.qwen3-32b:org::{TUNED}", "smollm2-135m", TUNED),
        ("ft:q:org::id:ckpt-step-4", "qwen.qwen3-32b", CHECKPOINT),
        (f"{ARN}:custom-model/smollm2-135m/{TUNED}", "smollm2-135m", TUNED),
        (f"{ARN}:custom-model-deployment/{'d' * 12}", "smollm2-135m", TUNED),
        ("d" * 12, "smollm2-135m", TUNED),
        (f"{ARN}:provisioned-model/{'p' * 12}", "x", ""),
    ],
)
def test_a_name_that_stands_for_weights(services, name, base, adapter_of):
    target = resolve_target(services, name)
    adapter = str(services.folder / "jobs" / adapter_of / "adapter") if adapter_of else ""
    assert (target.name, target.base, target.model_id) == (name, base, adapter_of)
    assert (target.ref.source, target.ref.adapter) == ("smollm2-135m", adapter)
    # A name that says another model than what answers is never without a note.
    assert bool(target.note) == (base != "smollm2-135m")


def test_a_result_without_an_adapter_is_a_whole_model(services):
    target = resolve_target(services, f"{ARN}:custom-model/x/{WHOLE}")
    assert target.ref.source == str(services.folder / f"jobs/{WHOLE}/model")
    assert target.ref.adapter == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ft:q:org::gone", "It was deleted, or never was."),
        (f"{ARN}:custom-model/x/{'0' * 12}", "It was deleted, or never was."),
        (f"{ARN}:custom-model-deployment/{'0' * 12}", "It was deleted, or never was."),
        ("f" * 12, "The deployment is Failed: No"),
        ("l" * 12, "An ARN of this kind is none of a model that answers."),
        ("g" * 12, "It was deleted, or never was."),
        (f"{ARN}:model-customization-job/x/{TUNED}", "An ARN of this kind is none"),
        ("arn:aws:s3:::bucket", "An ARN of this kind is none"),
        ("../etc/passwd", "is no name of a base model"),
        ("/etc", "is no name of a base model"),
    ],
)
def test_a_name_without_weights(services, name, why):
    with pytest.raises(UnknownModelError, match="There is no model") as caught:
        resolve_target(services, name)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", ["n" * 12, f"{ARN}:custom-model/x/{HALF}"])
def test_what_is_being_made_asks_for_patience(services, name):
    with pytest.raises(ModelNotReadyError, match="still being made"):
        resolve_target(services, name)


def test_an_update_of_a_deployment_holds_from_the_next_request_on(services):
    name = f"{ARN}:custom-model-deployment/{'u' * 12}"
    with services.store.session() as session:
        session.add(_deployment("u" * 12, f"{ARN}:custom-model/x/{TUNED}"))
    assert resolve_target(services, name).model_id == TUNED
    with services.store.session() as session:
        session.get_one(Deployment, "u" * 12).model_arn = f"{ARN}:custom-model/x/{CHECKPOINT}"
    assert resolve_target(services, name).model_id == CHECKPOINT


def test_a_table_of_names_refuses_others(tmp_path):
    services = services_in(tmp_path, base_models={"mine": {"source": "smollm2-135m"}})
    assert resolve_target(services, "mine").note == "mine stands for smollm2-135m here."
    with pytest.raises(UnknownModelError, match="There is no base model 'yours' here"):
        resolve_target(services, "yours")


def split(pieces: list[str], *, thinking: bool = False) -> dict[str, str]:
    splitter = ReasoningSplitter(thinking=thinking)
    found = {"reasoning": "", "text": ""}
    for piece in pieces:
        for kind, text in splitter.feed(piece):
            found[kind] += text
    for kind, text in splitter.finish():
        found[kind] += text
    return found


@pytest.mark.parametrize(
    ("text", "thinking", "reasoning", "answer"),
    [
        ("<think>a b</think>\n\nc", False, "a b", "c"),
        (" \n<think>\na\n</think>c", False, "a", "c"),
        ("a\n</think>\nc", True, "a", "c"),
        ("a </think> b", False, "", "a </think> b"),
        ("see <think>a</think>", False, "", "see <think>a</think>"),
        ("<think>never closed", False, "never closed", ""),
        ("<thinking>", False, "", "<thinking>"),
        ("<th", False, "", "<th"),
        ("", False, "", ""),
        ("a < b </thin> c", True, "a < b </thin> c", ""),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>c",
            False,
            "a",
            "c",
        ),
    ],
)
def test_reasoning_is_split_the_same_however_it_comes(text, thinking, reasoning, answer):
    expected = {"reasoning": reasoning, "text": answer}
    assert split([text], thinking=thinking) == expected
    assert split(list(text), thinking=thinking) == expected


@given(st.text(alphabet="<think>/| a\n"), st.integers(1, 5), st.booleans())
def test_where_text_is_cut_changes_nothing(text, size, thinking):
    cut = [text[i : i + size] for i in range(0, len(text), size)]
    assert split(cut, thinking=thinking) == split([text], thinking=thinking)


def test_text_is_not_held_back_without_need():
    splitter = ReasoningSplitter(thinking=False)
    assert splitter.feed("Hello,") == [("text", "Hello,")]
    assert splitter.feed(" you") == [("text", " you")]


TOOLS = [{"type": "function", "function": {"name": "add"}}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "early", "late", "calls"),
    [
        (f"Wait. {CALL}", "Wait. ", "", 1),
        (f"{CALL}\n{CALL}", "", "", 2),
        ('{"name": "add", "arguments": {}}', "", "", 1),
        ('{"name": "other"}', "", '{"name": "other"}', 0),
        ("a < b [x] <tool", "a < b [x] ", "<tool", 0),
        ("plain", "plain", "", 0),
        ("<tool_call>broken", "", "<tool_call>broken", 0),
        ('[TOOL_CALLS][{"name": "add", "arguments": {}}]', "", "", 1),
    ],
)
def test_a_call_is_held_back_and_text_is_not(text, early, late, calls):
    gate = CallGate(TOOLS)
    shown = "".join(gate.feed(letter) for letter in text)
    rest, found = gate.finish()
    assert (shown, rest, len(found)) == (early, late, calls)
    assert {call.name for call in found} <= {"add"}


def _ends_within(grammar: dict, text: str) -> bool:
    """Whether the grammar takes the text as a whole."""
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, grammar["lark"])
    tokens = tokenizer.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def test_the_grammar_of_calls():
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/Number"}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"Number": {"type": "integer"}},
    }
    add = {"type": "function", "function": {"name": "add", "parameters": schema}}
    other = {"type": "function", "function": {"name": "other"}}
    free = '<tool_call>\n{"name": "other", "arguments": {"x": [1]}}\n</tool_call>'
    wrong = CALL.replace('"a": 2', '"a": "two"')
    one = call_grammar([add, other])
    assert _ends_within(one, CALL)
    assert _ends_within(one, free)
    assert not _ends_within(one, wrong)
    assert not _ends_within(one, f"{CALL}\n{free}")
    assert not _ends_within(one, "Hello")
    assert _ends_within(call_grammar([add, other], several=True), f"{CALL}\n{free}")
    assert not _ends_within(call_grammar([add, other], name="add"), free)
    either = call_grammar([add], answer={"type": "object", "properties": {"b": {}}})
    assert _ends_within(either, CALL)
    assert _ends_within(either, json.dumps({"b": 1}))
