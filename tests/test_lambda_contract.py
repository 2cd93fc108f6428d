"""The event a Bedrock reward function gets and the reading of its answer (rft_services.md §5)."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunestone.rewards.aws_lambda.contract import (
    ResponseError,
    build_event,
    name_samples,
    parse_response,
)
from tunestone.types import Prompt, Sample


def sample(key="q1", text="#### 72", *, tools=(), **row):
    return Sample(Prompt(key, ({"role": "user", "content": "6 x 12?"},), row, tools), text)


def parse_one(**result):
    return parse_response([{"id": "a:0", **result}], ["a:0"]).grades[0]


def test_the_event_has_the_documented_fields_and_no_others():
    event = build_event([sample(reference_answer={"final_answer": "72"}, task_id=7)], ["q1:0"])
    assert event == [
        {
            "id": "q1:0",
            "messages": [
                {"role": "user", "content": "6 x 12?"},
                {"role": "assistant", "content": "#### 72"},
            ],
            "reference_answer": {"final_answer": "72"},
            "metadata": {"reference_answer": {"final_answer": "72"}, "task_id": 7},
        }
    ]
    assert json.loads(json.dumps(event)) == event


def test_keys_of_a_metadata_object_of_the_row_are_found_in_the_metadata():
    (item,) = build_event([sample(metadata={"test_cases": [1], "task_id": 0}, task_id=7)], ["a"])
    assert item["metadata"]["test_cases"] == [1]
    assert item["metadata"]["task_id"] == 7
    (item,) = build_event([sample(metadata="a text")], ["a"])
    assert item["metadata"] == {"metadata": "a text"}


def test_the_generated_turn_comes_last_after_a_conversation():
    messages = tuple({"role": role, "content": role} for role in ("system", "user", "assistant"))
    prompt = Prompt("c", (*messages, {"role": "user", "content": "and now?"}))
    (item,) = build_event([Sample(prompt, "now this")], ["c:0"])
    assert [turn["role"] for turn in item["messages"]] == [
        *("system", "user", "assistant", "user"),
        "assistant",
    ]
    assert item["messages"][-1]["content"] == "now this"
    assert len(prompt.messages) == 4  # the prompt itself is as it was


def test_a_row_without_a_reference_answer_has_none_in_either_place():
    (item,) = build_event([sample(domain="maths")], ["q1:0"])
    assert "reference_answer" not in item
    assert item["metadata"] == {"domain": "maths"}


def test_tools_of_the_row_are_in_the_metadata():
    tool = {"type": "function", "function": {"name": "add"}}
    (item,) = build_event([sample(tools=(tool,))], ["q1:0"])
    assert item["metadata"] == {"tools": [tool]}


@pytest.mark.parametrize(
    ("answer", "sent"), [("72", {"text": "72"}), ({"text": "72"}, {"text": "72"}), (72, 72)]
)
def test_wrapping_changes_only_a_string_and_only_at_the_top_level(answer, sent):
    rows = [sample(reference_answer=answer)]
    (wrapped,) = build_event(rows, ["q1:0"], wrap_reference_answer=True)
    assert wrapped["reference_answer"] == sent
    assert wrapped["metadata"]["reference_answer"] == answer
    assert build_event(rows, ["q1:0"])[0]["reference_answer"] == answer


def test_completions_of_one_row_get_ids_of_their_own():
    samples = [sample("a"), sample("b"), sample("a"), sample("a:1")]
    assert name_samples(samples) == ["a:0", "b:0", "a:1", "a:1:0"]


@given(st.lists(st.text("a:01", max_size=4), max_size=20))
def test_ids_are_unique_whatever_the_rows_are_called(keys):
    names = name_samples([sample(key) for key in keys])
    assert len(set(names)) == len(keys)
    assert [name.rpartition(":")[0] for name in names] == keys


def test_results_are_matched_by_id_in_any_order():
    results = [{"id": f"a:{i}", "aggregate_reward_score": i / 4} for i in (2, 0, 1)]
    reading = parse_response(results, ["a:0", "a:1", "a:2"])
    assert [grade.reward for grade in reading.grades] == [0.0, 0.25, 0.5]
    assert reading.strays == ()


def test_other_keys_are_let_be():
    grade = parse_one(aggregate_reward_score=1, score=0.3, reward_components={"x": 1}, metrics=[])
    assert (grade.reward, grade.error, grade.metrics, grade.flags) == (1.0, None, {}, ())


def test_a_missing_id_is_an_error_of_its_sample_alone_and_names_what_came_instead():
    results = [
        {"id": "a:0", "aggregate_reward_score": 1.0},
        {"id": "zz", "aggregate_reward_score": 1.0},
        {"aggregate_reward_score": 1.0},
        "nonsense",
        {"id": 7},
    ]
    there, missing = parse_response(results, ["a:0", "a:1"]).grades
    assert there.reward == 1.0
    assert missing.reward is None
    assert missing.flags == ("other_error",)
    assert missing.error == (
        "the answer has no result for the id 'a:1'; in its place: unknown id 'zz', "
        "result 2 has no id, result 3 is the string 'nonsense' and 1 more"
    )


def test_an_unknown_id_beside_all_the_known_ones_is_warned_of():
    results = [{"id": key, "aggregate_reward_score": 1.0} for key in ("a:0", "zz")]
    reading = parse_response(results, ["a:0"])
    assert reading.grades[0].reward == 1.0
    with pytest.warns(RuntimeWarning, match="answered for 1 samples and more: unknown id 'zz'"):
        reading.warn_of_strays()


def test_a_duplicate_id_is_an_error_of_its_sample_alone():
    results = [{"id": key, "aggregate_reward_score": 1.0} for key in ("a:0", "a:1", "a:0")]
    twice, once = parse_response(results, ["a:0", "a:1"]).grades
    assert twice.error == "the answer has 2 results for the id 'a:0'"
    assert once.reward == 1.0


@pytest.mark.parametrize(
    ("score", "shown"),
    [
        ("0.5", "the string '0.5'"),
        (None, "null"),
        (True, "true"),
        (math.nan, "the number nan"),
        (math.inf, "the number inf"),
        (10**400, "a number too large"),
        ([1], "an array"),
        ({"value": 1}, "an object with 'value'"),
    ],
)
def test_a_score_that_is_no_finite_number_is_an_error(score, shown):
    grade = parse_one(aggregate_reward_score=score)
    assert grade.reward is None
    assert grade.error == (
        f"the result for the id 'a:0': aggregate_reward_score must be a finite number, got {shown}"
    )


def test_a_result_without_a_score_names_what_it_has():
    assert parse_one(reward=1).error == (
        "the result for the id 'a:0': no aggregate_reward_score, only id, reward"
    )


def test_scores_outside_0_to_1_are_kept():
    assert parse_one(aggregate_reward_score=-3).reward == -3.0


def test_metrics_are_named_series_by_their_type():
    metrics = [
        {"name": "accuracy", "value": 1, "type": "Reward"},
        {"name": "words", "value": 12.5, "type": "Metric"},
        {"name": "plain", "value": 0},
        {"metric": "tests_passed", "value": 3},  # so in AWS's sample that runs code
    ]
    grade = parse_one(aggregate_reward_score=0.5, metrics_list=metrics)
    assert grade.metrics == {
        "reward/accuracy": 1.0,
        "words": 12.5,
        "plain": 0.0,
        "tests_passed": 3.0,
    }
    assert grade.flags == ()


@pytest.mark.parametrize(
    "bad",
    [
        "words",
        {"value": 1, "type": "Metric"},
        {"name": "x", "value": "1", "type": "Metric"},
        {"name": "x", "value": math.nan, "type": "Metric"},
        {"name": "x", "value": 1, "type": "Other"},
    ],
)
def test_a_bad_metric_costs_a_warning_flag_and_no_reward(bad):
    good = {"name": "words", "value": 2, "type": "Metric"}
    grade = parse_one(aggregate_reward_score=0.5, metrics_list=[bad, good])
    assert (grade.reward, grade.error) == (0.5, None)
    assert grade.metrics == {"words": 2.0}
    assert grade.flags == ("other_error",)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "the answer is null; expected an array with one result per sample"),
        ({}, "the answer is an empty object; expected"),
        ({"statusCode": 200, "body": "[]"}, "an object with 'statusCode', 'body'; expected"),
        ("[]", r"the string '\[\]'; expected"),
    ],
)
def test_an_answer_that_is_no_array_is_refused_as_a_whole(answer, message):
    with pytest.raises(ResponseError, match=message):
        parse_response(answer, ["a:0"])


def test_an_error_payload_becomes_a_traceback():
    payload = {
        "errorMessage": "'final_answer'",
        "errorType": "KeyError",
        "requestId": "1",
        "stackTrace": [
            '  File "/var/task/r.py", line 4, in lambda_handler\n    x["final_answer"]\n'
        ],
    }
    with pytest.raises(ResponseError) as caught:
        parse_response(payload, ["a:0"])
    assert str(caught.value) == (
        "Traceback (most recent call last):\n"
        '  File "/var/task/r.py", line 4, in lambda_handler\n    x["final_answer"]\n'
        "KeyError: 'final_answer'"
    )


def test_an_error_payload_without_a_trace_is_one_line():
    with pytest.raises(ResponseError, match=r"^Runtime\.ExitError: exit status 1$"):
        parse_response({"errorMessage": "exit status 1", "errorType": "Runtime.ExitError"}, [])
