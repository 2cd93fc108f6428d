"""`alpha/graders` through the real openai client: grades with everything that is said of them."""

import json

import openai
import pytest

from openai_server import EXACT, serving
from tunestone.api.access.keys import OWN_KEY, KeyRing
from tunestone.api.openai import graders
from tunestone.types import Grade

FLAGS = {
    "formula_parse_error",
    "invalid_variable_error",
    "api_model_grader_parse_error",
    "api_model_grader_refusal_error",
    "api_model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
}
CLOSE = {
    "type": "text_similarity",
    "name": "close",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference_answer }}",
    "evaluation_metric": "fuzzy_match",
}
BOTH = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": EXACT, "close": CLOSE},
    "calculate_output": "0.75 * exact + 0.25 * close",
}
WEATHER = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("graders")) as both:
        yield both


@pytest.fixture
def client(served):
    return served[1]


@pytest.fixture(autouse=True)
def _no_other_endpoint(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def run(client, grader, text, **item):
    return client.fine_tuning.alpha.graders.run(grader=grader, model_sample=text, item=item)


def raised_flags(result):
    values = {name: getattr(result.metadata.errors, name) for name in FLAGS}
    assert all(isinstance(value, bool) for value in values.values())
    return {name for name, value in values.items() if value}


def python(body):
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return {"type": "python", "name": "p", "source": f"def grade(sample, item):\n{lines}\n"}


def test_a_grade_with_all_that_is_said_of_it(client):
    result = run(client, EXACT, "4", reference_answer="4")
    assert (result.reward, result.sub_rewards) == (1.0, {})
    assert result.api_model_grader_token_usage_per_model == {}
    metadata = result.metadata
    assert (metadata.name, metadata.type) == ("exact", "string_check")
    assert metadata.execution_time >= 0
    assert (metadata.token_usage, metadata.sampled_model_name) == (None, None)
    assert raised_flags(result) == set()
    details = metadata.errors.model_dump()
    assert details["python_grader_runtime_error_details"] is None
    assert details["api_model_grader_server_error_details"] is None
    assert details["python_grader_server_error_type"] is None


def test_the_parts_of_a_multi_grader_are_shown(client):
    result = run(client, BOTH, "four", reference_answer="4")
    assert result.sub_rewards == {"exact": 0.0, "close": 0.0}
    result = run(client, BOTH, "4", reference_answer="4")
    assert (result.reward, result.sub_rewards) == (1.0, {"exact": 1.0, "close": 1.0})
    assert result.metadata.scores == {"exact": 1.0, "close": 1.0}


def test_an_unknown_variable_is_zero_with_its_flag(client):
    result = run(client, EXACT, "4", refrence_answer="4")
    assert result.reward == 0.0
    assert raised_flags(result) == {"invalid_variable_error"}
    details = result.metadata.errors.model_extra["error_details"]
    assert "did you mean 'refrence_answer'?" in details


def test_texts_that_would_take_minutes_to_compare_are_an_error(client):
    for metric in ("fuzzy_match", "rouge_l", "meteor"):
        grader = {**CLOSE, "evaluation_metric": metric}
        result = run(client, grader, "ab " * 30_000, reference_answer="ba " * 30_000)
        assert (result.reward, raised_flags(result)) == (0.0, {"other_error"})
        details = result.metadata.errors.model_extra["error_details"]
        assert f"90,000 and 90,000 characters are too many for {metric}" in details
    bleu = {**CLOSE, "evaluation_metric": "bleu"}
    assert run(client, bleu, "a b c d", reference_answer="a b c d").reward == 1.0


def test_an_answer_that_is_no_json_is_zero_with_its_flag(client):
    grader = {**EXACT, "input": "{{ sample.output_json.a }}"}
    assert run(client, grader, '{"a": "4"}', reference_answer="4").reward == 1.0
    result = run(client, grader, "4 it is", reference_answer="4")
    assert (result.reward, raised_flags(result)) == (0.0, {"sample_parse_error"})


def test_a_python_grader_runs_in_the_sandbox(client):
    result = run(client, python("return len(sample['output_text']) / item['n']"), "four", n=8)
    assert result.reward == 0.5
    result = run(client, python("return 1 / 0"), "four")
    assert (result.reward, raised_flags(result)) == (0.0, {"python_grader_runtime_error"})
    details = result.metadata.errors.python_grader_runtime_error_details
    assert "ZeroDivisionError" in details
    opening = python("open('/etc/hostname')\nreturn 1")
    assert raised_flags(run(client, opening, "four")) == {"python_grader_runtime_error"}


def test_tool_calls_are_graded(client):
    name = {**EXACT, "input": "{{ sample.output_tools[0].function.name }}"}
    row = {"tools": WEATHER, "reference_answer": "get_weather"}
    call = {"name": "get_weather", "arguments": {"city": "Ulm"}}
    for text in (f"<tool_call>{json.dumps(call)}</tool_call>", json.dumps(call)):
        assert run(client, name, text, **row).reward == 1.0
    city = python("return float('Ulm' in sample['output_tools'][0]['function']['arguments'])")
    assert run(client, city, json.dumps(call), **row).reward == 1.0
    result = run(client, name, "It rains.", **row)
    assert (result.reward, raised_flags(result)) == (0.0, {"invalid_variable_error"})


@pytest.mark.parametrize("grader", [EXACT, CLOSE, BOTH, python("return 1.0"), {"type": "number"}])
def test_a_good_grader_is_valid(client, grader):
    valid = client.fine_tuning.alpha.graders.validate(grader=grader)
    assert valid.model_dump(warnings=False)["grader"]["type"] == grader["type"]


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ({"type": "string_chek"}, "no grader of type 'string_chek' over this API"),
        ({**EXACT, "opertion": "eq"}, "Did you mean 'operation'?"),
        ({**BOTH, "calculate_output": "exact + near"}, "near"),
        ({**BOTH, "graders": {"inner": BOTH}}, "cannot stand inside another one"),
        (
            {"type": "regex", "pattern": "a", "timeout_seconds": "1e9"},
            "regex: `timeout_seconds` is 1000000000.0; over the API it is at most 900",
        ),
        (
            {
                **BOTH,
                "calculate_output": "big",
                "graders": {"big": {"type": "code", "memory_mib": 10**6}},
            },
            "code: `memory_mib` is 1000000",
        ),
        ({"type": "python", "name": "p", "source": "x = 1"}, "defines no function grade"),
        ({"type": "python", "name": "p", "source": "grade = lambda s, i: 1\n1 / 0"}, "ZeroDiv"),
    ],
)
def test_a_bad_grader_is_refused(client, grader, message):
    calls = client.fine_tuning.alpha.graders
    for call in (calls.validate, lambda grader: run(client, grader, "4", reference_answer="4")):
        with pytest.raises(openai.BadRequestError) as caught:
            call(grader=grader)
        assert (caught.value.param, caught.value.code) == ("grader", "invalid_grader")
        assert message in caught.value.message


def test_a_bad_body_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/fine_tuning/alpha/graders/run", body={"grader": EXACT}, cast_to=object)
    assert caught.value.param == "model_sample"
    assert "Missing required parameter: 'model_sample'." in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/fine_tuning/alpha/graders/run", content=b"{", cast_to=object)
    assert "could not parse the JSON body" in caught.value.message


def test_what_a_judge_cost_is_told():
    tokens = {"gpt-x": {"prompt": 10, "completion": 5, "cached": 2}}
    grader = {"type": "score_model", "name": "judge"}
    shown = graders.render_run(grader, Grade(0.5, tokens=tokens, seconds=1.5))
    assert shown["model_grader_token_usage_per_model"] == {
        "gpt-x": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "cached_tokens": 2,
        }
    }
    assert (shown["metadata"]["token_usage"], shown["metadata"]["execution_time"]) == (15, 1.5)


JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "smollm2-135m",
    "input": [{"role": "user", "content": "Score {{ sample.output_text }}"}],
}


def test_a_judge_of_ours_is_asked_here(served, monkeypatch):
    services = served[0]
    address = "http://127.0.0.1:1/v1"
    reward = graders.read_reward(services, JUDGE, address)
    assert (reward.spec["endpoint"], reward.notes) == (
        {"base_url": address, "patience_seconds": 900.0},
        (),
    )
    named = graders.read_reward(services, {**JUDGE, "model": "gpt-4o-2024-08-06"}, address)
    assert named.spec["endpoint"] == reward.spec["endpoint"]
    assert "gpt-4o-2024-08-06 stands for the embedded model" in named.notes[0]
    monkeypatch.setenv("OPENAI_API_KEY", "a key of the server's owner")
    elsewhere = graders.read_reward(services, {**JUDGE, "model": "gpt-4o-2024-08-06"}, address)
    assert ("endpoint" in elsewhere.spec, elsewhere.notes) == (False, ())


def test_a_judge_asks_with_the_servers_own_key(served, monkeypatch):
    services = served[0]
    own = KeyRing(services.store, services.folder).own_bearer()
    monkeypatch.setenv(OWN_KEY, own)
    reward = graders.read_reward(services, JUDGE, "http://127.0.0.1:1/v1")
    assert reward.spec["endpoint"]["api_key_env"] == OWN_KEY
    ring = KeyRing(services.store, services.folder)
    assert ring.by_bearer(own).scopes == ["read"]
    assert ring.by_bearer(own[:-1] + ("0" if own[-1] != "0" else "1")) is None
    assert own not in json.dumps(reward.spec)
