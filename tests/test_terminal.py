"""What is printed: percent only for shares, and an honest verdict."""

import io
from typing import Any

import pytest
from rich.console import Console

from tunestone import terminal
from tunestone.core.comparison import compare
from tunestone.core.evaluate import Example, Scores
from tunestone.core.measure import Measured
from tunestone.reports.evaluation import verdict
from tunestone.types import Prompt


def report(
    base: list[float], tuned: list[float], bounds: list[float] | None = None
) -> dict[str, Any]:
    """A report of two models with these rewards; `bounds` in place of its interval."""
    examples = [
        Example(Prompt(f"p{i}", ({"role": "user", "content": "[bold]2 + 2?[/bold]"},)), (1,))
        for i in range(len(base))
    ]
    measured = [
        Measured(
            Scores(
                texts=[text] * len(rewards),
                rewards=rewards,
                lenient=None,
                lengths=[3] * len(rewards),
                failed=[],
            ),
            None,
        )
        for rewards, text in ((base, "5\n#### 5"), (tuned, "4"))
    ]
    made = {"task": "toy", **compare(examples, *measured)}
    return {**made, "difference_ci95": bounds or made["difference_ci95"]}


def printed(record: dict) -> str:
    """What a person sees."""
    stream = io.StringIO()
    terminal.print_report(Console(file=stream, width=120), record)
    return stream.getvalue()


def test_shares_are_percent() -> None:
    """One of four right before, all now. Wilson for 1 of 4: 4.6 to 69.9 %; 4 of 4: from 51.0 %."""
    text = printed(report([0, 1, 0, 0], [1, 1, 1, 1]))
    assert "toy: 4 held-out prompts" in text
    assert "strict accuracy  25.0 % [4.6, 69.9]  100.0 % [51.0, 100.0]" in text
    assert "Difference +75.0 points, 95 % interval [" in text
    assert "relative gain +300 %, exact McNemar p = 0.25 (3 gained, 0 lost)." in text
    assert "base  (reward 0): 5 ⏎ #### 5" in text
    assert "[bold]2 + 2?[/bold]" in text  # a model's text is shown, never interpreted


def test_other_scores_are_numbers() -> None:
    text = printed(report([1.5, 0.5], [2.5, 1.5], [0.1, 1.6]))
    assert "strict mean reward  1.000  2.000  +1.000 [+0.100, +1.600]" in text
    assert "Difference +1.000, 95 % interval [+0.100, +1.600], relative gain +100 %" in text
    assert "(reward 2.5)" in text


@pytest.mark.parametrize(
    ("bounds", "p_value", "sentence"),
    [
        ([0.01, 0.2], 0.05, "The tuned model is better."),
        ([-0.2, -0.01], 0.05, "The tuned model is WORSE."),
        ([0.01, 0.2], 0.0625, "these prompts do not show a difference."),  # 5 gained, none lost
    ],
)
def test_the_verdict_follows_interval_and_test(
    bounds: list[float], p_value: float, sentence: str
) -> None:
    made = {**report([1.0], [1.0], bounds), "p_value": p_value}
    assert verdict(made).endswith(sentence)


def test_nothing_shown_is_said_with_the_prompts_it_would_take() -> None:
    """3 of 10 gained, 1 lost: 77 prompts by hand in test_stats.py."""
    base, tuned = [1, 1, 1, 0, 0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    text = verdict(report(base, tuned))
    assert "Not significant: these prompts do not show a difference." in text
    assert "about 77 prompts would be needed" in text
    same = verdict(report([1, 0], [1, 0]))
    assert same.endswith("Not significant: these prompts do not show a difference.")


def test_a_base_that_scored_nothing_has_no_relative_gain() -> None:
    text = verdict(report([0.0], [1.0], [0.2, 1.0]))
    assert "no relative gain (the base scored 0 or less)" in text


def test_a_runs_name_is_whole_in_a_narrow_terminal() -> None:
    stream = io.StringIO()
    name = "word_problems-20261123-022321"
    values = (name, "unfinished: --resume continues it", "0", "18.4 %", "–", "–")
    keys = ("run", "state", "steps", "base", "tuned", "gain")
    row = dict(zip(keys, values, strict=True))
    terminal.print_runs(Console(file=stream, width=80), [row])
    assert name in stream.getvalue()
    assert "18.4 %" in stream.getvalue()


def test_times() -> None:
    assert terminal.duration(245) == "4:05"
    assert terminal.duration(59.6) == "1:00"
    assert terminal.about(50) == "50 seconds"
    assert terminal.about(0) == "2 seconds"
    assert terminal.about(280) == "5 minutes"


def test_time_left_comes_from_the_steps_so_far() -> None:
    """Steps of 10 s, a validation of 6 s on every second: 2 steps left are 2 x (10 + 3) s."""
    stream = io.StringIO()
    lines = terminal.StepLines(Console(file=stream, width=120))
    record = {
        "steps": 4,
        "reward_mean": 0.5,
        "signal_share": 0.25,
        "length_mean": 7.0,
        "entropy": 1.0,
        "tokens_per_second": 100.0,
        "grade_errors": 0,
    }
    lines({**record, "step": 1, "seconds": {"sample": 6.0, "learn": 4.0}})
    lines({**record, "step": 2, "seconds": {"sample": 6.0, "learn": 4.0, "validate": 6.0}})
    assert stream.getvalue().splitlines()[-1].endswith("0:26")
