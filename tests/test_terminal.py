"""What is printed: percent only for shares, and an honest verdict."""

import io

import pytest
from rich.console import Console

from tunestone import terminal


def report(base: list[float], tuned: list[float], bounds: list[float], score: str) -> dict:
    """A report of two models, as `compare` makes it."""
    means = [sum(rewards) / len(rewards) for rewards in (base, tuned)]
    share = score == "accuracy"
    summaries = [
        {
            "accuracy": mean,
            "ci95": [mean - 0.1, mean + 0.1] if share else None,
            "lenient_accuracy": None,
            "lenient_ci95": None,
            "length_mean": 3.0,
            "grade_errors": 0,
            "lenient_grade_errors": 0,
        }
        for mean in means
    ]
    return {
        "task": "toy",
        "n": len(base),
        "score": score,
        "base": summaries[0],
        "tuned": summaries[1],
        "difference": means[1] - means[0],
        "difference_ci95": bounds,
        "relative_gain": (means[1] - means[0]) / means[0] if means[0] else None,
        "test": "exact McNemar",
        "p_value": 0.03,
        "gained": 2,
        "lost": 1,
        "examples": [
            {
                "prompt": "[bold]2 + 2?[/bold]",
                "base": "5\n#### 5",
                "tuned": "4",
                "base_reward": base[0],
                "tuned_reward": tuned[0],
            }
        ],
    }


def printed(record: dict) -> str:
    """What a person sees."""
    stream = io.StringIO()
    terminal.print_report(Console(file=stream, width=120), record)
    return stream.getvalue()


def test_shares_are_percent() -> None:
    text = printed(report([0.0, 1.0], [1.0, 1.0], [0.1, 0.6], "accuracy"))
    assert "50.0 % [40.0, 60.0]" in text
    assert "Difference +50.0 points, 95 % interval [+10.0, +60.0], relative gain +100 %" in text
    assert "base  (reward 0): 5 ⏎ #### 5" in text
    assert "[bold]2 + 2?[/bold]" in text  # a model's text is shown, never interpreted


def test_other_scores_are_numbers() -> None:
    text = printed(report([1.5, 0.5], [2.5, 1.5], [0.1, 1.6], "mean reward"))
    assert "strict mean reward" in text
    assert "1.000" in text
    assert "Difference +1.000, 95 % interval [+0.100, +1.600], relative gain +100 %" in text
    assert "(reward 2.5)" in text


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ([0.01, 0.2], "The tuned model is better."),
        ([-0.2, -0.01], "The tuned model is WORSE."),
        ([-0.1, 0.2], "Not significant: these prompts do not show a difference."),
        ([0.0, 0.0], "Not significant: these prompts do not show a difference."),
    ],
)
def test_the_verdict_follows_the_interval(bounds: list[float], sentence: str) -> None:
    assert terminal.verdict(report([1.0], [1.0], bounds, "accuracy")).endswith(sentence)


def test_a_base_that_scored_nothing_has_no_relative_gain() -> None:
    text = terminal.verdict(report([0.0], [1.0], [0.2, 1.0], "accuracy"))
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
