"""OpenAI's score_model and label_model, through parsing, opening and a real HTTP server."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from openai.types.graders import LabelModelGrader, ScoreModelGrader
from pydantic import ValidationError

from judge_server import BROKEN, Said, in_turn, say, serve_judge
from tunestone.errors import RewardError
from tunestone.rewards.grader import parse_spec
from tunestone.rewards.judges.asking import UnreadableReply, parse_object
from tunestone.rewards.judges.model_graders import LabelModel, ScoreModel
from tunestone.rewards.sandbox import Mechanism
from tunestone.rewards.spec import Context
from tunestone.types import Prompt, Sample

SCORE = {
    "type": "score_model",
    "name": "helpful",
    "model": "gpt-4.1-mini-2025-04-14",
    "input": [
        {"role": "developer", "content": "Rate the answer."},
        {
            "role": "user",
            "type": "message",
            "content": "Wanted {{ item.reference_answer }}, got {{ sample.output_text }}",
        },
    ],
}
LABEL = {
    **SCORE,
    "type": "label_model",
    "labels": ["good", "fair", "poor"],
    "passing_labels": ["good", "fair"],
}


def sample(text, **row):
    row = {"reference_answer": "4"} | row
    prompt = Prompt("p", ({"role": "user", "content": "2 + 2?"},), row=row)
    return Sample(prompt, text)


def grade(written, answer, samples, *, folder, cache=None, again=False):
    """(grades, requests, grader) of a spec against a scripted judge."""
    kind = {"score_model": ScoreModel, "label_model": LabelModel}[written["type"]]
    with serve_judge(answer) as served, ExitStack() as stack:
        spec = kind.model_validate(written | {"endpoint": {"base_url": f"{served.url}/v1"}})
        context = Context(folder, Mechanism("none", ""), cache=cache)
        grader = spec.open(context, stack)
        grades = grader.grade(samples)
        if again:
            grades = grader.grade(samples)
    return grades, served.requests, grader


def result(value):
    return say(steps=[{"description": "look", "conclusion": "fine"}], result=value)


def test_a_score_is_the_reward_and_its_cost_is_told(tmp_path):
    grades, requests, _ = grade(SCORE, in_turn(result(0.75)), [sample("four")], folder=tmp_path)
    assert (grades[0].reward, grades[0].error, grades[0].attempts) == (0.75, None, 1)
    cost = {"prompt": 100, "completion": 7, "cached": 64}
    assert grades[0].tokens == {"gpt-4.1-mini-2025-04-14": cost}
    assert grades[0].seconds > 0
    body = requests[0].json()
    assert body["messages"] == [
        {"role": "system", "content": "Rate the answer."},
        {"role": "user", "content": "Wanted 4, got four"},
    ]
    assert "temperature" not in body  # OpenAI's spec sets none, so the endpoint decides
    schema = body["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["steps", "result"]


@pytest.mark.parametrize(
    ("given", "limits", "expected"),
    [(7, (0, 5), 5.0), (-1, (0, 5), 0.0), (3, (0, 5), 3.0), (1.5, None, 1.0), (-3, (-2, 0), -2.0)],
)
def test_a_result_is_clipped_to_the_range(tmp_path, given, limits, expected):
    written = SCORE | ({"range": list(limits)} if limits else {})
    grades, _, _ = grade(written, in_turn(result(given)), [sample("x")], folder=tmp_path)
    assert grades[0].reward == expected
    assert grades[0].metrics == {"result": given}


@pytest.mark.parametrize(
    "bad",
    [
        result("0.9"),
        result(True),
        result(None),
        say(score=1),
        Said("I would say 0.9."),
        Said('{"result": NaN}'),
        Said('{"result": 1e999}'),
        Said('[{"result": 1}, {"result": 1}]'),
    ],
)
def test_what_is_no_number_is_asked_once_more_then_an_error(tmp_path, bad):
    grades, requests, _ = grade(SCORE, in_turn(bad, bad), [sample("x")], folder=tmp_path)
    assert (grades[0].reward, grades[0].flags) == (None, ("model_grader_parse_error",))
    assert grades[0].attempts == len(requests) == 2
    assert grades[0].tokens["gpt-4.1-mini-2025-04-14"]["prompt"] == 200
    said, nudge = requests[1].json()["messages"][-2:]
    assert (said["role"], said["content"]) == ("assistant", bad.text)
    assert "JSON object only" in nudge["content"]


def test_the_second_chance_may_be_taken(tmp_path):
    script = in_turn(Said("Well, 0.9 or so."), result(0.9))
    grades, _, grader = grade(SCORE, script, [sample("x")], folder=tmp_path, again=True)
    assert grades[0].reward == 0.9
    assert (grader.asker.misses, grader.asker.hits) == (1, 1)


@pytest.mark.parametrize(
    ("said", "flag"),
    [
        (BROKEN, "model_grader_server_error"),
        (Said(refusal="I would rather not"), "model_grader_refusal_error"),
        (Said('{"resu', finish="length"), "model_grader_parse_error"),
    ],
)
def test_failures_are_flagged_and_the_others_get_their_grades(tmp_path, said, flag):
    def answer(asked):
        return said if "bad luck" in asked.user else result(1)

    samples = [sample("one"), sample("bad luck"), sample("three")]
    grades, _, _ = grade(SCORE, answer, samples, folder=tmp_path)
    assert [g.reward for g in grades] == [1.0, None, 1.0]
    assert grades[1].flags == (flag,)
    assert grades[1].error


def test_a_failure_is_not_cached_and_a_success_is(tmp_path):
    script = in_turn(Said(refusal="not today"), result(0.5))
    grades, requests, grader = grade(SCORE, script, [sample("x")], folder=tmp_path, again=True)
    assert (grades[0].reward, len(requests), grader.asker.hits) == (0.5, 2, 0)


def test_a_cache_folder_saves_the_next_run_its_requests(tmp_path):
    folder = tmp_path / "cache"
    texts = [sample(text) for text in "abc"]
    with serve_judge(lambda asked: result(0.25)) as served:
        written = SCORE | {"endpoint": {"base_url": f"{served.url}/v1"}}
        for expected in (3, 3):  # requests seen by the server after each run
            with ExitStack() as stack:
                context = Context(tmp_path, Mechanism("none", ""), cache=folder)
                grades = ScoreModel.model_validate(written).open(context, stack).grade(texts)
            assert [g.reward for g in grades] == [0.25] * 3
            assert len(served.requests) == expected
    assert [g.tokens for g in grades] == [{}] * 3  # nothing was used the second time


def test_equal_questions_are_asked_and_paid_once(tmp_path):
    grades, requests, grader = grade(
        SCORE, in_turn(result(0.5)), [sample("x")] * 3, folder=tmp_path
    )
    assert ([g.reward for g in grades], len(requests)) == ([0.5] * 3, 1)
    assert [bool(g.tokens) for g in grades] == [True, False, False]
    assert (grader.asker.misses, grader.asker.hits) == (1, 2)


def test_requests_go_out_together_but_not_too_many(tmp_path):
    def answer(asked):
        return Said(result(1).text, wait_seconds=0.2)

    samples = [sample(str(n)) for n in range(12)]
    grades, _, _ = grade(SCORE, answer, samples, folder=tmp_path)
    # One after the other they would take 2.4 s; twelve at a time, each has its own 0.2 s.
    assert all(0.2 <= g.seconds < 1.5 for g in grades)
    assert [g.reward for g in grades] == [1.0] * 12


def test_an_unknown_variable_is_an_error_of_its_sample_alone(tmp_path):
    written = SCORE | {"input": [{"role": "user", "content": "{{ item.rubric }}"}]}
    samples = [sample("x"), sample("x", rubric="be kind")]
    grades, requests, _ = grade(written, in_turn(result(1)), samples, folder=tmp_path)
    assert [g.reward for g in grades] == [None, 1.0]
    assert grades[0].flags == ("invalid_variable_error",)
    assert "item.rubric does not exist" in grades[0].error
    assert len(requests) == 1


def test_text_that_utf8_cannot_carry_is_still_judged(tmp_path):
    grades, requests, _ = grade(SCORE, in_turn(result(1)), [sample("a\ud800b")], folder=tmp_path)
    assert grades[0].reward == 1
    assert requests[0].json()["messages"][1]["content"] == "Wanted 4, got a?b"


def test_text_blocks_are_joined(tmp_path):
    blocks = [{"type": "input_text", "text": "got"}, "{{ sample.output_text }}"]
    written = SCORE | {"input": [{"role": "user", "content": blocks}]}
    _, requests, _ = grade(written, in_turn(result(1)), [sample("four")], folder=tmp_path)
    assert requests[0].json()["messages"] == [{"role": "user", "content": "got\nfour"}]


# --- label_model ----------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "reward"), [("good", 1.0), ("fair", 1.0), ("poor", 0.0)])
def test_a_passing_label_gives_1(tmp_path, label, reward):
    grades, requests, _ = grade(LABEL, in_turn(say(label=label)), [sample("x")], folder=tmp_path)
    assert grades[0].reward == reward
    schema = requests[0].json()["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["label"]["enum"] == ["good", "fair", "poor"]


def test_a_label_nobody_offered_is_an_error(tmp_path):
    for label in ("Good", ["good"], None):
        bad = say(label=label)
        grades, _, _ = grade(LABEL, in_turn(bad, bad), [sample("x")], folder=tmp_path)
        assert (grades[0].reward, grades[0].flags) == (None, ("model_grader_parse_error",))
        assert "one of ('good', 'fair', 'poor')" in grades[0].error


# --- Specs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (ScoreModel, {"range": [1, 0]}, r"range must be \[lowest, highest\], got \[1.0, 0.0\]"),
        (ScoreModel, {"range": [0]}, "range"),
        (ScoreModel, {"input": []}, "input"),
        (ScoreModel, {"model": ""}, "model"),
        (
            ScoreModel,
            {"input": [{"role": "user", "content": {"type": "input_image", "image_url": "x"}}]},
            "'input_image'; images and audio are not read here",
        ),
        (
            ScoreModel,
            {"input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "'input_audio'; images and audio are not read here",
        ),
        (ScoreModel, {"sampling_params": {"max_tokens": 4}}, "max_tokens"),
        (LabelModel, {"passing_labels": ["great"]}, r"passing_labels has \['great'\]"),
        (LabelModel, {"labels": ["a", "a"], "passing_labels": ["a"]}, "differ from one another"),
    ],
)
def test_specs_that_make_no_sense_are_refused(kind, changes, message):
    written = LABEL if kind is LabelModel else SCORE
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(written | changes)


@pytest.mark.parametrize("spec", [SCORE, LABEL])
@pytest.mark.parametrize("content", ["{{ output }}", [{"type": "text", "text": "{{ output }}"}]])
def test_a_broken_template_is_refused_when_it_is_read(spec, content):
    with pytest.raises(RewardError, match=r"'\{\{ output \}\}' \(character 1\) has no known"):
        parse_spec(spec | {"input": [{"role": "user", "content": content}]})


def test_a_judge_that_is_down_is_named_with_its_address(tmp_path):
    with ExitStack() as stack:
        address = stack.enter_context(serve_judge(in_turn())).url
    written = SCORE | {"endpoint": {"base_url": address}}  # nobody answers there any more
    with ExitStack() as stack:
        grader = ScoreModel.model_validate(written).open(Context(tmp_path), stack)
        [grade] = grader.grade([sample("x")])
    judge = f"the judge gpt-4.1-mini-2025-04-14 at {address}"
    assert grade.error == f"{judge} failed: Connection error."
    assert grade.flags == ("model_grader_server_error",)


def test_a_judge_that_is_away_is_waited_for_by_whoever_has_patience(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as place:  # where a server will be, later
        port = place.getsockname()[1]
    endpoint = {"base_url": f"http://127.0.0.1:{port}/v1", "patience_seconds": 300}
    spec = ScoreModel.model_validate(SCORE | {"endpoint": endpoint})
    with ExitStack() as stack, ThreadPoolExecutor(1) as threads:
        grader = spec.open(Context(tmp_path), stack)
        grading = threads.submit(grader.grade, [sample("x")])
        time.sleep(5)  # longer than all tries of the openai client take
        assert not grading.done()
        stack.enter_context(serve_judge(lambda asked: say(result=1.0, steps=[]), port=port))
        [grade] = grading.result()
    assert (grade.error, grade.flags) == (None, ())
    assert grade.attempts > 4


def test_bedrock_refuses_what_converse_does_not_know(tmp_path):
    endpoint = {"api": "bedrock", "region": "us-east-1"}
    spec = ScoreModel.model_validate(SCORE | {"endpoint": endpoint, "sampling_params": {"seed": 1}})
    with ExitStack() as stack, pytest.raises(RewardError, match="seed, which Bedrock's Converse"):
        spec.open(Context(tmp_path, Mechanism("none", "")), stack)


def test_what_openais_sdk_writes_is_read():
    score = ScoreModelGrader.model_validate(
        SCORE | {"range": [0, 4], "sampling_params": {"temperature": 0.5, "top_p": 1}}
    )
    spec = ScoreModel.model_validate(json.loads(score.model_dump_json(exclude_none=True)))
    assert (spec.range, spec.sampling_params.temperature) == ((0, 4), 0.5)
    label = LabelModelGrader.model_validate(LABEL)
    spec = LabelModel.model_validate(json.loads(label.model_dump_json(exclude_none=True)))
    assert spec.passing_labels == ("good", "fair")


# --- Reading JSON out of an answer ----------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 3}',
        '```json\n{"score": 3}\n```',
        'Here you are:\n{"score": 3}\nHave a nice day.',
        '<think>perhaps {"score": 5}?</think>\n{"score": 3}',
    ],
)
def test_one_object_is_found(text):
    assert parse_object(text) == {"score": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("three", "no JSON object"),
        ("", "no JSON object"),
        # Which of two is the verdict, which the quote? Neither is taken.
        ('The answer says {"score": 5}. {"score": 1}', "2 JSON objects"),
        # The quotes inside are not escaped: the inner object must not be taken for the verdict.
        ('{"reasoning": "it says {"score": 5} at its end", "score": 1}', "broken JSON"),
        ('{"a":' * 5000, "broken JSON"),
    ],
)
def test_none_broken_or_several_are_refused(text, message):
    with pytest.raises(UnreadableReply, match=message):
        parse_object(text)
