"""`multi` and `weighted`: one reward of several, and everything the parts have to say kept."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from tunestone.errors import RewardError
from tunestone.rewards.combine import Multi, Weighted
from tunestone.rewards.grader import parse_spec
from tunestone.rewards.openai.graders import StringCheck, TextSimilarity
from tunestone.rewards.spec import Context, Spec, failed
from tunestone.types import Grade, Prompt, Sample

CONTEXT = Context(Path("/rewards"))
EXACT = StringCheck(input="{{ sample.output_text }}", reference="{{ item.answer }}", operation="eq")
CLOSE = TextSimilarity(
    input="{{ sample.output_text }}",
    reference="{{ item.answer }}",
    evaluation_metric="fuzzy_match",
    pass_threshold=0.5,
)


class Scripted(Spec):
    """A spec whose grader gives the grades it was told."""

    type: Literal["scripted"] = "scripted"
    grades: tuple[Any, ...]

    def open(self, context, stack):
        stack.callback(lambda: None)
        return self

    def files(self, context):
        return [context.folder / f"{self.name}.py"]

    def grade(self, samples):
        assert len(samples) == len(self.grades)
        return list(self.grades)


def scripted(*grades, name=""):
    return Scripted(name=name, grades=grades)


def rewards(*numbers, name=""):
    return scripted(*(Grade(reward=number) for number in numbers), name=name)


def sample(text, **row):
    return Sample(Prompt(id="1", messages=({"role": "user", "content": "?"},), row=row), text)


def grade(spec, *samples, count=1):
    with ExitStack() as stack:
        return spec.open(CONTEXT, stack).grade(samples or [sample("")] * count)


def refusal(kind, **fields):
    with pytest.raises(RewardError) as caught:
        kind(**fields)
    return str(caught.value)


# --- rewards


def test_multi_is_the_value_of_its_formula():
    spec = Multi(
        name="both",
        graders={"exact": EXACT, "close": CLOSE},
        calculate_output="0.7 * exact + 0.3 * close",
    )
    right, near = grade(
        spec, sample("sitting", answer="sitting"), sample("kitten", answer="sitting")
    )
    assert right.reward == pytest.approx(1.0)
    # fuzzy_match of kitten and sitting: 2 x 4 / 13
    assert near.reward == pytest.approx(0.3 * 8 / 13)
    assert near.metrics == {"exact": 0.0, "close": pytest.approx(8 / 13), "close/passed": 1.0}
    assert near.error is None
    assert near.flags == ()


def test_weighted_is_the_sum_of_weight_times_reward():
    spec = Weighted(
        graders={"a": rewards(1.0, 0.5), "b": rewards(0.0, 2.0)}, weights={"b": -0.25, "a": 2}
    )
    # 2 x 1 - 0.25 x 0; 2 x 0.5 - 0.25 x 2
    assert [found.reward for found in grade(spec, count=2)] == [2.0, 0.5]
    assert grade(spec, count=2)[1].metrics == {"a": 0.5, "b": 2.0}


def test_a_grader_that_the_formula_leaves_out_is_still_recorded():
    spec = Multi(graders={"a": rewards(1.0), "b": rewards(7.0)}, calculate_output="a / 2")
    [found] = grade(spec)
    assert found.reward == 0.5
    assert found.metrics == {"a": 1.0, "b": 7.0}


def test_no_samples_give_no_grades():
    assert (
        Multi(graders={"a": EXACT}, calculate_output="a").open(CONTEXT, ExitStack()).grade([]) == []
    )


# --- what the parts have to say


def test_seconds_and_tokens_add_up_attempts_do_not():
    one = Grade(
        reward=1.0,
        seconds=0.5,
        attempts=3,
        flags=("truncated_observation_error",),
        tokens={"judge": {"prompt": 10, "completion": 2}},
    )
    two = Grade(
        reward=0.0,
        seconds=0.25,
        attempts=2,
        flags=("truncated_observation_error",),
        tokens={"judge": {"prompt": 5, "cached": 1}, "other": {"prompt": 7}},
    )
    spec = Weighted(graders={"a": scripted(one), "b": scripted(two)}, weights={"a": 1, "b": 1})
    [found] = grade(spec)
    assert found == Grade(
        reward=1.0,
        seconds=0.75,
        attempts=3,
        metrics={"a": 1.0, "b": 0.0},
        flags=("truncated_observation_error",),
        tokens={"judge": {"prompt": 15, "completion": 2, "cached": 1}, "other": {"prompt": 7}},
        parts={"a": one, "b": two},
    )


@pytest.mark.parametrize(
    "combination",
    [{"kind": Multi, "calculate_output": "a + b"}, {"kind": Weighted, "weights": {"a": 1, "b": 1}}],
)
def test_one_failure_makes_the_whole_an_error_that_names_it(combination):
    kind = combination["kind"]
    how = {key: value for key, value in combination.items() if key != "kind"}
    broken = failed("no answer", "unresponsive_reward_error", seconds=2.0, attempts=4)
    spec = kind(graders={"a": rewards(1.0, 1.0), "b": scripted(broken, Grade(reward=0.5))}, **how)
    first, second = grade(spec, count=2)
    assert first == Grade(
        reward=None,
        error="grader b: no answer",
        seconds=2.0,
        attempts=4,
        metrics={"a": 1.0},
        flags=("unresponsive_reward_error",),
        parts={"a": Grade(reward=1.0), "b": broken},
    )
    assert second.reward == 1.5


def test_every_failure_is_named():
    a = failed("first", "other_error")
    b = failed("", "sample_parse_error")
    spec = Multi(graders={"a": scripted(a), "b": scripted(b)}, calculate_output="a + b")
    [found] = grade(spec)
    assert found.error == "grader a: first\ngrader b: "
    assert found.flags == ("other_error", "sample_parse_error")


def test_a_formula_without_a_value_is_an_error_on_its_sample():
    spec = Multi(graders={"a": rewards(2.0, 0.0)}, calculate_output="1 / a")
    good, bad = grade(spec, count=2)
    assert good.reward == 0.5
    assert bad.reward is None
    assert bad.error == "formula: (1) / (0) is not a finite real number"
    assert bad.flags == ("other_error",)
    assert bad.metrics == {"a": 0.0}


def test_a_weighted_sum_that_overflows_is_an_error():
    [found] = grade(Weighted(graders={"a": rewards(1e300)}, weights={"a": 1e300}))
    assert found.reward is None
    assert found.error == "weights: the weighted sum is too large for a float"


def test_the_files_are_those_of_all_graders():
    spec = Multi(
        graders={"a": rewards(1.0, name="x"), "b": rewards(1.0, name="y")}, calculate_output="a"
    )
    assert spec.files(CONTEXT) == [Path("/rewards/x.py"), Path("/rewards/y.py")]


# --- what is refused


def test_a_single_grader_counts_under_its_own_name():
    spec = Multi(graders=EXACT.model_copy(update={"name": "exact"}), calculate_output="1 - exact")
    assert grade(spec, sample("4", answer="4"))[0].reward == 0.0
    assert "graders: '' cannot be the name" in refusal(
        Multi, graders=EXACT, calculate_output="exact"
    )


def test_an_unknown_variable_is_refused_with_the_nearest():
    assert refusal(Multi, graders={"exact": EXACT}, calculate_output="exakt") == (
        "formula: there is no grader 'exakt' (character 1). Did you mean 'exact'?"
    )


@pytest.mark.parametrize("name", ["my-grader", "a b", "1st", "a/b", ""])
def test_a_name_that_no_formula_can_hold_is_refused(name):
    message = f"graders: {name!r} cannot be the name of a grader in a formula. Use letters,"
    assert message in refusal(Multi, graders={name: EXACT}, calculate_output="1")
    assert message in refusal(Weighted, graders={name: EXACT}, weights={name: 1})


@pytest.mark.parametrize("kind", ["multi", "weighted"])
def test_combinations_do_not_nest(kind):
    message = f"graders.inner: a {kind} grader cannot stand inside another one. Put its graders"
    data = {"type": kind, "graders": {}}
    assert message in refusal(Multi, graders={"inner": data}, calculate_output="inner")
    assert message in refusal(Weighted, graders={"inner": data}, weights={"inner": 1})


def test_a_combination_that_is_a_spec_already_does_not_nest_either():
    inner = Multi(graders={"a": EXACT}, calculate_output="a")
    assert "graders.b: a multi grader cannot stand" in refusal(
        Multi, graders={"b": inner}, calculate_output="b"
    )


def test_weights_and_graders_must_agree():
    message = refusal(Weighted, graders={"a": EXACT, "b": CLOSE}, weights={"a": 1, "c": 2})
    assert message == "weights: no weight for b and no grader for c. Give one weight each to a, b."


def test_there_must_be_a_grader_and_weights_must_be_finite():
    with pytest.raises(ValidationError, match="at least 1 item"):
        Multi(graders={}, calculate_output="1")
    with pytest.raises(ValidationError, match="finite number"):
        Weighted(graders={"a": EXACT}, weights={"a": float("inf")})
    with pytest.raises(ValidationError, match="valid dictionary"):
        Multi(graders=[EXACT], calculate_output="1")


def test_a_dump_holds_the_whole_of_every_grader():
    dump = Multi(graders={"a": EXACT}, calculate_output="a").model_dump(exclude_defaults=True)
    assert dump["graders"]["a"]["operation"] == "eq"


# --- as a user writes it

CHECK = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


@pytest.mark.parametrize("graders", [{"exact": CHECK}, CHECK])
def test_openais_json_is_read_with_a_map_or_a_single_grader(graders):
    spec = parse_spec(
        {"type": "multi", "name": "m", "graders": graders, "calculate_output": "exact / 2"}
    )
    assert grade(spec, sample("4", answer="4"))[0].reward == 0.5


def test_a_fault_inside_a_grader_says_which():
    data = {"type": "weighted", "weights": {"a": 1}}
    message = refusal(parse_spec, table={**data, "graders": {"a": {**CHECK, "operation": "is"}}})
    assert message.startswith("graders.a: string_check reward: operation: Input should be 'eq'")
    message = refusal(parse_spec, table={**data, "graders": {"a": {**CHECK, "input": "{{ x }}"}}})
    assert message.startswith("graders.a: template: '{{ x }}' (character 1) has no known")
    message = refusal(parse_spec, table={**data, "graders": {"a": {"type": "string_chek"}}})
    assert message.startswith("graders.a: there is no reward of type 'string_chek'. Did you mean")
    message = refusal(parse_spec, table={**data, "graders": {"a": "exact"}})
    assert "graders.a: must be a table" in message
