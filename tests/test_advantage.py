"""Advantages against arithmetic by hand, and what they must be when there is no signal."""

import math
import statistics

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunestone.core.advantage import centred, group_normalised, leave_one_out

NAN = float("nan")
FUNCTIONS = [group_normalised, centred, leave_one_out]
each_function = pytest.mark.parametrize("function", FUNCTIONS)
eighths = st.integers(-80, 80).map(lambda i: i / 8)
rewards_G = st.lists(st.one_of(eighths, st.just(NAN)), min_size=2, max_size=8)


def advantages(function, *rewards_PG):
    return function(torch.tensor(rewards_PG)).tolist()


def test_shapes_are_checked_in_these_tests():
    # The import hook of conftest.py is on: one axis instead of P and G is refused.
    with pytest.raises(jaxtyping.TypeCheckError, match="rewards_PG"):
        centred(torch.zeros(4))


# --- by hand --------------------------------------------------------------------------------


def test_centred_by_hand():
    # mean of 1, 2, 6 is 3
    assert advantages(centred, [1.0, 2.0, 6.0]) == [[-2.0, -1.0, 3.0]]


def test_leave_one_out_by_hand():
    # 1 - (2 + 6)/2 = -3;  2 - (1 + 6)/2 = -1.5;  6 - (1 + 2)/2 = 4.5
    assert advantages(leave_one_out, [1.0, 2.0, 6.0]) == [[-3.0, -1.5, 4.5]]


def test_group_normalised_by_hand():
    # variance (4 + 1 + 9) / (3 - 1) = 7;  sqrt 7 = 2.6457513;  -2 / 2.6458513 = -0.7559003 ...
    found = advantages(group_normalised, [1.0, 2.0, 6.0])[0]
    assert found == pytest.approx([-0.7559003, -0.3779501, 1.1338504], abs=1e-6)


def test_every_group_is_compared_with_itself_only():
    # 0, 2 about 1;  10, 20 about 15
    assert advantages(centred, [0.0, 2.0], [10.0, 20.0]) == [[-1.0, 1.0], [-5.0, 5.0]]


# --- a completion without a reward ----------------------------------------------------------


def test_a_missing_reward_takes_no_part():
    # What is left, 1 and 3: mean 2, deviation sqrt((1 + 1) / 1) = 1.41421, others' means 3 and 1
    assert advantages(centred, [1.0, NAN, 3.0]) == [[-1.0, 0.0, 1.0]]
    assert advantages(leave_one_out, [1.0, NAN, 3.0]) == [[-2.0, 0.0, 2.0]]
    scaled = 1 / (math.sqrt(2) + 1e-4)
    found = advantages(group_normalised, [1.0, NAN, 3.0])[0]
    assert found == pytest.approx([-scaled, 0.0, scaled], rel=1e-6)
    assert found[1] == 0.0


@each_function
def test_a_single_reward_or_none_is_no_signal(function):
    assert advantages(function, [NAN, 5.0, NAN], [NAN, NAN, NAN]) == [[0.0] * 3, [0.0] * 3]


# --- no signal is exactly zero --------------------------------------------------------------


@each_function
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.3, 1 / 3, 2.7, -0.7, 1e6 + 0.1])
@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 11, 64])
def test_equal_rewards_give_exactly_zero(function, reward, size):
    # The float32 mean of some of these is not the reward, by a rounding (see the next test).
    assert advantages(function, [reward] * size) == [[0.0] * size]
    assert advantages(function, [reward] * size + [NAN]) == [[0.0] * (size + 1)]


def test_the_rounding_the_previous_test_guards_against_exists():
    rewards = torch.full((1, 11), 0.1)
    assert float((rewards - rewards.mean(dim=1, keepdim=True)).abs().max()) > 0


@each_function
def test_the_smallest_difference_is_a_signal(function):
    above = float(torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)))
    assert any(advantages(function, [1.0, above])[0])


# --- for all groups -------------------------------------------------------------------------


def slow(function, rewards):
    """The definitions, over the rewards that are there, in double precision."""
    present = [r for r in rewards if not math.isnan(r)]
    if len(set(present)) < 2:
        return [0.0] * len(rewards)
    mean = statistics.fmean(present)
    scale = {
        centred: 1.0,
        group_normalised: 1 / (statistics.stdev(present) + 1e-4),
        leave_one_out: len(present) / (len(present) - 1),
    }[function]
    return [0.0 if math.isnan(r) else (r - mean) * scale for r in rewards]


@each_function
@given(st.data())
def test_all_groups_equal_the_slow_version(function, data):
    rewards = data.draw(rewards_G)
    found = advantages(function, rewards)[0]
    assert found == pytest.approx(slow(function, rewards), rel=1e-5, abs=1e-5)
