"""Signs of a run that goes wrong: planted ones are found once, healthy runs raise none."""

import pytest

from tunestone.health import HealthWatch, find_alerts

# Every fifth step of the quickstart with seed 0, as logged: entropy, length, reward, validation.
HEALTHY = [
    (1.49, 26.4, 0.10, None),
    (0.60, 17.9, 0.30, 0.42),
    (0.15, 15.7, 0.38, 0.50),
    (0.07, 16.0, 0.33, 0.53),
    (0.045, 15.6, 0.26, 0.55),
]


def record(entropy=1.0, length=20.0, reward=0.5, validation=None, truncated=0.1):
    line = {"entropy": entropy, "length_mean": length, "reward_mean": reward}
    line["truncated_share"] = truncated
    return line if validation is None else {**line, "validation_reward": validation}


def codes(records):
    return [alert.code for alert in find_alerts(records)]


def test_a_healthy_run_raises_nothing():
    records = [record(*line) for line in HEALTHY for _ in range(4)]
    watch = HealthWatch()
    assert [alert for line in records for alert in watch.add(line)] == []


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (record(entropy=0.01), "entropy_collapse"),
        (record(length=61.0), "length_explosion"),
    ],
)
def test_a_planted_sign_is_found(last, code):
    healthy = [record()] * 5
    assert codes([*healthy, *[last] * 5]) == [code]
    assert codes(healthy) == []
    assert codes([*healthy, *[last] * 2]) == []  # not yet: means over five steps


def test_completions_that_run_into_their_limit_have_exploded():
    # As in the run that was paid for length: 34 tokens at first, 71 at most (twice as many).
    logged = [0.08, 0.14, 0.55, 0.78, 0.86, 0.83, 0.86]  # truncated share by step
    lengths = [33.6, 34.5, 55.1, 65.8, 68.3, 67.0, 69.2]
    records = [record(length=n, truncated=t) for n, t in zip(lengths, logged, strict=True)]
    assert codes(records[:5]) == []  # 0.48 on average: not yet
    (alert,) = find_alerts(records[:6])  # (0.14 + 0.55 + 0.78 + 0.86 + 0.83) / 5 = 0.63
    assert alert.code == "length_explosion"
    assert "63 % of the completions run into max_completion_tokens, 8 %" in alert.message
    assert codes([record(truncated=0.7)] * 6) == []  # it was so from the start


def test_a_low_plateau_is_found_after_twenty_steps():
    assert codes([record(reward=0.1)] * 19) == []
    assert codes([record(reward=0.1)] * 20) == ["low_reward_plateau"]
    rising = [record(reward=0.005 * step) for step in range(20)]  # 0.085 at the end, 0.01 before
    assert codes(rising) == []


def test_diverging_rewards_are_found():
    records = [record(reward=0.5, validation=0.5)] * 5 + [record(reward=0.7)] * 4
    assert codes([*records, record(reward=0.7, validation=0.44)]) == ["train_validation_divergence"]
    # 0.66 on average against 0.5: a gap, but validation has not fallen.
    assert codes([*records, record(reward=0.5, validation=0.5)]) == []


def test_each_sign_is_told_once_also_after_resuming():
    collapsed = [record(entropy=0.0)] * 8
    watch = HealthWatch()
    told = [alert.code for line in collapsed for alert in watch.add(line)]
    assert told == ["entropy_collapse"]
    assert HealthWatch(collapsed).add(record(entropy=0.0)) == []
    assert "0.000 nats over the last 5 steps" in find_alerts(collapsed)[0].message
