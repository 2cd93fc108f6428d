"""The section `data` of a check: repeats, leaks, lengths, reference answers, markers, tools."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunestone.check.answers import WAYS, is_empty, value_of
from tunestone.check.data_section import DataSet, check_data
from tunestone.check.findings import Finding, Section
from tunestone.check.lengths import Lengths, histogram, measure_lengths, quantile
from tunestone.check.markers import find_markers
from tunestone.duplicates import find_near
from tunestone.types import Prompt

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def prompt(text: str, number: int = 0, **row) -> Prompt:
    return Prompt(
        f"p{number}", ({"role": "user", "content": text},), row, source=f"d.jsonl:{number}"
    )


def healthy(count: int = 300, *, seed: int = 0, start: int = 0) -> list[Prompt]:
    """Prompts that differ, ask for the marker, and have answers of one kind."""
    draw = random.Random(seed)
    return [
        prompt(
            f"Sort {' '.join(draw.choices(WORDS, k=20))} and end with #### and the word.",
            start + i,
            reference_answer=draw.choice(WORDS),
        )
        for i in range(count)
    ]


def words(text: str) -> int:
    return len(text.split())


def look(training, *, validation=(), test=(), reward="") -> Section:
    lengths = measure_lengths(
        training,
        count_tokens=lambda prompt: words(prompt.messages[-1]["content"]),
        count_text_tokens=words,
    )
    return check_data(DataSet(training, validation, test), lengths, reward_source=reward)


def finding(section: Section, code: str) -> Finding:
    (found,) = [finding for finding in section.findings if finding.code == code]
    return found


def bad_codes(section: Section) -> set[str]:
    return {finding.code for finding in section.findings if finding.level != "ok"}


def test_good_data_has_nothing_against_it():
    section = look(
        healthy(),
        validation=healthy(120, seed=1, start=1000),
        test=healthy(100, seed=2, start=2000),
        reward="import re\nM = re.compile(r'#### (\\w+)')",
    )
    assert bad_codes(section) == set()
    assert {finding.code for finding in section.findings} == {
        "row_count",
        "no_repeats",
        "no_validation_leak",
        "no_test_leak",
        "reference_answers",
        "marker_asked_for",
        "lengths",
    }
    assert section.facts["rows"] == 300
    assert section.facts["validation_rows"] == 120


def test_codes_are_unique_in_a_section():
    training = [*healthy(50), *healthy(3)]
    codes = [finding.code for finding in look(training, validation=healthy(3)).findings]
    assert len(codes) == len(set(codes))


# --- size


@pytest.mark.parametrize(
    ("rows", "level", "code"),
    [
        (99, "warning", "too_few_rows"),
        (100, "advice", "few_rows"),
        (199, "advice", "few_rows"),
        (200, "ok", "row_count"),
        (10_000, "ok", "row_count"),
        (10_001, "advice", "many_rows"),
        (20_001, "warning", "too_many_rows"),
    ],
)
def test_rows_are_held_against_the_limits_of_the_services(rows, level, code):
    training = [prompt(f"what is {i}", i, reference_answer=f"a{i}") for i in range(rows)]
    found = finding(look(training), code)
    assert found.level == level
    assert f"{rows:,} training rows" in found.message


def test_one_is_singular():
    found = look([prompt("which word?")], validation=[prompt("and which one?", 1)])
    assert finding(found, "too_few_rows").message.startswith("1 training row;")
    assert finding(found, "few_validation_rows").message.startswith("1 validation row;")


@pytest.mark.parametrize("count", [1, 5])
def test_data_that_cannot_be_split_is_fatal(count):
    same = [prompt("which word?", i) for i in range(count)]
    found = finding(look(same), "nothing_to_validate_on")
    assert found.level == "fatal"
    assert ("only one training row" if count == 1 else "prompts are equal") in found.message
    elsewhere = look(same, validation=[prompt("and which one?", 9)])
    assert "nothing_to_validate_on" not in bad_codes(elsewhere)
    two = [*same, prompt("and which one?", 9)]
    assert "nothing_to_validate_on" not in bad_codes(look(two))


def test_validation_rows_are_counted():
    training = healthy()
    assert "no_validation_rows" in bad_codes(look(training))
    few = look(training, validation=healthy(99, seed=3, start=1000))
    assert finding(few, "few_validation_rows").message.startswith("99 validation rows")
    many = look(training, validation=healthy(1_001, seed=3, start=1000))
    assert finding(many, "many_validation_rows").level == "advice"


# --- repeats


def test_equal_prompts_are_counted_and_named():
    training = [
        *healthy(),
        prompt("Say hello to #### me.", 900),
        prompt("Say hello to #### me.", 901),
    ]
    training += [prompt("Say hello to #### me.", 902)]
    found = finding(look(training), "duplicate_prompts")
    assert found.message.startswith("2 of 303 training prompts repeat")
    assert found.evidence == ({"ids": ["p900", "p901", "p902"]},)
    assert "near_duplicate_prompts" not in bad_codes(look(training))  # said once is enough


def test_equal_prompts_with_different_answers_contradict():
    training = [
        *healthy(),
        prompt("Which word?", 900, reference_answer="a"),
        prompt("Which word?", 901, reference_answer="b"),
    ]
    found = finding(look(training), "contradicting_answers")
    assert found.evidence[0] == {"ids": ["p900", "p901"], "reference_answers": ["a", "b"]}
    training[-1] = prompt("Which word?", 901, reference_answer="a")
    assert "contradicting_answers" not in bad_codes(look(training))


LONG = (
    "On Monday the baker sold 3 loaves, and 5 more after lunch; on Tuesday nobody came, so he went "
    "home early and slept. How many loaves did the baker sell in these two days?"
)


def test_a_changed_word_is_near_a_changed_number_is_not():
    training = healthy()
    near = look(
        [*training, prompt(LONG, 900), prompt(LONG.replace("baker", "Baker") + " Say.", 901)]
    )
    found = finding(near, "near_duplicate_prompts")
    assert found.message.startswith("1 of 302 training prompts nearly repeats")
    assert found.evidence[0]["ids"] == ["p900", "p901"]
    assert found.level == "advice"  # one row in 302
    other = look([*training, prompt(LONG, 900), prompt(LONG.replace("5 more", "6 more"), 901)])
    assert "near_duplicate_prompts" not in bad_codes(other)


def test_a_shared_system_prompt_makes_no_prompts_alike():
    system = "You are a careful assistant. " + " ".join(WORDS[:120]) + ". Think, then answer."
    training = [
        Prompt(f"p{i}", ({"role": "system", "content": system}, *row.messages), row.row)
        for i, row in enumerate(healthy())
    ]
    texts = [system + row.messages[1]["content"] for row in training]
    assert find_near(texts) == []
    assert "near_duplicate_prompts" not in bad_codes(look(training))


# --- leaks


def test_a_leak_is_fatal_and_named():
    training, validation = healthy(), healthy(120, seed=1, start=1000)
    validation[7] = Prompt("copy", training[4].messages)
    section = look(training, validation=validation)
    found = finding(section, "validation_leak")
    assert found.level == "fatal"
    assert found.message.startswith("1 of 120 validation prompts is also trained on")
    assert found.evidence == ({"training": "p4", "validation": "copy"},)
    assert "validation_near_leak" not in bad_codes(section)  # said once is enough


def test_a_near_leak_is_a_warning():
    training, test = healthy(), healthy(50, seed=2, start=2000)
    test[3] = prompt(training[9].messages[0]["content"] + " Now.", 999)
    section = look(training, test=test)
    assert finding(section, "test_near_leak").evidence[0]["ids"] == ["p9", "p999"]
    assert "test_leak" not in bad_codes(section)


def test_test_prompts_must_not_choose_the_checkpoint():
    shared = healthy(100, seed=1, start=1000)
    section = look(healthy(), validation=shared, test=shared[:2])
    assert finding(section, "validation_test_overlap").message.startswith("2 of 2 test prompts")


# --- reference answers


def test_missing_empty_and_mixed_answers_are_counted():
    training = healthy()
    training[0] = prompt("Nothing #### known.", 0)
    training[1] = prompt("Blank #### answer.", 1, reference_answer="  ")
    training[2] = prompt("Number #### answer.", 2, reference_answer=3)
    training[3] = prompt("Object #### answer.", 3, reference_answer={"b": 1, "a": 2})
    section = look(training)
    missing = finding(section, "missing_reference_answers")
    assert missing.message.startswith("1 of 300 rows has no")
    assert missing.evidence == ({"id": "p0", "where": "d.jsonl:0"},)
    assert finding(section, "empty_reference_answers").evidence[0]["id"] == "p1"
    mixed = finding(section, "mixed_reference_answers").message
    assert "3 shapes: a string (297 of 299)" in mixed
    assert "an object with a, b (1 of 299)" in mixed


def test_objects_with_other_keys_are_another_shape():
    training = [prompt(f"w{i} ####", i, reference_answer={"answer": str(i)}) for i in range(200)]
    training[5] = prompt("odd ####", 5, reference_answer={"Answer": "5"})
    assert "2 shapes" in finding(look(training), "mixed_reference_answers").message


def test_no_answers_at_all_are_only_advised_against():
    training = [prompt(f"Write about {word}.", i) for i, word in enumerate(WORDS)]
    assert finding(look(training), "no_reference_answers").level == "advice"


def test_labels_that_are_nearly_always_the_same():
    def labels(share):
        return [
            prompt(f"Is {a} like {b}?", i, reference_answer="no" if i >= share * 100 else "yes")
            for i, (a, b) in enumerate(zip(WORDS[:100], WORDS[50:], strict=True))
        ]

    found = finding(look(labels(0.9)), "unbalanced_answers")
    assert "'yes' 90 %, 'no' 10 %" in found.message
    assert "right for 90 % of the rows" in found.message
    assert finding(look(labels(0.6)), "balanced_answers").level == "ok"
    assert "balanced_answers" not in {f.code for f in look(healthy()).findings}  # no labels


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("72", "72"),
        (72, "72"),
        ("48 + 24 = 72\n#### 72", "72"),
        ({"text": "so #### 1,234\n"}, "1,234"),
        ({"final_answer": "7", "steps": ["a"]}, "7"),
        ({"label": 0, "question": "q"}, "0"),
        (r"thus \boxed{3}", "3"),
        ("<answer> B </answer>", "B"),
        ({"x": 1, "y": 2}, '{"x": 1, "y": 2}'),
        (True, "true"),
    ],
)
def test_the_value_of_a_reference(reference, value):
    assert value_of(reference) == value
    assert {way.name: way.write(reference) for way in WAYS}["#### x"] == f"#### {value}"


def test_nothing_in_it_is_empty_zero_is_not():
    assert all(map(is_empty, [None, "", " ", [], {}, {"answer": None}]))
    assert not any(map(is_empty, [0, False, "0", {"answer": 0}]))


# --- markers


@pytest.mark.parametrize(
    ("reward", "names"),
    [
        ('import re\nP = re.compile(r"####\\s*(-?\\d+)")', ["####"]),
        ('def f(p, c, r):\n    """Wants <think>."""\n    return c == "x"', []),
        ('T = r"<answer>(.*?)<\\/answer>"', ["<answer>"]),
        ('P = r"(?P<value>\\d+)"', []),
        ('P = r"ANSWER:\\s*(.*)"', ["ANSWER:"]),
        ('B = "\\\\boxed{"', ["\\boxed{}"]),
        ("import json\ndef f(p, c, r):\n    return json.loads(c)['x']", ["JSON"]),
        ("import json\ndef lambda_handler(e, c):\n    return json.loads(e)", []),
        ('{"type": "number", "style": "hash"}', ["####"]),
        ('{"type": "number", "style": "flexible"}', []),
        (
            '{"type": "multi", "graders": {"a": {"type": "format_tags", "tags": ["think"]}}}',
            ["<think>"],
        ),
        ('{"type": "python", "source": "def grade(s, i):\\n    return \'####\' in s"}', ["####"]),
        ('{"type": "string_check", "input": "{{ sample.output_json.a }}"}', ["JSON"]),
    ],
)
def test_markers_are_read_from_source_and_spec(reward, names):
    assert [marker.name for marker in find_markers(reward)] == names


def test_prompts_that_do_not_ask_for_the_marker():
    training = [
        prompt(f"Add {word} to {i}." + (" Write ####." if i < 30 else ""), i, reference_answer=word)
        for i, word in enumerate(WORDS)
    ]
    found = finding(look(training, reward="M = '#### '"), "marker_not_asked_for")
    assert found.level == "warning"
    # 150 words, 30 of them with the marker: 120 / 150
    assert found.message == "The reward looks for `####`, but 80 % of the prompts never mention it."
    either = look(training, reward="M = ('#### ', 'boxed')")
    assert "`####` or `\\boxed{}`" in finding(either, "marker_not_asked_for").message


# --- tools


def tool(name, description="Adds."):
    function = {"name": name, "description": description, "parameters": {"type": "object"}}
    return {"type": "function", "function": function}


def with_tools(tools_of):
    return [
        Prompt(row.id, row.messages, row.row, tuple(tools_of(i))) for i, row in enumerate(healthy())
    ]


def test_tools_must_agree_between_rows():
    assert finding(look(with_tools(lambda i: [tool("add")])), "tools").level == "ok"
    torn = look(with_tools(lambda i: [tool("add", "Adds." if i else "Adds two.")]))
    found = finding(torn, "inconsistent_tools")
    assert (found.level, found.evidence[0]["tool"]) == ("warning", "add")
    assert "`add` is defined in 2 ways" in found.message
    some = finding(look(with_tools(lambda i: [tool("add")] * (i < 10))), "inconsistent_tools")
    assert (some.level, "10 of 300 rows" in some.message) == ("advice", True)
    bare = finding(look(with_tools(lambda i: [tool("add", "")])), "inconsistent_tools")
    assert "`add` lacks a description or parameters" in bare.message


# --- lengths


def test_limits_follow_the_sizing_rule():
    # P99 of 1..100 is the 99th value, 99: 2 x 99; of 101..200 it is 199: 3 x 199.
    lengths = Lengths(tuple(range(1, 101)), tuple(range(101, 201)))
    assert lengths.max_prompt_tokens == 198
    assert lengths.max_completion_tokens == 597


def test_bare_answers_say_nothing_of_solutions():
    assert Lengths((10, 20), (1, 2, 3)).max_completion_tokens is None
    assert Lengths((10, 20)).max_completion_tokens is None
    assert "bare or missing" in finding(look(healthy()), "lengths").message


def test_prompts_beyond_the_limit_are_named():
    training = [*healthy(), prompt("long " * 200, 900, reference_answer="x")]
    found = finding(look(training), "long_prompts")
    # every other prompt has 1 + 20 + 7 = 28 words
    assert found.message.startswith("max_prompt_tokens = 56 (2 x P99 of the prompts)")
    assert found.evidence == ({"id": "p900", "tokens": 200},)


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=50))
def test_bars_hold_every_value_once(values):
    bars = histogram("t", values)
    assert sum(bars.counts) == len(values)
    assert len(bars.counts) == len(bars.labels) <= 10
    for label, count in zip(bars.labels, bars.counts, strict=True):
        low, _, high = label.partition("-")
        assert count == sum(int(low) <= value <= int(high or low) for value in values)


@given(st.lists(st.integers(0, 99), min_size=1), st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_the_smallest_value_that_enough_do_not_exceed(values, share):
    value = quantile(values, share)
    assert value in values
    assert sum(other <= value for other in values) >= share * len(values)
    assert all(
        sum(other <= smaller for other in values) < share * len(values)
        for smaller in values
        if smaller < value
    )
