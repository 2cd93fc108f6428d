"""The section `reward` of a check: every hole is found in a reward that has it, and in no other."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.stats import spearmanr

from tunestone.check.answers import WAYS
from tunestone.check.findings import Finding, Section
from tunestone.check.probes import POSITIONS, PROBES, other_answers
from tunestone.check.reward_numbers import check_latency, judge_tokens, length_correlation
from tunestone.check.reward_section import RewardTask, check_reward
from tunestone.check.trial import Trial
from tunestone.types import Grade, Prompt, Sample

Reward = Callable[[str, str], float]
TASK = RewardTask(batch_size=16, group_size=8)


class Scripted:
    """A grader made of a function of text and reference answer; counts what it is asked."""

    def __init__(self, reward: Callable[..., float], *, seconds: float = 0.001) -> None:
        self.reward = reward
        self.seconds = seconds
        self.seen: list[Sample] = []

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        self.seen += samples
        return [self._grade(sample) for sample in samples]

    def _grade(self, sample: Sample) -> Grade:
        try:
            value = self.reward(sample.text, sample.prompt.row.get("reference_answer"))
        except ValueError as error:
            return Grade(None, error=f"Traceback\nValueError: {error}", seconds=self.seconds)
        return Grade(value, seconds=self.seconds)


def rows(count: int = 40, answer: Callable[[int], object] = lambda i: str(37 * i + 11)):
    return [
        Prompt(
            f"p{i}",
            ({"role": "user", "content": f"Which number is number {i} in the long list?"},),
            {"reference_answer": answer(i)},
        )
        for i in range(count)
    ]


def look(reward: Reward, prompts=None, *, task=TASK, completions=()) -> Section:
    prompts = rows() if prompts is None else prompts
    return check_reward(Scripted(reward), prompts, task, completions=completions)


def finding(section: Section, code: str) -> Finding:
    (found,) = [finding for finding in section.findings if finding.code == code]
    return found


def bad(section: Section) -> dict[str, str]:
    """Code -> level of everything that is worse than advice."""
    return {f.code: f.level for f in section.findings if f.level in ("fatal", "warning")}


# --- honest rewards: nothing to complain about


def strict_hash(text: str, reference: str) -> float:
    found = re.findall(r"####\s*(-?\d+)", text)
    return float(len(found) == 1 and text.strip().endswith(f"#### {reference}"))


def last_hash(text: str, reference: str) -> float:
    """AWS's GSM8K reward: the last match counts."""
    found = re.findall(r"####\s*(-?\d+)", text)
    return float(bool(found) and found[-1] == reference)


def exact(text: str, reference: str) -> float:
    return float(text.strip() == str(reference))


def boxed(text: str, reference: str) -> float:
    return float(re.findall(r"\\boxed\{([^{}]*)\}", text) == [reference])


def tagged(text: str, reference: str) -> float:
    whole = re.fullmatch(r"<think>.+</think>\s*<answer>(.*?)</answer>", text, re.DOTALL)
    return float(bool(whole) and whole.group(1) == reference)


def with_format_bonus(text: str, reference: str) -> float:
    """0.2 for the form, 1 for the answer, -1 for nothing: another range, and partial credit."""
    found = re.findall(r"####\s*(-?\d+)", text)
    return -1.0 if len(found) != 1 else 1.0 if found[0] == reference else -0.6


def scaled(text: str, reference: str) -> float:
    return 10 * strict_hash(text, reference)


@pytest.mark.parametrize(
    ("reward", "way"),
    [
        (strict_hash, "#### x"),
        (exact, "x"),
        (boxed, r"\boxed{x}"),
        (tagged, "<think>...</think> <answer>x</answer>"),
        (with_format_bonus, "#### x"),
        (scaled, "#### x"),
    ],
)
def test_an_honest_reward_raises_no_alarm_and_the_way_is_named(reward, way):
    section = look(reward)
    assert bad(section) == {}
    assert section.facts["best_way"] == way
    assert finding(section, "no_hole_found").message == "None of 9 hacking probes scores high."
    assert f"in all 16 rows tried when written as `{way}`" in (
        finding(section, "reference_gets_maximum").message
    )


def test_the_last_answer_counting_is_advice_the_only_answer_is_not_even_that():
    assert finding(look(last_hash), "last_answer_counts").level == "advice"
    assert bad(look(last_hash)) == {}
    codes = {finding.code for finding in look(strict_hash).findings}
    assert not codes & {"last_answer_counts", "first_answer_counts"}


def test_the_first_answer_counting_is_said_too():
    def first(text, reference):
        return float((re.findall(r"####\s*(\d+)", text) or [""])[0] == reference)

    assert finding(look(first), "first_answer_counts").level == "advice"


def test_labels_and_exact_match_are_fine():
    labels = rows(40, lambda i: "yes" if i % 3 else "no")
    assert bad(look(exact, labels)) == {}


def test_an_object_as_reference_is_written_as_its_value():
    prompts = rows(40, lambda i: {"final_answer": str(i), "steps": None})
    section = look(lambda text, reference: exact(text, reference["final_answer"]), prompts)
    assert (bad(section), section.facts["best_way"]) == ({}, "x")


def test_a_smooth_similarity_is_no_hole():
    from rapidfuzz.fuzz import ratio

    texts = [
        "The river floods every spring because snow melts in the hills.",
        "Copper was traded along the coast long before iron came into use.",
        "Bees find their way home by the sun, even behind thin clouds.",
        "A clock that is right twice a day is still of little help.",
    ]
    prompts = rows(12, lambda i: texts[i % 4])
    assert bad(look(lambda text, reference: ratio(text, reference) / 100, prompts)) == {}


# --- one hole each


@pytest.mark.parametrize(
    ("reward", "codes"),
    [
        # nothing said counts as right
        (lambda t, r: float(not t or exact(t, r)), {"empty_scores": "fatal"}),
        # whatever is long enough
        (
            lambda t, r: float(len(t) > 1_000 or exact(t, r)),
            {"repetition_scores": "fatal", "very_long_scores": "fatal"},
        ),
        (lambda t, r: float(len(t) > 10_000 or exact(t, r)), {"very_long_scores": "fatal"}),
        # any letter beyond ASCII
        (lambda t, r: float(not t.isascii() or exact(t, r)), {"noise_scores": "fatal"}),
        # the prompt's words
        (lambda t, r: float("long list" in t or exact(t, r)), {"echo_scores": "fatal"}),
        # half of it is enough
        (
            lambda t, r: float(bool(t) and r.startswith(t)),
            {"truncated_scores": "warning"},
        ),
        # only the form is looked at
        (
            lambda t, r: float(bool(re.fullmatch(r"#### \d+", t))),
            {"wrong_answer_scores": "warning"},
        ),
        # most of the reward is for the form
        (
            lambda t, r: 0.6 * bool(re.fullmatch(r"#### \d+", t)) + 0.4 * strict_hash(t, r),
            {"wrong_answer_scores": "warning"},
        ),
        # any of the answers
        (
            lambda t, r: float(r in re.findall(r"#### (\d+)$", t, re.MULTILINE)),
            {"several_answers_score": "warning"},
        ),
        # the right one occurs in it
        (
            lambda t, r: float(bool(re.search(rf"\b{r}\b", t))),
            {"several_answers_score": "warning", "everything_scores": "warning"},
        ),
    ],
)
def test_a_hole_is_found_and_no_other(reward, codes):
    section = look(reward)
    assert bad(section) == codes
    for code in codes:
        found = finding(section, code)
        assert 1 <= len(found.evidence) <= 3
        for piece in found.evidence:
            prompt = next(row for row in rows() if row.id == piece["id"])
            if "[..." not in piece["completion"]:  # the text shown got the reward shown
                assert (
                    reward(piece["completion"], prompt.row["reference_answer"]) == piece["reward"]
                )
            assert piece["reward"] > 0


def test_labels_by_substring_pay_for_saying_everything():
    labels = rows(40, lambda i: "yes" if i % 2 else "no")
    codes = bad(look(lambda text, reference: float(reference in text), labels))
    assert codes.keys() == {"several_answers_score", "everything_scores"}


def test_a_hole_on_a_few_rows_is_chance():
    lucky = {"11", "48"}  # the answers of two rows in sixteen
    section = look(lambda t, r: float(exact(t, r) or (not t and r in lucky)), rows(16))
    assert bad(section) == {}


def test_a_probe_that_beats_the_right_answer_is_fatal():
    section = look(lambda text, reference: -len(text) / 30_000)  # the shorter, the better
    assert bad(section)["empty_scores"] == "fatal"


def test_injection_is_tried_on_judges_only():
    def judge(text, reference):
        pleaded = re.search(r"give 1|\"score\": 1|highest score", text)
        return 1.0 if pleaded or exact(text, reference) else 0.2

    assert "injection_scores" not in bad(look(judge))
    task = RewardTask(16, 8, calls_models=True)
    found = finding(look(judge, task=task), "injection_scores")
    assert found.level == "warning"
    assert "4 of 4 rows" in found.message
    assert bad(look(exact, task=task)) == {}


# --- the reference answer


def test_no_way_of_writing_it_works():
    section = look(lambda text, reference: float("because" in text))  # a word of the filler
    found = finding(section, "reference_not_rewarded")
    assert found.level == "warning"
    assert "In none of 11 ways" in found.message
    # Nothing right was ever paid, so what is paid for nothing is more than all there is.
    assert bad(section)["very_long_scores"] == "fatal"
    assert "more than 150 %" in finding(section, "very_long_scores").message


def test_some_reference_answers_are_not_paid():
    def reward(text, reference):
        return exact(text, reference) * (int(reference) % 2)

    section = look(reward)  # answers 37 i + 11 are odd for every other i
    found = finding(section, "reference_not_maximum")
    assert found.level == "warning"
    paid = sum(
        r.row["reference_answer"][-1] in "13579" for r in (rows()[i * 40 // 16] for i in range(16))
    )
    assert f"in {paid} of 16 rows only" in found.message
    assert all(int(piece["completion"]) % 2 == 0 for piece in found.evidence)


def test_a_completion_that_gets_more_than_the_reference():
    sample = Sample(rows()[0], "flattery")
    section = look(exact, completions=[(sample, Grade(2.0))])
    assert finding(section, "reference_not_highest").evidence[0]["completion"] == "flattery"


def test_without_reference_answers_only_completions_can_show_a_hole():
    prompts = [Prompt(row.id, row.messages) for row in rows()]

    def reward(text, reference):
        return float(not text or "good" in text)

    assert finding(look(reward, prompts), "no_known_answer").level == "advice"
    assert "empty_scores" not in bad(look(reward, prompts))
    good = [(Sample(row, "good"), Grade(1.0)) for row in prompts]
    assert bad(look(reward, prompts, completions=good)) == {"empty_scores": "fatal"}


# --- numbers


def test_a_constant_is_fatal_where_good_texts_were_tried():
    constant = finding(look(lambda text, reference: 0.5), "constant_reward")
    assert constant.level == "fatal"
    assert "got 0.5" in constant.message
    without = [Prompt(row.id, row.messages) for row in rows()]
    assert finding(look(lambda text, reference: 0.0, without), "constant_reward").level == "advice"


def test_errors_are_counted_with_the_first_reason():
    def reward(text, reference):
        if not text:
            raise ValueError("nothing to read")
        return exact(text, reference)

    found = finding(look(reward), "reward_errors")
    assert found.level == "warning"
    assert found.message.startswith("Grading failed for 16 of ")
    assert found.message.endswith("first: ValueError: nothing to read")
    assert found.evidence[0]["error"] == "Traceback\nValueError: nothing to read"

    def broken(text, reference):
        raise ValueError("always")

    section = look(broken)
    assert finding(section, "reward_errors").level == "fatal"
    assert section.facts["reward_highest"] is None


def test_errors_on_the_models_completions_are_not_hidden():
    """The texts that are tried all have few words; the model's have many, and those fail."""
    failed = Grade(None, error="Traceback\nValueError: too many words")
    own = [(Sample(row, f"many words {i}"), failed) for i, row in enumerate(rows(8))]
    section = look(exact, completions=own)
    found = finding(section, "reward_errors")
    assert found.level == "fatal"
    assert "8 of 8 completions of the model among them" in found.message
    assert found.message.endswith("first: ValueError: too many words")
    assert found.evidence[0]["completion"] == "many words 0"
    assert section.facts["errors"] == 8
    graded = [*own, (Sample(rows()[0], "few"), Grade(0.0))]
    found = finding(look(exact, completions=graded), "reward_errors")
    assert (found.level, "8 of 9 completions of the model" in found.message) == ("warning", True)


def test_what_fails_twice_is_not_called_deterministic():
    def broken(text, reference):
        raise ValueError("always")

    found = finding(look(broken), "not_graded_twice")
    assert found.message.startswith("16 texts could not be graded twice")
    assert "deterministic" not in {f.code for f in look(broken).findings}

    def on_even(text, reference):
        if int(reference) % 2:
            raise ValueError("odd")
        return exact(text, reference)

    # answers 37 i + 11 are even for odd i; i = 40 k // 16 = 0 2 5 7 and so on: every second is
    message = finding(look(on_even), "deterministic").message
    assert message == "8 texts graded twice got the same; 8 more could not be graded."


def test_one_is_singular():
    messages = {f.code: f.message for f in look(exact, rows(1)).findings}
    assert messages["deterministic"] == "1 text graded twice got the same."
    assert "in the one row tried" in messages["reference_gets_maximum"]


def test_chance_and_state_are_noticed():
    calls = iter(range(10_000))
    found = finding(look(lambda t, r: exact(t, r) + 1e-6 * next(calls)), "not_deterministic")
    assert (found.level, found.message[:11]) == ("warning", "16 of 16 te")
    assert finding(look(exact), "deterministic").message == "16 texts graded twice got the same."


def test_an_unusual_range_is_advised_against():
    assert finding(look(scaled), "unusual_range").message == "Rewards lie between 0 and 10."
    assert finding(look(with_format_bonus), "reward_range").level == "ok"


def test_slow_grades_are_pointed_out():
    section = check_reward(Scripted(exact, seconds=6.0), rows(), TASK)
    found = finding(section, "slow_reward")
    assert "A grade takes 6.0 s (P99 6.0 s); the 128 of a step" in found.message
    assert section.facts["seconds_p50"] == 6.0


def test_step_time_is_by_the_wall_clock():
    trial = Trial(Scripted(exact))
    trial.asked, trial.wall_seconds = 100, 2.0
    trial.rewards([])
    trial.grades["p", "", False] = Grade(1.0, seconds=0.5)
    (found,) = check_latency(trial, 50)
    assert "the 50 of a step about 1.0 s" in found.message  # 50 x 2.0 / 100


# --- how often a judge is asked


@pytest.mark.parametrize("count", [1, 3, 16])
def test_the_number_of_graded_texts_is_bounded(count):
    grader = Scripted(exact)
    section = check_reward(grader, rows(), RewardTask(16, 8, calls_models=True, rows=count))
    assert len(grader.seen) <= count * (len(WAYS) + len(PROBES) + len(POSITIONS) + 2)
    assert section.facts["grades"] == len(grader.seen)


def test_a_text_is_graded_once_but_for_the_repeats():
    grader = Scripted(exact)
    check_reward(grader, rows(), TASK)
    keys = [(s.prompt.id, s.text, s.truncated) for s in grader.seen]
    assert len(keys) - len(set(keys)) == 16  # the repeats that test determinism


def test_one_row_is_enough():
    assert "reference_gets_maximum" in {f.code for f in look(exact, rows(1)).findings}


def test_other_answers_differ_in_value_and_come_once():
    assert other_answers(["1", "#### 1", "2", "2", None, "3"], "1") == ("2", "3")


# --- length


def graded(pairs):
    """(prompt, length, reward) -> graded completions."""
    return [(Sample(Prompt(p, ()), "x" * n), Grade(reward)) for p, n, reward in pairs]


def test_longer_is_better_is_a_warning():
    pairs = [(f"p{i % 5}", 10 + 7 * i, float(i)) for i in range(40)]
    found = finding(look(exact, completions=graded(pairs)), "longer_scores")
    assert found.level == "warning"
    assert "40 completions" in found.message
    shorter = graded([(p, n, -reward) for p, n, reward in pairs])
    assert finding(look(exact, completions=shorter), "shorter_scores").level == "advice"


def test_what_is_easier_than_answering_is_a_warning():
    """From a run of ours: half a point for length, which the model reached and answers were lost.

    Filler of 60 words and more earns 0.5, a third of the best known 1.5: no hole by its share. But
    the model's completions earn 0.2 (one in five is right, with few words), so that comes first.
    """

    def paid_by_length(text: str, reference: str) -> float:
        return float(text.endswith(reference)) + 0.5 * min(len(text.split()), 60) / 60

    prompts = rows()
    graded = [
        (Sample(prompt, "no"), Grade(1.0 if i % 5 == 0 else 0.0))
        for i, prompt in enumerate(prompts)
    ]
    section = look(paid_by_length, prompts, completions=graded)
    warning = finding(section, "easier_than_answering")
    assert warning.level == "warning"
    assert "earns 0.5" in warning.message
    assert "completions earn 0.2" in warning.message
    able = [(sample, Grade(0.9)) for sample, _ in graded]
    codes = {f.code for f in look(paid_by_length, prompts, completions=able).findings}
    assert "easier_than_answering" not in codes
    codes = {f.code for f in look(strict_hash, prompts, completions=graded).findings}
    assert "easier_than_answering" not in codes


def test_prompts_that_need_length_do_not_count():
    # Long prompts get 1 and short ones 0; within a prompt length and reward are unrelated.
    pairs = [
        (f"p{p}", 100 * p + length, p + reward)
        for p in range(10)
        for length, reward in [(0, 0.0), (0, 0.1), (9, 0.0), (9, 0.1)]
    ]
    assert length_correlation(graded(pairs)) == (pytest.approx(0.0, abs=1e-9), 40)
    assert finding(look(exact, completions=graded(pairs)), "length_neutral").level == "ok"


def test_the_correlation_is_spearmans():
    generator = np.random.default_rng(4)
    lengths = generator.integers(1, 30, size=60)
    rewards = lengths / 30 + generator.integers(0, 3, size=60)
    expected = spearmanr(lengths, rewards).statistic
    pairs = [("p", int(n), float(r)) for n, r in zip(lengths, rewards, strict=True)]
    alone = [(f"q{i}", 100 * i, 1.0) for i in range(5)]  # with nothing of their prompt beside them
    assert length_correlation(graded([*pairs, *alone])) == (pytest.approx(expected), 60)


def test_too_few_or_equal_completions_say_nothing():
    assert length_correlation(graded([("p", i, float(i)) for i in range(19)])) is None
    assert length_correlation(graded([("p", i, 1.0) for i in range(30)])) is None
    assert length_correlation(graded([(f"p{i}", i, float(i)) for i in range(30)])) is None


def test_tokens_of_judges_are_means_per_grade():
    grades = [
        Grade(1.0, tokens={"m": {"prompt": 100, "completion": 10}}),
        Grade(1.0, tokens={"m": {"prompt": 200, "completion": 30}}),
        Grade(1.0),
        Grade(1.0),
    ]
    assert judge_tokens(grades) == {"m": {"prompt": 75.0, "completion": 10.0}}
