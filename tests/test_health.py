"""Signs of a run that goes wrong: planted ones are found once, healthy runs raise none."""

import math
from pathlib import Path

import pytest

from tunestone.config import resolve
from tunestone.core.evidence import examples_for
from tunestone.errors import ConfigError
from tunestone.health.limits import HORIZON, LIMITS, WINDOW
from tunestone.health.rules import CODES
from tunestone.health.watch import HealthWatch, find_alerts, judge_base, told_alerts

# Every fifth step of the quickstart with seed 0, as logged: entropy, length, reward, validation.
HEALTHY = [
    (1.49, 26.4, 0.10, None),
    (0.60, 17.9, 0.30, 0.42),
    (0.15, 15.7, 0.38, 0.50),
    (0.07, 16.0, 0.33, 0.53),
    (0.045, 15.6, 0.26, 0.55),
]

NORMAL = {
    "entropy": 1.0,
    "length_mean": 20.0,
    "reward_mean": 0.5,
    "reward_min": 0.0,
    "reward_max": 1.0,
    "truncated_share": 0.1,
    "truncated_reward_mean": 0.4,
    "repetition_share": 0.0,
    "identical_share": 0.5,
    "signal_share": 0.5,
    "gradient_norm": 0.2,
    "sampling_gap": 1e-6,
    "tree_nodes": 100.0,
    "completions": 128,
    "grade_errors": 0,
    "scores": {},
}


def steps(*pieces: tuple[int, dict]) -> list[dict]:
    """Lines of metrics: for each piece so many steps that differ from a normal one like this."""
    lines = [{**NORMAL, **changes} for count, changes in pieces for _ in range(count)]
    return [{"step": n, **line} for n, line in enumerate(lines, start=1)]


def codes(records) -> list[str]:
    return [alert.code for alert in find_alerts(records)]


def test_a_healthy_run_raises_nothing():
    pieces = []
    for entropy, length, reward, validation in HEALTHY:
        changes = {"entropy": entropy, "length_mean": length, "reward_mean": reward}
        pieces.append((4, changes if validation is None else changes | {"validation_reward": 0.5}))
    watch = HealthWatch()
    assert [alert for line in steps(*pieces) for alert in watch.add(line)] == []


@pytest.mark.parametrize(
    ("sick", "code", "value"),
    [
        ({"entropy": 0.01}, "entropy_collapse", 0.01),
        ({"length_mean": 61.0}, "length_explosion", 3.05),  # 61 / 20
        ({"repetition_share": 0.4}, "repetition", 0.4),
        ({"identical_share": 1.0}, "identical_completions", 1.0),
        ({"signal_share": 0.0625}, "no_signal", 0.0625),
        ({"reward_mean": 0.97}, "reward_saturated", 0.97),
        ({"sampling_gap": 0.1}, "sampling_mismatch", 0.1),
        ({"grade_errors": 8}, "grader_errors", 0.0625),  # 8 of 128
        # 60 % are cut and earn nothing: the other 40 % earn all of the 0.5, which makes 1.25 each.
        ({"truncated_share": 0.6, "truncated_reward_mean": 0.0}, "truncated_completions", 0.6),
    ],
)
def test_a_planted_sign_is_found(sick, code, value):
    records = steps((5, {}), (5, sick))
    if code == "truncated_completions":  # else more are cut than at the start: a length explosion
        records[0]["truncated_share"] = 0.6
    (alert,) = find_alerts(records)
    assert (alert.code, alert.first, alert.last) == (code, 6, 10)
    assert alert.value == pytest.approx(value)
    assert codes(records[:5]) == []
    assert codes(records[:7]) == []  # not yet: means over five steps


def test_a_sign_carries_its_evidence():
    (alert,) = find_alerts(steps((5, {"entropy": 0.0})))
    assert alert.details() == {
        "code": "entropy_collapse",
        "step": 5,
        "metric": "entropy",
        "window": [1, 5],
        "value": 0.0,
        "threshold": 0.02,
        "unit": "nats",
        "rule": "mean entropy below",
        "source": LIMITS["entropy_collapse.entropy"].source,
    }


def test_completions_that_run_into_their_limit_have_exploded():
    # As in the run that was paid for length: 34 tokens at first, 71 at most (twice as many).
    logged = [0.08, 0.14, 0.55, 0.78, 0.86, 0.83, 0.86]  # truncated share by step
    lengths = [33.6, 34.5, 55.1, 65.8, 68.3, 67.0, 69.2]
    records = steps(
        *(
            (1, {"length_mean": n, "truncated_share": t})
            for n, t in zip(lengths, logged, strict=True)
        )
    )
    assert codes(records[:5]) == []  # 0.48 on average: not yet
    (alert,) = find_alerts(records[:6])  # (0.14 + 0.55 + 0.78 + 0.86 + 0.83) / 5 = 0.63
    assert alert.code == "length_explosion"
    assert "63 % of the completions run into max_completion_tokens, 8 %" in alert.message
    assert "the reward did not rise (+0.000)" in alert.message
    assert codes(steps((6, {"truncated_share": 0.7}))) == []  # it was so from the start
    paid = steps((5, {"length_mean": 10.0}), (5, {"length_mean": 40.0, "reward_mean": 0.8}))
    assert "and the reward rose by 0.300" in find_alerts(paid)[0].message


def test_to_be_cut_is_no_fault_where_it_costs_nothing():
    cut = {"truncated_share": 1.0, "truncated_reward_mean": 0.5}
    assert codes(steps((5, cut))) == []  # one label, one token
    hopeless = {"truncated_share": 0.9, "truncated_reward_mean": 0.0, "reward_mean": 0.0}
    assert codes(steps((5, hopeless))) == []  # who ends earns nothing either
    (alert,) = find_alerts(steps((5, {**cut, "truncated_reward_mean": 0.0, "reward_mean": 0.0})))
    assert alert.code == "truncated_completions"
    assert "none ends by itself" in alert.message
    assert codes(steps((5, {"truncated_share": 0.0, "truncated_reward_mean": None}))) == []
    # 6 of 640 end by themselves and earn 10 each: so few may be luck, ten times as many are not.
    few = {"truncated_share": 0.99, "truncated_reward_mean": 0.1, "reward_mean": 0.199}
    assert codes(steps((5, few))) == []
    assert codes(steps((5, few | {"completions": 1280}))) == ["truncated_completions"]


def test_a_low_plateau_is_found_after_twenty_steps():
    assert codes(steps((19, {"reward_mean": 0.1}))) == []
    assert codes(steps((20, {"reward_mean": 0.1}))) == ["low_reward_plateau"]
    rising = steps(*((1, {"reward_mean": 0.005 * step}) for step in range(20)))
    assert codes(rising) == []  # 0.085 at the end, 0.01 before


def test_diverging_rewards_are_found():
    start = [(4, {}), (1, {"validation_reward": 0.5}), (4, {"reward_mean": 0.7})]
    (alert,) = find_alerts(steps(*start, (1, {"reward_mean": 0.7, "validation_reward": 0.44})))
    assert alert.code == "train_validation_divergence"
    assert (alert.first, alert.last) == (6, 10)  # after the best validation, at step 5
    assert alert.value == pytest.approx(0.26)  # 0.70 - 0.44
    # 0.66 on average against 0.5: a gap, but validation has not fallen.
    assert codes(steps(*start, (1, {"validation_reward": 0.5}))) == []


def test_a_shadow_that_stalls_is_found_with_the_component_that_carries_the_rise():
    before = {"shadow_reward_mean": 0.2, "scores": {"form": 0.1, "answer": 0.3}}
    paid = {"reward_mean": 0.7, "scores": {"form": 0.9, "answer": 0.31}}
    (alert,) = find_alerts(steps((5, before), (5, {**paid, "shadow_reward_mean": 0.23})))
    # Reward 0.5 -> 0.7, shadow 0.20 -> 0.23: 0.03 / 0.20 = 0.15, less than a fifth.
    assert (alert.code, alert.metric) == ("shadow_divergence", "shadow_reward_mean")
    assert alert.value == pytest.approx(0.15)
    assert "The component form rose most, by +0.800." in alert.message
    assert codes(steps((5, before), (5, {**paid, "shadow_reward_mean": 0.25}))) == []  # a quarter


def test_a_shadow_that_falls_late_is_found():
    """It followed at first, so that it is still above its start."""
    rose = steps(
        (5, {"reward_mean": 0.2, "shadow_reward_mean": 0.2}),
        (5, {"reward_mean": 0.5, "shadow_reward_mean": 0.5}),
        (5, {"reward_mean": 0.6, "shadow_reward_mean": 0.38}),
    )
    assert codes(rose[:10]) == []
    (alert,) = find_alerts(rose)
    assert alert.limit.name == "shadow_divergence.fall"
    assert alert.value == pytest.approx(0.12)
    both = [{**line, "reward_mean": 0.4} if line["step"] > 10 else line for line in rose]
    assert codes(both) == []  # the reward fell too: that is no hacking


def test_a_shadow_that_could_not_be_graded_is_told_as_such():
    failed = {"shadow_reward_mean": None, "shadow_graded": 64, "shadow_errors": 64}
    (alert,) = find_alerts(steps((10, failed)))
    assert (alert.code, alert.metric, alert.value) == ("grader_errors", "shadow_errors", 1.0)


def test_a_gradient_spike_is_found_at_once():
    usual = steps((12, {}), (1, {"gradient_norm": 2.1}))  # ten and a half times 0.2
    (alert,) = find_alerts(usual)
    assert (alert.code, alert.first, alert.last) == ("gradient_spike", 13, 13)
    assert alert.value == pytest.approx(10.5)
    assert codes(steps((12, {}), (1, {"gradient_norm": 1.9}))) == []
    without = steps((12, {"gradient_norm": 0.0}), (1, {}))
    assert codes(without) == []  # steps without signal say nothing about what is usual


def test_a_solved_task_is_told_once():
    """Answers alike and no signal are what a solved task looks like."""
    solved = {"reward_mean": 1.0, "signal_share": 0.0, "identical_share": 1.0}
    assert codes(steps((5, solved))) == ["reward_saturated"]
    other_scale = steps((5, {"reward_mean": 97.0, "reward_max": 100.0}))
    assert codes(other_scale) == []  # what the most is, nobody knows


def test_logs_of_an_earlier_version_silence_only_the_rules_they_cannot_serve():
    old = [
        {k: v for k, v in line.items() if k not in {"identical_share", "sampling_gap"}}
        for line in steps((5, {"entropy": 0.0, "identical_share": 1.0}))
    ]
    assert codes(old) == ["entropy_collapse"]


def test_each_sign_is_told_once_also_after_resuming():
    collapsed = steps((8, {"entropy": 0.0}))
    watch = HealthWatch()
    told = [alert.code for line in collapsed for alert in watch.add(line)]
    assert told == ["entropy_collapse"]
    (later,) = steps((1, {"entropy": 0.0}))
    assert HealthWatch(collapsed).add(later | {"step": 9}) == []
    assert "0.000 nats over the last 5 steps" in find_alerts(collapsed)[0].message


def test_a_base_with_nothing_to_learn_is_told():
    assert judge_base([0.0, 0.0]).code == "base_earns_nothing"
    assert judge_base([1.0, 0.95]).code == "base_solves_it"  # 0.975
    assert judge_base([1.0, 0.9]) is None  # 0.95 is not above 0.95
    assert judge_base([100.0, 97.0]) is None


def test_an_alert_told_again_after_a_crash_is_reported_once():
    event = {"kind": "alert", "code": "no_signal", "step": 5, "message": "a"}
    other = {"kind": "checkpoint", "step": 5, "message": "b"}
    assert told_alerts([event, other, event, event | {"step": 9}]) == [
        {"code": "no_signal", "step": 5, "message": "a"},
        {"code": "no_signal", "step": 9, "message": "a"},
    ]


# --- the three examples ---------------------------------------------------------------------


def line(index, text="a", reward=0.0, prompt="p", **changes):
    """A line of samples.jsonl."""
    return {
        "step": 7,
        "prompt_id": prompt,
        "index": index,
        "text": text,
        "reward": reward,
        "advantage": 0.0,
        "finish_reason": "stop",
        "error": None,
        "tokens": [1] * len(text),
        "logprobs": [-1.0] * len(text),
        **changes,
    }


@pytest.mark.parametrize(
    ("code", "lines", "expected"),
    [
        ("length_explosion", [line(n, "x" * n) for n in (3, 9, 1, 7)], [9, 7, 3]),
        # Two of group p say b, three of group q say c: those are the most alike.
        (
            "identical_completions",
            [line(n, t, prompt=g) for n, (g, t) in enumerate(["pa", "pb", "pb", "qc", "qc", "qc"])],
            [3, 4, 5],
        ),
        (
            "no_signal",
            [line(n, prompt=p, reward=r) for n, (p, r) in enumerate([("p", 0), *[("q", 1)] * 3])],
            [1, 2, 3],
        ),
        ("reward_saturated", [line(n, reward=n / 9) for n in (2, 8, 5, 1)], [8, 5, 2]),
        ("repetition", [line(0, "a b c d e"), line(1, "la " * 9), line(2, "x")], [1, 0, 2]),
        ("grader_errors", [line(0), line(1, reward=None, error="KeyError"), line(2)], [1, 0, 2]),
        (
            "gradient_spike",
            [line(n, advantage=a) for n, a in enumerate((1, -3, None, 2))],
            [1, 3, 0],
        ),
        (
            "shadow_divergence",
            [line(0, reward=1.0), *(line(n, reward=0.9, shadow_reward=n / 9) for n in (5, 1, 3))],
            [1, 3, 5],
        ),
        (
            "truncated_completions",
            [
                line(0),
                line(1, reward=1.0, finish_reason="length"),
                line(2, finish_reason="length"),
                line(3, reward=1.0),
            ],
            [2, 1, 0],
        ),
        ("sampling_mismatch", [line(n, "ab", logprobs=[-n, -n]) for n in (1, 4, 2)], [4, 2, 1]),
    ],
)
def test_the_examples_show_the_sign(code, lines, expected):
    assert [example["index"] for example in examples_for(code, lines)] == expected


def test_every_sign_has_examples_which_are_short():
    lines = [line(n, "word " * 100, reward=None, error="late") for n in range(4)]
    for code in CODES:
        examples = examples_for(code, lines)
        assert len(examples) == 3
        for example in examples:
            assert set(example) == {"prompt_id", "index", "step", "text", "reward", "error"}
            assert len(example["text"]) == 304  # 300 and " ..."
    (short,) = examples_for("no_signal", [line(0, shadow_reward=0.5)])
    assert (short["text"], short["shadow_reward"]) == ("a", 0.5)


# --- the setting, and the page --------------------------------------------------------------


def test_what_an_alert_does_is_checked_beforehand():
    config, _ = resolve(assignments=['on_alert={entropy_collapse="stop", no_signal="rollback"}'])
    assert config.on_alert == {"entropy_collapse": "stop", "no_signal": "rollback"}
    with pytest.raises(
        ConfigError, match=r"no alert 'entropy_colapse'\. Did you mean 'entropy_coll"
    ):
        resolve(assignments=['on_alert={entropy_colapse="stop"}'])
    with pytest.raises(ConfigError, match=r"no alert 'x'\. There are entropy_collapse, "):
        resolve(assignments=['on_alert={x="stop"}'])
    with pytest.raises(ConfigError, match="Input should be 'note', 'pause', 'stop' or 'rollback'"):
        resolve(assignments=['on_alert={no_signal="ignore"}'])


def test_a_shadow_that_is_the_reward_is_refused():
    with pytest.raises(ConfigError, match="they could never disagree"):
        resolve(assignments=["reward=number", "shadow_reward=number"])


def test_every_sign_has_a_limit_and_every_limit_a_sign():
    of_base = {"base_earns_nothing", "base_solves_it"}
    assert {limit.code for limit in LIMITS.values()} == {*CODES, *of_base}
    assert all(
        math.isfinite(limit.value) and limit.rule and limit.source for limit in LIMITS.values()
    )


def test_the_page_has_the_table_of_limits():
    page = (Path(__file__).parents[1] / "docs" / "health.md").read_text(encoding="utf-8")
    for limit in LIMITS.values():
        row = f"| `{limit.code}` | {limit.rule} | {limit.value:g} {limit.unit} | {limit.source} |"
        assert row in page, row
    table = page[page.index("| alert | rule |") : page.index('"AWS" is the guide')]
    assert table.count("\n| `") == len(LIMITS)
    assert f"over {WINDOW} steps" in page
    assert f"{HORIZON} steps" in page
