"""The Lambda handlers to copy: right and wrong answers, both places of the reference."""

import ast
import sys
from pathlib import Path

import pytest

from tunestone.rewards.ready.lambda_templates import format_constraints, generic, math_reasoning

HANDLERS = [format_constraints, generic, math_reasoning]
GOOD = "<think>6 * 12</think>\n<answer>72</answer>"


def sample(text, reference=None, **row):
    """A sample as Bedrock sends it: the reference at both places, every other key as metadata."""
    given = {} if reference is None else {"reference_answer": reference}
    return {
        "id": "s1",
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}],
        "metadata": {**row, **given},
        **given,
    }


def reward(handler, *samples):
    results = handler.lambda_handler(list(samples), None)
    return [result["aggregate_reward_score"] for result in results]


@pytest.mark.parametrize("handler", HANDLERS)
def test_the_response_has_the_documented_shape(handler):
    event = [sample("#### 72", "72"), {**sample(GOOD, "72"), "id": "s2"}]
    results = handler.lambda_handler(event, None)
    assert [result["id"] for result in results] == ["s1", "s2"]
    for result in results:
        assert set(result) == {"id", "aggregate_reward_score", "metrics_list"}
        assert isinstance(result["aggregate_reward_score"], float)
        assert result["metrics_list"]
        for metric in result["metrics_list"]:
            assert set(metric) == {"name", "value", "type"}
            assert (type(metric["value"]), metric["type"]) == (float, "Metric")
    assert handler.lambda_handler({"trajectories": event}, None) == results
    assert handler.lambda_handler([], None) == []


@pytest.mark.parametrize("handler", HANDLERS)
def test_they_need_nothing_but_the_standard_library(handler):
    tree = ast.parse(Path(handler.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert names and names <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6 * 12 = 72\n#### 72", 1.0),
        ("#### 72.0", 1.0),
        ("#### $72.", 1.0),
        ("#### 71", 0.1),
        ("#### 1 #### 2 #### 72", 1.0),
        ("#### 72 #### 1", 0.1),
        ("#### 71 72", 0.0),
        ("#### 72\nDone", 0.0),
        ("72", 0.0),
        ("####", 0.0),
        ("", 0.0),
        ("#### 1,072", 0.1),
    ],
)
def test_math_reasoning(text, expected):
    for reference in ("72", 72, "6 * 12\n#### 72", {"text": "#### 72"}, {"final_answer": "72"}):
        assert reward(math_reasoning, sample(text, reference)) == [expected]
    nested = sample(text, "72")
    del nested["reference_answer"]
    top = {**sample(text, "72"), "metadata": {}}
    assert reward(math_reasoning, nested, top) == [expected, expected]
    assert reward(math_reasoning, sample([{"text": text[:2]}, {"text": text[2:]}], 72)) == [
        expected
    ]


def test_math_reasoning_refuses_a_reference_without_a_number():
    for reference in (None, "seventy", {"value": 72}):
        with pytest.raises(ValueError, match="sample 's1': no number in"):
            reward(math_reasoning, sample("#### 72", reference))


def test_format_constraints():
    # Of has_think, has_answer, in_order, short_enough.
    texts = [GOOD, "<answer>72</answer><think>so</think>", "<answer>72</answer>", "72", ""]
    assert reward(format_constraints, *map(sample, texts)) == [1.0, 0.75, 0.5, 0.25, 0.0]
    long = "<think>" + "so " * 500 + "</think><answer>72</answer>"
    assert reward(format_constraints, sample(long), sample(long, max_words=600)) == [0.75, 1.0]
    row = {"required_phrases": ["6 * 12"], "forbidden_phrases": ["as an AI"]}
    assert reward(format_constraints, sample(GOOD, **row)) == [1.0]
    assert reward(format_constraints, sample(GOOD.replace("6", "As an ai,"), **row)) == [4 / 6]
    assert reward(format_constraints, sample("", **row)) == [0.0]


def test_format_constraints_on_json():
    checks = format_constraints.check
    format_constraints.ANSWER_IS_JSON, format_constraints.REQUIRED_KEYS = True, ["name"]
    try:
        for answer, held in (('{"name": 1}', [True, True]), ('{"age": 1}', [True, False]),
                             ("[1]", [False, False]), ("[" * 100_000, [False, False])):  # fmt: skip
            found = checks(f"<think>so</think><answer>{answer}</answer>", {})
            assert [found["is_json"], found["has_key_name"]] == held
    finally:
        format_constraints.ANSWER_IS_JSON, format_constraints.REQUIRED_KEYS = False, []


def test_generic():
    texts = ["So:\nRome", "rome ", "Oslo", "Rome\nOslo", ""]
    assert reward(generic, *[sample(text, "Rome") for text in texts]) == [1.0, 1.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="sample 's1' has no reference answer"):
        reward(generic, sample("Rome"))
