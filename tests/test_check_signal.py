"""What base completions say about the signal of a training."""

import json
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from tunestone.check.signal_section import (
    Drawn,
    binary_signal_share,
    check_signal,
    drawn_signal_share,
    fit_beta,
)
from tunestone.types import Prompt


def drawn(*rewards_PG, truncated=0):
    """One prompt per list of rewards, each completion 5 tokens long."""
    return [
        Drawn(
            Prompt(f"row-{p}", ({"role": "user", "content": "?"},)),
            texts_G=("text",) * len(rewards_G),
            rewards_G=tuple(map(float, rewards_G)),
            lengths_G=(5,) * len(rewards_G),
            truncated=truncated,
        )
        for p, rewards_G in enumerate(rewards_PG)
    ]


def codes(section):
    return {finding.code: finding.level for finding in section.findings}


def test_a_uniform_chance_gives_known_shares():
    # Beta(1, 1): E[p^G] = E[(1-p)^G] = 1 / (G + 1), so the share is 1 - 2 / (G + 1).
    for size in (2, 4, 16):
        assert binary_signal_share(1, 1, size) == pytest.approx(1 - 2 / (size + 1))
    # A nearly certain chance of 1/2: 1 - 2 / 2^G.
    assert binary_signal_share(5e4, 5e4, 4) == pytest.approx(1 - 2 / 16, abs=1e-3)


def test_the_fit_finds_the_distribution_that_made_the_counts():
    generator = np.random.default_rng(0)
    for alpha, beta in ((0.5, 1.5), (4.0, 2.0)):
        chances = generator.beta(alpha, beta, size=4_000)
        counts = [(int(k), 8) for k in generator.binomial(8, chances)]
        fitted = fit_beta(counts)
        for size in (4, 8, 16):
            true_share = float(np.mean(1 - chances**size - (1 - chances) ** size))
            assert binary_signal_share(*fitted, size) == pytest.approx(true_share, abs=0.03)


def test_the_share_of_drawn_groups_counts_all_subsets():
    rewards_PG = [(0.0, 0.0, 0.5, 1.0), (1.0, 1.0, 1.0, 1.0), (0.25, 0.5, 0.5, 0.5)]
    for size in (2, 3, 4):
        slow = []
        for rewards_G in rewards_PG:
            groups = list(combinations(rewards_G, size))
            slow.append(sum(len(set(group)) > 1 for group in groups) / len(groups))
        assert drawn_signal_share(rewards_PG, size) == pytest.approx(sum(slow) / 3)
    # Larger groups than were drawn: what was drawn is a lower bound.
    assert drawn_signal_share(rewards_PG, 16) == drawn_signal_share(rewards_PG, 4)


def test_mixed_prompts_are_fine():
    section, facts = check_signal(drawn([1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1]))
    assert codes(section) == {"pass_rate": "ok", "groups_with_signal": "ok"}
    assert facts.pass_rate == 9 / 16
    assert facts.mixed_share == 0.5
    assert section.bars[0].counts == (1, 2, 1)  # too hard, mixed, too easy
    assert section.bars[1].counts == (1, 0, 1, 1, 1)  # 0 to 4 of 4 pass
    assert facts.pass_rate_low < 9 / 16 < facts.pass_rate_high
    assert facts.signal_share[4] < facts.signal_share[8] < facts.signal_share[16]


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.3])
def test_no_differing_rewards_are_fatal(reward):
    section, facts = check_signal(drawn(*[[reward] * 4] * 6))
    assert codes(section) == {"no_signal": "fatal"}
    assert set(facts.signal_share.values()) == {0.0}
    assert section.findings[0].remedy
    assert section.findings[0].evidence[0]["completion"] == "text"


def test_the_ends_of_the_scale_are_warned_of():
    easy = [[1] * 8] * 9 + [[1] * 7 + [0]]
    assert codes(check_signal(drawn(*easy))[0])["too_easy"] == "warning"  # 79 of 80 = 98.75 %
    sparse = [[0] * 8] * 9 + [[0] * 6 + [1, 1]]
    assert codes(check_signal(drawn(*sparse))[0])["sparse_reward"] == "warning"  # 2 of 80
    partial = [[0, 0.2, 0.4, 0]] * 4
    assert codes(check_signal(drawn(*partial))[0])["never_passes"] == "warning"


def test_nothing_graded_is_said_and_not_taken_for_failure():
    ungraded = [replace(one, rewards_G=()) for one in drawn([0, 0, 0, 0], [0, 0, 0, 0])]
    section, facts = check_signal(ungraded)
    assert codes(section) == {"not_graded": "fatal"}
    assert section.findings[0].message.startswith("None of 8 completions of the base model could")
    assert "pass_rate" not in section.facts
    assert section.bars == ()
    assert (facts.prompts_graded, facts.length_mean, dict(facts.signal_share)) == (0, 5.0, {})
    json.dumps(section.facts, allow_nan=False)


def test_failed_grades_count_neither_way():
    section, facts = check_signal(drawn([1, 0], [], [1]))
    assert facts.pass_rate == 2 / 3
    assert facts.mixed_share == 1 / 2  # of the two prompts with a grade
    assert (facts.prompts, facts.prompts_graded) == (3, 2)
    assert section.bars[0].counts == (0, 1, 1)  # too hard, mixed, too easy: not the ungraded one
    assert sum(section.bars[1].counts) == 2
    assert math.isfinite(facts.signal_share[4])
    assert "pass_rate" in codes(section)
