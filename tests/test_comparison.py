"""Base against tuned in numbers: a sign is never turned round, and every part by hand."""

import pytest

from tunestone.config import TrainConfig
from tunestone.core.comparison import MOST_REGRESSIONS, compare
from tunestone.core.evaluate import Example, Scores
from tunestone.core.measure import MOST_DRAWN, Drawn, Measured, count_drawn, draw, measure
from tunestone.errors import RewardError
from tunestone.stats import mean_interval, paired_difference_interval
from tunestone.types import Completion, Grade, Prompt


def examples(count: int, rows: list[dict] | None = None) -> list[Example]:
    """Prompts p0, p1 ... with one token each."""
    return [
        Example(Prompt(f"p{i}", ({"role": "user", "content": f"{i}?"},), row), (1,))
        for i, row in enumerate(rows or [{}] * count)
    ]


def measured(*rewards: float, drawn: list[list[float]] | None = None, length: int = 3) -> Measured:
    """A model that earned these."""
    scores = Scores(
        texts=[f"earned {reward}" for reward in rewards],
        rewards=list(rewards),
        lenient=None,
        lengths=[length + i for i in range(len(rewards))],
        failed=[],
        seconds=0.5 * len(rewards),
    )
    return Measured(scores, Drawn(drawn, temperature=1.0, errors=0) if drawn else None)


class Drawing:
    """A sampler and grader in one: notes what it is asked, and gives rewards in turn."""

    def __init__(self, *rewards: float | None) -> None:
        self.rewards = rewards
        self.asked: list[tuple] = []

    def sample(self, prompts_PT, group_size, params, *, seed=(0,)):
        self.asked.append((len(prompts_PT), group_size, params.temperature, tuple(seed)))
        one = Completion((1,), (0.0,), (0.0,), "", "stop")
        return [[one] * group_size for _ in prompts_PT]

    def grade(self, samples):
        turns = [self.rewards[i % len(self.rewards)] for i in range(len(samples))]
        return [Grade(r, None if r is not None else "it failed") for r in turns]


def test_binary_rewards_are_compared_as_accuracy() -> None:
    """0 1 0 0 against 1 1 1 0: two gained, none lost; exact McNemar 2 x (1/2)^2 = 0.5."""
    report = compare(examples(4), measured(0, 1, 0, 0), measured(1, 1, 1, 0))
    assert report["score"] == "accuracy"
    assert (report["base"]["accuracy"], report["tuned"]["accuracy"]) == (0.25, 0.75)
    assert (report["gained"], report["lost"], report["p_value"]) == (2, 0, 0.5)
    assert report["relative_gain"] == 2.0
    assert report["difference_ci95"][0] < 0.5 < report["difference_ci95"][1]
    assert report["regressions"] == report["regression_records"] == []
    assert report["drawn"] is None
    assert report["contamination"] is None
    # psi = delta = 0.5: (1.9600 sqrt(0.5) + 0.8416 sqrt(0.25))^2 / 0.25 = 1.8067^2 / 0.25 = 13.06
    assert report["prompts_needed"] == 14


def test_other_rewards_are_compared_by_their_mean() -> None:
    report = compare(examples(4), measured(-1, -2, -1, -4), measured(-1, -1, -2, 0))
    assert report["score"] == "mean reward"
    assert report["base"]["ci95"] is None
    assert report["difference"] == 1.0
    assert report["relative_gain"] is None  # a share of a negative score means nothing
    assert report["regressions"] == ["p2"]
    shown = {e["prompt"]: (e["base_reward"], e["tuned_reward"]) for e in report["examples"]}
    assert shown == {"1?": (-2, -1), "2?": (-1, -2), "0?": (-1, -1)}  # gained, lost, same


def test_regressions_come_with_both_answers_the_worst_first() -> None:
    report = compare(examples(3), measured(1, 1, 0), measured(0.5, -1, 1))
    assert report["regressions"] == ["p0", "p1"]
    worst = {"id": "p1", "prompt": "1?", "base": "earned 1", "tuned": "earned -1"}
    assert report["regression_records"][0] == {**worst, "base_reward": 1, "tuned_reward": -1}
    many = MOST_REGRESSIONS + 7
    long = compare(examples(many), measured(*[1] * many), measured(*[0] * many))
    assert len(long["regressions"]) == many
    assert len(long["regression_records"]) == MOST_REGRESSIONS


def test_drawn_answers_give_avg_and_pass() -> None:
    """Base right in 0 and 1 of 4, tuned in 2 and 4.

    avg@4: (0 + 1/4) / 2 = 0.125 and (1/2 + 1) / 2 = 0.75. pass@2: (0 + 3/6) / 2 = 0.25 and
    (5/6 + 1) / 2; pass@4: 0.5 and 1.
    """
    base = measured(0, 0, drawn=[[0, 0, 0, 0], [0, 1, 0, 0]])
    tuned = measured(0, 1, drawn=[[1, 0, 1, 0], [1, 1, 1, 1]])
    drawn = compare(examples(2), base, tuned)["drawn"]
    assert (drawn["prompts"], drawn["samples"], drawn["temperature"]) == (2, 4, 1.0)
    assert (drawn["base"]["avg"], drawn["tuned"]["avg"]) == (0.125, 0.75)
    assert drawn["base"]["pass"] == {"1": 0.125, "2": 0.25, "4": 0.5}
    assert drawn["tuned"]["pass"]["2"] == pytest.approx(11 / 12)
    assert drawn["tuned"]["pass"]["4"] == 1.0
    assert drawn["difference"] == 0.625
    assert drawn["difference_ci95"] == list(paired_difference_interval([0, 0.25], [0.5, 1]))
    assert drawn["base"]["avg_ci95"] == list(mean_interval([0, 0.25]))
    assert drawn["base"]["pass_ci95"]["4"] == list(mean_interval([0, 1]))


def test_scores_between_right_and_wrong_have_no_pass() -> None:
    base, tuned = (measured(0, drawn=[[0.5, 0]]), measured(1, drawn=[[1, 1]]))
    drawn = compare(examples(1), base, tuned)["drawn"]
    assert (drawn["base"]["avg"], drawn["base"]["pass"]) == (0.25, {})
    assert drawn["tuned"]["pass"] == {}


def test_slices_tell_where_it_gained() -> None:
    rows = [{"meta": {"level": i % 2 + 9}, "id_like": i, "same": "x"} for i in range(10)]
    base, tuned = measured(*[0] * 10), measured(*[0, 1] * 5)
    (by_level,) = compare(examples(10, rows), base, tuned)["slices"]
    assert by_level["key"] == "meta.level"
    nine, ten = by_level["rows"]
    assert (nine["value"], nine["n"], nine["difference"]) == ("9", 5, 0)
    assert (ten["value"], ten["base"], ten["tuned"], ten["difference"]) == ("10", 0, 1, 1)
    assert ten["difference_ci95"] == list(paired_difference_interval([0] * 5, [1] * 5))
    (asked,) = compare(examples(10, rows), base, tuned, slices=["same"])["slices"]
    assert [(row["value"], row["n"]) for row in asked["rows"]] == [("x", 10)]


def test_length_and_time_of_an_answer() -> None:
    """Lengths 3 4 5 against 5 6 7: two tokens more each time, so the interval has no width."""
    cost = compare(examples(3), measured(0, 0, 1), measured(0, 0, 1, length=5))["cost"]
    tokens = cost["tokens_per_answer"]
    assert (tokens["base"], tokens["tuned"], tokens["difference"]) == (4, 6, 2)
    assert tokens["difference_ci95"] == [2, 2]
    assert cost["seconds_per_answer"] == {"base": 0.5, "tuned": 0.5}


def test_what_was_trained_on_is_named() -> None:
    trained = [Prompt("t0", ({"role": "user", "content": "1?"},))]
    report = compare(examples(2), measured(0, 0), measured(0, 1), training=trained)
    assert report["contamination"] == {
        "training_prompts": 1,
        "equal": 1,
        "near": 0,
        "cases": [{"heldout": "p1", "training": "t0", "similarity": 1.0}],
    }


def test_answers_are_drawn_as_in_training_and_the_same_for_both() -> None:
    model = Drawing(1.0, 0.0)
    config = TrainConfig(test_samples=2, temperature=0.7, seed=5)
    heldout = examples(MOST_DRAWN + 3)
    both = measure(model, heldout, model, config)
    greedy, drawn = model.asked
    assert greedy[:3] == (MOST_DRAWN + 3, 1, 0.0)
    assert drawn[:3] == (MOST_DRAWN, 2, 0.7)
    assert drawn[3][0] == 5
    assert both.drawn.rewards_PG == [[1.0, 0.0]] * MOST_DRAWN
    assert count_drawn(config, len(heldout)) == 2 * MOST_DRAWN
    assert count_drawn(config, 3) == 6
    off = TrainConfig(test_samples=0)
    assert measure(model, heldout, model, off).drawn is None
    assert count_drawn(off, 3) == 0


def test_failed_grades_of_drawn_answers_are_the_worst() -> None:
    model = Drawing(-2.0, 1.0, None)
    drawn = draw(model, examples(1), model, TrainConfig(test_samples=3))
    assert drawn.rewards_PG == [[-2.0, 1.0, -2.0]]
    assert drawn.errors == 1
    broken = Drawing(None)
    with pytest.raises(RewardError, match="failed on 3 of 3"):
        draw(broken, examples(1), broken, TrainConfig(test_samples=3))


def test_a_record_is_read_as_it_was_written() -> None:
    both = measured(0, 1, drawn=[[0, 1], [1, 1]])
    assert Measured.from_record(both.as_record()) == both
    old = both.as_record()
    del old["drawn"], old["seconds"]  # as written before there were drawn answers
    assert Measured.from_record(old).drawn is None
