"""Penalties: the line between the limits of length, and the share of repeated n-grams."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ready_steps import grade, sample
from tunestone.errors import RewardError
from tunestone.rewards.ready.penalties import Length, Repetition, score_length, score_repetition


@pytest.mark.parametrize(
    ("words", "reward"),
    # From 0 at 8 words to -1 at 12: a quarter each.
    [(0, 0), (1, 0), (8, 0), (9, -0.25), (10, -0.5), (12, -1), (13, -1), (10_000, -1)],
)
def test_length_falls_linearly_between_the_limits(words, reward):
    text = " \n".join(["word"] * words)
    assert score_length(text, soft_limit=8, hard_limit=12) == (reward, {"length": words})


def test_length_in_characters():
    assert score_length("日本語です", soft_limit=4, hard_limit=8, unit="characters") == (
        -0.25, {"length": 5}
    )  # fmt: skip
    assert score_length("日本語です", soft_limit=4, hard_limit=8)[1] == {"length": 1}


@given(st.lists(st.sampled_from("abc")), st.integers(1, 5), st.floats(0.1, 10))
def test_repetition_is_the_share_of_ngrams_seen_before(words, ngram, penalty):
    seen, repeated = [], 0
    for start in range(len(words) - ngram + 1):
        piece = words[start : start + ngram]
        repeated += piece in seen
        seen.append(piece)
    share = repeated / len(seen) if seen else 0.0
    reward, metrics = score_repetition(" ".join(words), penalty=penalty, ngram=ngram)
    assert metrics["repetition"] == pytest.approx(share)
    assert reward == pytest.approx(-penalty * share)


def test_repetition_by_hand():
    # Pairs of "a b a b a": ab ba ab ba, two of four are new.
    assert score_repetition("a b a b a", ngram=2) == (-0.5, {"repetition": 0.5})
    assert score_repetition("ababa", ngram=2, unit="characters") == (-0.5, {"repetition": 0.5})
    assert score_repetition("ababa", ngram=2) == (0.0, {"repetition": 0.0})  # one word
    assert score_repetition("", ngram=1) == (0.0, {"repetition": 0.0})
    assert score_repetition("no " * 1001, ngram=2)[0] == -(1 - 1 / 1000)


def test_no_penalty_is_zero_and_not_minus_zero():
    assert str(score_length("a", soft_limit=1, hard_limit=2)[0]) == "0.0"
    assert str(score_repetition("a b c d e")[0]) == "0.0"


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_a_megabyte_is_counted_in_linear_time(unit):
    start = time.perf_counter()
    for text in ("a" * 1_000_000, "ab " * 333_333, " " * 1_000_000):
        score_length(text, soft_limit=10, hard_limit=20, unit=unit)
        score_repetition(text, unit=unit)
    assert time.perf_counter() - start < 5


def test_limits_that_leave_no_room_are_refused():
    with pytest.raises(RewardError, match="hard_limit 10 is not above soft_limit 10"):
        Length(soft_limit=10, hard_limit=10)


def test_the_graders():
    assert grade(Length(soft_limit=1, hard_limit=3), sample("a b"))[0].reward == -0.5
    assert grade(Repetition(ngram=1, penalty=2), sample("a a"), sample("a b"))[0].reward == -1.0
