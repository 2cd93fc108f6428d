"""OpenAI's graders without a model: string_check, text_similarity, python."""

import dataclasses
import json
import traceback
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tunestone.errors import RewardError
from tunestone.rewards.openai.graders import (
    PYTHON_LIMITS,
    PythonGrader,
    SourceGrader,
    StringCheck,
    TextSimilarity,
)
from tunestone.rewards.openai.program import load_program
from tunestone.rewards.sandbox import Outcome
from tunestone.rewards.spec import Context
from tunestone.types import Prompt, Sample

CONTEXT = Context(Path("/rewards"))


def sample(text, **row):
    return Sample(Prompt(id="row-1", messages=({"role": "user", "content": "?"},), row=row), text)


def grade(spec, *samples):
    with ExitStack() as stack:
        return spec.open(CONTEXT, stack).grade(samples)


def check(operation, text, reference):
    spec = StringCheck(
        name="check",
        input="{{ sample.output_text }}",
        reference="{{ item.reference }}",
        operation=operation,
    )
    [found] = grade(spec, sample(text, reference=reference))
    assert found.error is None
    assert found.seconds > 0
    return found.reward


def similarity(metric="fuzzy_match", **fields):
    return TextSimilarity(
        name="similarity",
        input="{{ sample.output_text }}",
        reference="{{ item.reference }}",
        evaluation_metric=metric,
        **fields,
    )


# --- string_check


@pytest.mark.parametrize(
    ("operation", "text", "reference", "reward"),
    [
        ("eq", "Paris", "Paris", 1.0),
        ("eq", "Paris", "paris", 0.0),
        ("eq", "Paris ", "Paris", 0.0),
        ("ne", "Paris", "Paris", 0.0),
        ("ne", "Paris", "paris", 1.0),
        ("neq", "Paris", "Paris", 0.0),
        ("like", "It is Paris.", "Paris", 1.0),
        ("like", "It is Paris.", "paris", 0.0),
        ("like", "Par", "Paris", 0.0),  # the input contains the reference, not the other way round
        ("ilike", "It is PARIS.", "paris", 1.0),
        ("ilike", "It is Rome.", "paris", 0.0),
        ("eq", "4", 4, 1.0),  # a number is compared as it is written in JSON
        ("eq", "true", True, 1.0),
    ],
)
def test_string_check_compares_two_texts(operation, text, reference, reward):
    assert check(operation, text, reference) == reward


def test_a_variable_that_is_missing_concerns_its_sample_only():
    spec = StringCheck(
        input="{{ sample.output_json.city }}", reference="{{ item.city }}", operation="eq"
    )
    good, no_json, no_key, no_row = grade(
        spec,
        sample('{"city": "Rome"}', city="Rome"),
        sample("Rome", city="Rome"),
        sample('{"town": "Rome"}', city="Rome"),
        sample('{"city": "Rome"}', country="Italy"),
    )
    assert good.reward == 1.0
    assert no_json.flags == ("sample_parse_error",)
    assert no_key.flags == no_row.flags == ("invalid_variable_error",)
    # What the answer lacks is the model's fault, and teaches; what the row lacks is not.
    assert [part.reward for part in (no_json, no_key, no_row)] == [0.0, 0.0, None]
    assert no_row.error.startswith("item.city does not exist; there is 'country'")


def test_an_answer_without_a_tool_call_earns_nothing():
    """Else a model that seldom calls could not be taught to, nor its job get past the start."""
    call = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    name = "{{ sample.output_tools[0].function.name }}"
    spec = StringCheck(input=name, reference="add", operation="eq")
    called, silent, broken = grade(spec, sample(call), sample("4"), sample("<tool_call>add"))
    assert (called.reward, called.flags) == (1.0, ())
    assert (silent.reward, silent.flags) == (0.0, ("invalid_variable_error",))
    assert (broken.reward, broken.flags) == (0.0, ("sample_parse_error",))


def test_a_variable_that_no_sample_has_is_the_template_s_fault():
    (wrong,) = grade(
        StringCheck(input="{{ sample.output_jsn.a }}", reference="x", operation="eq"), sample("{}")
    )
    assert wrong.reward is None
    assert "output_json" in wrong.error


def test_a_broken_template_is_refused_when_the_spec_is_read():
    with pytest.raises(
        RewardError, match=r"template: '\{\{ answer \}\}' \(character 1\) has no known"
    ):
        StringCheck(input="{{ answer }}", reference="x", operation="eq")
    with pytest.raises(RewardError, match="is never closed"):
        TextSimilarity(input="x", reference="{{ item.a", evaluation_metric="bleu")


def test_openais_json_is_read_as_it_is():
    data = {
        "type": "string_check",
        "name": "n",
        "input": "{{sample.output_text}}",
        "reference": "a",
        "operation": "eq",
    }
    assert StringCheck.model_validate(data).model_dump(exclude_unset=True) == data
    with pytest.raises(ValidationError, match="'eq', 'ne', 'neq', 'like' or 'ilike'"):
        StringCheck.model_validate({**data, "operation": "equals"})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        StringCheck.model_validate({**data, "refrence": "b"})


# --- text_similarity


def test_text_similarity_is_the_reward():
    # fuzzy_match of kitten and sitting: 2 x 4 / 13; rouge_1 of two words in common of three: 2/3
    [fuzzy] = grade(similarity(), sample("kitten", reference="sitting"))
    [rouge] = grade(similarity("rouge_1"), sample("a b c", reference="a b d"))
    assert fuzzy.reward == pytest.approx(8 / 13)
    assert rouge.reward == pytest.approx(2 / 3)
    assert fuzzy.metrics == {}


def test_a_threshold_is_recorded_and_does_not_change_the_reward():
    spec = similarity(pass_threshold=0.6)
    below, above = grade(
        spec, sample("kit", reference="sitting"), sample("kitten", reference="sitting")
    )
    # "kit" and "sitting": "it", 2 x 2 / 10
    assert (below.reward, below.metrics) == (pytest.approx(0.4), {"passed": 0.0})
    assert (above.reward, above.metrics) == (pytest.approx(8 / 13), {"passed": 1.0})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        similarity(pass_threshold=1.5)


def test_cosine_is_refused_with_the_reason():
    with pytest.raises(RewardError) as caught:
        similarity("cosine")
    assert str(caught.value) == (
        "text_similarity: the metric 'cosine' asks an embedding service for every grade and is not "
        "allowed for reinforcement fine-tuning, at OpenAI either. Use one of fuzzy_match, bleu, "
        "gleu, meteor, rouge_1, rouge_2, rouge_3, rouge_4, rouge_5, rouge_l."
    )


# --- python: what is refused before it runs


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def grade(sample, item)\n    return 1",
            "python grader: line 1: expected ':'. The source",
        ),
        ("x = 1\nreturn x\ndef grade(s, i): ...", "line 2: 'return' outside function"),
        ("def score(sample, item): return 1", "the source defines no function grade. Write def"),
        ("async def grade(sample, item): return 1", "the source defines no function grade"),
        (
            "def grade(s, i): ...\n\0",
            "python grader: source code string cannot contain null bytes.",
        ),
        ("grade = '\ud800'", "python grader: it does not compile: "),
        ("grade = " + "(" * 201 + ")" * 201, "python grader: line 1: too many nested parentheses"),
        ("grade = " + "-" * 100_000 + "1", "python grader: "),
        ("#" * 262_144, "python grader: the source has 262,144 bytes, the limit is 262,144."),
        ("ü" * 131_072, "the source has 262,144 bytes"),
    ],
)
def test_a_source_that_cannot_grade_is_refused(source, message):
    with pytest.raises(RewardError) as caught:
        PythonGrader(source=source)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "def grade(sample: dict, item: dict) -> float:\n    return 1.0",
        "grade = lambda sample, item: 1.0",
        "if True:\n    def grade(sample, item): return 1.0",
        "from math import fsum as grade",
        "class grade: ...",
        "def grade(s, i): return 1.0\n" + "#" * 262_000,
    ],
)
def test_any_way_to_define_grade_is_taken(source):
    assert PythonGrader(name="p", source=source, image_tag="2025-05-08").source == source


def test_the_limits_are_those_of_openai():
    assert (PYTHON_LIMITS.seconds, PYTHON_LIMITS.memory_mib) == (120, 2048)
    assert PYTHON_LIMITS.network is False
    assert PYTHON_LIMITS.environment == ()


# --- python: the program inside the sandbox


def call(source, text="", *, truncated=False, **item):
    payload = json.loads(json.dumps({"item": item, "text": text, "truncated": truncated}))
    return load_program({"source": source})(payload)


def function(body):
    return "import numpy as np\ndef grade(sample, item):\n    " + body


def test_grade_gets_sample_and_item():
    body = "return 0.5 if sample['output_text'] == item['reference'] else 0.0"
    assert call(function(body), "4", reference="4") == 0.5
    assert call(function(body), "5", reference="4") == 0.0


def test_the_sample_is_a_plain_dict_with_all_of_its_parts():
    body = "return float(type(sample) is dict and sample['output_json']['a'])"
    assert call(function(body), '```json\n{"a": 3}\n```') == 3.0
    body = "return len(sample['output_tools']) + (sample['output_json'] is None) / 2"
    text = '<tool_call>{"name": "add"}</tool_call>'
    assert call(function(body), text) == 1.5
    assert call(function(body), "<tool_call>") == 0.5  # a broken call is none
    body = "return float(sample['choices'][0]['finish_reason'] == 'length')"
    assert [call(function(body), truncated=cut) for cut in (True, False)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1", 1.0),
        ("True", 1.0),
        ("-2.5", -2.5),
        ("np.float32(0.5)", 0.5),
        ("np.int64(3)", 3.0),
        ("np.bool_(True)", 1.0),
        ("np.array(0.25)", 0.25),
        ("__import__('fractions').Fraction(1, 4)", 0.25),
    ],
)
def test_numbers_of_every_kind_become_floats(expression, expected):
    found = call(function(f"return {expression}"))
    assert (type(found), found) == (float, expected)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("None", "grade must return a float, got NoneType; is a `return` missing?"),
        ("'1.0'", "grade must return a float, got str"),
        ("[1.0]", "grade must return a float, got list"),
        ("{'reward': 1.0}", "grade must return a float, got dict"),
        ("1j", "grade must return a float, got complex"),
        ("float('nan')", "grade must return a finite float, got nan"),
        ("np.float32('-inf')", "grade must return a finite float, got -inf"),
        ("10 ** 400", "too large"),
    ],
)
def test_a_result_that_is_no_finite_number_is_the_programs_error(expression, message):
    with pytest.raises((TypeError, ValueError, OverflowError), match=r".") as caught:
        call(function(f"return {expression}"))
    assert message in str(caught.value)


def test_a_traceback_shows_the_lines_of_the_source():
    with pytest.raises(ZeroDivisionError) as caught:
        call(function("return 1 / int(item['zero'])"), zero="0")
    text = "".join(traceback.format_exception(caught.value))
    assert 'File "<grader>", line 3, in grade' in text
    assert "return 1 / int(item['zero'])" in text


def test_dataclasses_can_be_defined_in_the_source():
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Score:\n    value: float\n"
        "def grade(sample, item):\n    return Score(0.5).value"
    )
    assert call(source) == 0.5


def test_a_source_that_fails_or_takes_grade_back_does_not_load():
    with pytest.raises(KeyError, match="none"):
        load_program({"source": "{}['none']\ndef grade(s, i): ..."})
    with pytest.raises(RewardError, match="after it ran, the source has no function grade"):
        load_program({"source": "def grade(s, i): ...\ndel grade"})


# --- python: from outcomes to grades


class ScriptedCalls:
    """In the sandbox's place: gives the outcomes it was told, and keeps the payloads."""

    def __init__(self, *outcomes):
        self.outcomes = outcomes
        self.payloads = []

    def __call__(self, payloads):
        self.payloads += payloads
        return list(self.outcomes)


def test_each_outcome_becomes_the_grade_of_its_sample():
    calls = ScriptedCalls(
        Outcome(value=0.5, seconds=0.25),
        Outcome(error="Traceback: boom", kind="raised", seconds=0.5),
        Outcome(error="ended after 120 s", kind="timeout", attempts=2),
        Outcome(error="2048 MiB", kind="memory"),
        Outcome(error="killed", kind="killed"),
        Outcome(error="output", kind="output"),
        Outcome(value="1.0"),
    )
    grades = SourceGrader(calls).grade([sample("x")] * 7)
    assert [found.reward for found in grades] == [0.5] + [None] * 6
    assert [found.flags for found in grades] == [
        (),
        ("python_grader_runtime_error",),
        ("unresponsive_reward_error",),
        ("python_grader_server_error",),
        ("python_grader_server_error",),
        ("python_grader_server_error",),
        ("python_grader_runtime_error",),
    ]
    assert grades[0].seconds == 0.25
    assert grades[1].error == "Traceback: boom"
    assert grades[2].attempts == 2
    assert grades[6].error == "the reward must be a number, got str"


def test_the_answer_travels_as_text_and_the_row_as_item():
    calls = ScriptedCalls(Outcome(value=1.0), Outcome(value=1.0))
    whole = sample("[" * 100_000, answer=4)
    SourceGrader(calls).grade([whole, dataclasses.replace(whole, truncated=True)])
    item = {"answer": 4, "messages": [{"role": "user", "content": "?"}], "id": "row-1"}
    payload = {"item": item, "text": "[" * 100_000, "truncated": False}
    assert calls.payloads == [payload, {**payload, "truncated": True}]


def test_program_and_grader_fit_together():
    source = function("return float(item['number']) / sample['output_json']")
    program = load_program({"source": PythonGrader(source=source).source})

    def in_this_process(payloads):
        return [Outcome(value=json.loads(json.dumps(program(payload)))) for payload in payloads]

    grades = SourceGrader(in_this_process).grade(
        [sample("4", number=2), sample("8", number=np.float64(2))]
    )
    assert [found.reward for found in grades] == [0.5, 0.25]


def test_the_source_runs_in_the_sandbox(tmp_path):
    source = (
        "import os, socket\n"
        "calls = []\n"
        "def grade(sample, item):\n"
        "    calls.append(1)\n"
        "    if sample['output_text'] == 'exit': os._exit(0)\n"
        "    if sample['output_text'] == 'connect': socket.create_connection(('127.0.0.1', 1))\n"
        "    if sample['output_text'] == 'secret': return float(os.environ['AWS_SECRET'])\n"
        "    return len(calls) * item['number']\n"
    )
    with ExitStack() as stack:
        grader = PythonGrader(source=source).open(Context(tmp_path), stack)
        texts = ["", "exit", "connect", "secret", ""]
        grades = grader.grade([sample(text, number=2) for text in texts])
    # every call starts from the source as it was loaded: one call each, times 2
    assert [found.reward for found in grades] == [2.0, None, None, None, 2.0]
    assert [found.flags for found in grades[1:4]] == [
        ("python_grader_server_error",),
        ("python_grader_runtime_error",),
        ("python_grader_runtime_error",),
    ]
    assert "PermissionError" in grades[2].error
    assert "KeyError: 'AWS_SECRET'" in grades[3].error


def test_a_source_that_fails_is_refused_when_opened(tmp_path):
    spec = PythonGrader(source="limit = 1 / 0\ndef grade(sample, item): ...")
    with ExitStack() as stack, pytest.raises(RewardError, match="ZeroDivisionError") as caught:
        spec.open(Context(tmp_path), stack)
    assert 'File "<grader>", line 1' in str(caught.value)
