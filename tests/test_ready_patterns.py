"""Form: regular expressions in the sandbox, and tags in their order by plain searches."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ready_steps import grade, sample
from tunestone.errors import RewardError
from tunestone.rewards.ready.patterns import FormatTags, Regex, score_tags
from tunestone.rewards.ready.sandboxed import load_program

TAGS = ("think", "answer")


def match(text, pattern, mode, reference=None, **options):
    program = load_program(
        {"scorer": "regex", "options": {"pattern": pattern, "mode": mode, **options}}
    )
    result = program({"text": text, "arguments": {"reference": reference}})
    return result["reward"], result["metrics"]["matched"]


@pytest.mark.parametrize(
    ("mode", "text", "expected"),
    [
        ("search", "ab 12 cd", (1, 1)),
        ("search", "ab", (0, 0)),
        ("fullmatch", "12", (1, 1)),
        ("fullmatch", "12 ", (0, 0)),
        ("fullmatch", "", (0, 0)),
    ],
)
def test_search_and_fullmatch(mode, text, expected):
    assert match(text, r"\d+", mode) == expected


def test_capture_compares_the_group_of_the_last_match():
    pattern = r"Answer: (?P<word>\w+)( or .*)?"
    assert match("Answer: Rome", pattern, "capture", "Rome") == (1, 1)
    assert match("Answer: Rome", pattern, "capture", " Rome\n") == (1, 1)
    assert match("Answer: Rome", pattern, "capture", "Oslo") == (0, 1)
    assert match("Rome", pattern, "capture", "Rome") == (0, 0)
    assert match("Answer: Rome Answer: Oslo", pattern, "capture", "Rome") == (0, 1)
    assert match("Answer: Rome", pattern, "capture", "Rome", group="word") == (1, 1)
    assert match("Answer: Rome", pattern, "capture", "Rome", group=2) == (0, 1)  # took no part
    assert match("Answer: 12", pattern, "capture", 12) == (1, 1)


def test_wrong_patterns_are_refused_when_they_are_read():
    with pytest.raises(RewardError, match=r"the pattern '\(' is not valid: missing \)"):
        Regex(pattern="(")
    with pytest.raises(RewardError, match=r"the pattern 'a' has no group 1"):
        Regex(pattern="a", mode="capture")
    with pytest.raises(RewardError, match=r"has no group 'word'"):
        Regex(pattern="(a)", mode="capture", group="word")


def test_a_pattern_that_explodes_is_ended_and_the_others_are_graded():
    spec = Regex(pattern=r"^(a+)+$", mode="fullmatch", timeout_seconds=1)
    good, hanging, bad = grade(spec, sample("aaa"), sample("a" * 60 + "!"), sample("b"))
    assert (good.reward, bad.reward) == (1.0, 0.0)
    assert (hanging.reward, hanging.flags) == (None, ("unresponsive_reward_error",))
    assert hanging.seconds >= 1


def test_capture_through_the_sandbox_with_flags_and_missing_references():
    spec = Regex(pattern=r"^answer: (\w+)$", mode="capture", flags=("ignore_case", "multiline"))
    grades = grade(
        spec,
        sample("ANSWER: Rome", answer="Rome"),
        sample("Well.\nAnswer: Rome\nDone.", reference_answer="Rome"),
        sample("Answer: Oslo", reference_answer="Rome"),
    )
    assert [grade.reward for grade in grades] == [None, 1.0, 0.0]
    assert grades[0].flags == ("invalid_variable_error",)


GOOD = "<think>so</think>\n<answer>72</answer>"


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (GOOD, "think answer order outside"),
        (f"\n {GOOD}\n", "think answer order outside"),
        (f"Sure! {GOOD}", "think answer order"),
        (f"{GOOD} Bye.", "think answer order"),
        ("<think>so</think> then <answer>72</answer>", "think answer order"),
        ("<answer>72</answer><think>so</think>", "think answer"),
        ("<think>so<answer>72</answer></think>", "think answer"),
        ("<think>so<answer>72</think></answer>", "think answer"),
        ("<think>so</think>", "think"),
        ("<answer>72</answer>", "answer"),
        ("<think>so</think><answer>72", "think"),
        ("<think></think><answer> \n</answer>", ""),
        (f"{GOOD}<answer>73</answer>", "think"),
        ("</think>so<think></answer>72<answer>", ""),
        ("<THINK>so</THINK><ANSWER>72</ANSWER>", ""),
        ("72", ""),
        ("", ""),
    ],
)
def test_conditions_on_tags(text, held):
    reward, metrics = score_tags(text, tags=TAGS)
    assert [name for name, holds in metrics.items() if holds] == held.split()
    assert reward == len(held.split()) / 4
    strict = score_tags(text, tags=TAGS, partial_credit=False)
    assert strict == (float(len(held.split()) == 4), metrics)


def test_one_permutation_of_six_parts_has_the_full_reward():
    parts = ["<think>", "so", "</think>", "<answer>", "72", "</answer>"]
    full = [
        order
        for order in itertools.permutations(parts)
        if score_tags("".join(order), tags=TAGS)[0] == 1
    ]
    # The two contents may change places; anything else breaks a condition.
    assert full == [tuple(parts), ("<think>", "72", "</think>", "<answer>", "so", "</answer>")]


@given(st.text() | st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "x"])).map("".join))
def test_arbitrary_text_is_read_without_an_error(text):
    assert 0 <= score_tags(text, tags=TAGS)[0] < 1  # never full: </answer> does not occur


@pytest.mark.parametrize("unit", ["<think>", "</think>", "<", "a", " ", "<think></think>"])
def test_a_megabyte_is_read_in_linear_time(unit):
    start = time.perf_counter()
    score_tags("<think>" + unit * (1_000_000 // len(unit)), tags=TAGS)
    assert time.perf_counter() - start < 1


def test_the_grader_of_tags():
    assert [g.reward for g in grade(FormatTags(), sample(GOOD), sample("72"))] == [1.0, 0.0]
    three = FormatTags(tags=("plan", "think", "answer"))
    assert grade(three, sample("<plan>p</plan>" + GOOD))[0].reward == 1.0


@pytest.mark.parametrize("tags", [("a", "a"), ("<a>",), ("",)])
def test_wrong_tags_are_refused(tags):
    with pytest.raises(RewardError, match="are not different plain names"):
        FormatTags(tags=tags)
