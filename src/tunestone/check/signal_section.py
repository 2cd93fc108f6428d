"""The section `signal`: what the base model earns now, and how often its groups would disagree.

A group whose completions all earn the same teaches nothing, so what counts before training is the
share of groups with signal. Completions are drawn as in training. Where rewards are 0 and 1, each
prompt's chance of success is taken to come from one Beta distribution, fitted to the counts by
maximum likelihood on a grid; from it follows the share for any group size, also for larger groups
than were drawn. For other rewards the share is estimated without bias from the drawn completions,
for larger groups only from below. Sources: rft_services.md 15.3 and 16 (AWS: warn at 0 % and above
95 %; fewer than 5 % positive are too sparse), beta-binomial: Skellam 1948.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tunestone import stats
from tunestone.check.findings import Bars, Finding, Json, Section, counted, excerpt, percent
from tunestone.check.plan import SignalFacts
from tunestone.types import Prompt

GROUP_SIZES = (4, 8, 16)
_TOO_EASY, _SPARSE, _FEW_GROUPS = 0.95, 0.05, 0.3
_MEANS = np.linspace(0.005, 0.995, 100)
_CONCENTRATIONS = np.geomspace(0.05, 200, 60)
_SFT = "First teach the format by examples in the prompt or by supervised training, or take easier "


@dataclass(frozen=True, slots=True)
class Drawn:
    """The base model's completions of one prompt."""

    prompt: Prompt
    texts_G: tuple[str, ...]
    rewards_G: tuple[float, ...]
    """Of those whose grading did not fail; empty where it failed for all."""
    lengths_G: tuple[int, ...]
    truncated: int


def check_signal(drawn_P: Sequence[Drawn]) -> tuple[Section, SignalFacts]:
    """Findings about the drawn completions, and the numbers the plan needs.

    Prompts none of whose completions could be graded count for lengths only.
    """
    graded_P = [drawn for drawn in drawn_P if drawn.rewards_G]
    low, high = _reward_range(graded_P)
    passes_P = [_passes(drawn, low, high) for drawn in graded_P]
    facts = _measure(drawn_P, passes_P, is_binary={low, high} <= {0.0, 1.0})
    as_json = _as_json(facts, graded_P)
    if not graded_P:
        return Section("signal", (_not_graded(drawn_P),), facts=as_json), facts
    solved = Counter(_kind(drawn, passes) for drawn, passes in zip(graded_P, passes_P, strict=True))
    kinds = ("too hard", "mixed", "too easy")
    section = Section(
        "signal",
        tuple(_findings(facts, graded_P)),
        facts=as_json,
        bars=(Bars("Prompts", kinds, tuple(solved[kind] for kind in kinds)), _histogram(passes_P)),
    )
    return section, facts


def fit_beta(passes_P: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Shape (alpha, beta) of the likeliest Beta distribution behind (passed, drawn) counts."""
    alphas = _MEANS[:, None] * _CONCENTRATIONS
    betas = (1 - _MEANS)[:, None] * _CONCENTRATIONS
    log_likelihood = np.zeros_like(alphas)
    for (passed, drawn), count in Counter(passes_P).items():
        upper = _log_beta(alphas + passed, betas + drawn - passed)
        log_likelihood += count * (upper - _log_beta(alphas, betas))
    i, j = np.unravel_index(np.argmax(log_likelihood), log_likelihood.shape)
    return float(alphas[i, j]), float(betas[i, j])


def binary_signal_share(alpha: float, beta: float, size: int) -> float:
    """Chance that a group of this size holds both a success and a failure."""
    whole = float(_log_beta(np.array(alpha), np.array(beta)))
    all_pass = float(_log_beta(np.array(alpha + size), np.array(beta)))
    all_fail = float(_log_beta(np.array(alpha), np.array(beta + size)))
    return 1 - math.exp(all_pass - whole) - math.exp(all_fail - whole)


def drawn_signal_share(rewards_PG: Sequence[Sequence[float]], size: int) -> float:
    """Share of groups of this size with different rewards, if drawn from these without return."""
    shares = []
    for rewards_G in rewards_PG:
        few = min(size, len(rewards_G))
        same = sum(math.comb(count, few) for count in Counter(rewards_G).values())
        shares.append(1 - same / math.comb(len(rewards_G), few))
    return sum(shares) / len(shares)


def _log_beta(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    lgamma = np.vectorize(math.lgamma, otypes=[float])
    result: np.ndarray = lgamma(alpha) + lgamma(beta) - lgamma(alpha + beta)
    return result


def _reward_range(drawn_P: Sequence[Drawn]) -> tuple[float, float]:
    """Of what was earned, 0 and 1 included where it lies between them."""
    rewards = [reward for drawn in drawn_P for reward in drawn.rewards_G]
    low, high = min(rewards, default=0.0), max(rewards, default=0.0)
    return min(0.0, low), max(1.0, high)


def _passes(drawn: Drawn, low: float, high: float) -> tuple[int, int]:
    """(passed, drawn): a completion passes in the upper half of the rewards."""
    middle = (low + high) / 2
    return sum(reward > middle for reward in drawn.rewards_G), len(drawn.rewards_G)


def _measure(
    drawn_P: Sequence[Drawn], passes_P: Sequence[tuple[int, int]], *, is_binary: bool
) -> SignalFacts:
    passed, total = sum(passed for passed, _ in passes_P), sum(drawn for _, drawn in passes_P)
    low, high = stats.wilson_interval(passed, total) if total else (0.0, 1.0)
    rewards_PG = [drawn.rewards_G for drawn in drawn_P if len(drawn.rewards_G) > 1]
    is_binary = is_binary and all(set(rewards_G) <= {0.0, 1.0} for rewards_G in rewards_PG)
    shares = {}
    if is_binary and passed not in (0, total):
        shape = fit_beta(passes_P)
        shares = {size: binary_signal_share(*shape, size) for size in GROUP_SIZES}
    elif passes_P:
        shares = {
            size: drawn_signal_share(rewards_PG, size) if rewards_PG else 0.0
            for size in GROUP_SIZES
        }
    lengths = [length for drawn in drawn_P for length in drawn.lengths_G]
    mixed = sum(len(set(rewards_G)) > 1 for rewards_G in rewards_PG)
    return SignalFacts(
        prompts=len(drawn_P),
        prompts_graded=len(passes_P),
        completions=max(len(drawn.texts_G) for drawn in drawn_P),
        pass_rate=passed / total if total else 0.0,
        pass_rate_low=low,
        pass_rate_high=high,
        mixed_share=mixed / len(passes_P) if passes_P else 0.0,
        signal_share=shares,
        length_mean=sum(lengths) / len(lengths),
        length_p99=int(np.quantile(lengths, 0.99, method="inverted_cdf")),
        truncated_share=sum(drawn.truncated for drawn in drawn_P) / len(lengths),
    )


def _kind(drawn: Drawn, passes: tuple[int, int]) -> str:
    if len(set(drawn.rewards_G)) > 1:
        return "mixed"
    return "too easy" if passes[0] else "too hard"


def _histogram(passes_P: Sequence[tuple[int, int]]) -> Bars:
    most = max(drawn for _, drawn in passes_P)
    counts = Counter(passed for passed, _ in passes_P)
    labels = tuple(f"{passed} of {most}" for passed in range(most + 1))
    return Bars("Completions that pass", labels, tuple(counts[k] for k in range(most + 1)))


def _as_json(facts: SignalFacts, graded_P: Sequence[Drawn]) -> dict[str, Json]:
    rewards = [reward for drawn in graded_P for reward in drawn.rewards_G]
    earned: dict[str, Json] = (
        {
            "reward_mean": sum(rewards) / len(rewards),
            "pass_rate": facts.pass_rate,
            "pass_rate_ci95": [facts.pass_rate_low, facts.pass_rate_high],
            "mixed_share": facts.mixed_share,
            **{f"signal_share_{size}": share for size, share in facts.signal_share.items()},
        }
        if rewards
        else {}
    )
    return {
        "prompts": facts.prompts,
        "prompts_graded": facts.prompts_graded,
        "completions_of_each": facts.completions,
        **earned,
        "length_mean_tokens": facts.length_mean,
        "length_p99_tokens": facts.length_p99,
        "truncated_share": facts.truncated_share,
    }


def _not_graded(drawn_P: Sequence[Drawn]) -> Finding:
    count = sum(len(drawn.texts_G) for drawn in drawn_P)
    return Finding(
        "fatal",
        "not_graded",
        f"None of {counted(count, 'completion')} of the base model could be graded: whether there "
        "is anything to learn is not known.",
        "The section on the reward holds the error; mend the reward, then check again.",
        _evidence(drawn_P),
    )


def _findings(facts: SignalFacts, graded_P: Sequence[Drawn]) -> Iterator[Finding]:
    rate = (
        f"{percent(facts.pass_rate)} of the base model's completions pass "
        f"({percent(facts.pass_rate_low)} to {percent(facts.pass_rate_high)})"
    )
    if not facts.mixed_share:
        message = (
            f"No prompt has completions with different rewards: nothing to learn from; {rate}."
        )
        remedy = f"{_SFT}tasks, or a reward with partial credit."
        yield Finding("fatal", "no_signal", message, remedy, _evidence(graded_P))
    elif facts.pass_rate > _TOO_EASY:
        message = f"{rate}: reinforcement has little to add."
        yield Finding("warning", "too_easy", message, "Take harder tasks or a stricter reward.")
    elif facts.pass_rate == 0:
        remedy = f"{_SFT}tasks; until then only partial credit is learnt from."
        yield Finding("warning", "never_passes", f"{rate}.", remedy, _evidence(graded_P))
    elif facts.pass_rate < _SPARSE:
        remedy = f"{_SFT}tasks; or give partial credit, or sample larger groups."
        yield Finding("warning", "sparse_reward", f"{rate}: too sparse.", remedy)
    else:
        yield Finding("ok", "pass_rate", f"{rate}.")
    if facts.mixed_share:
        yield _judge_groups(facts)


def _judge_groups(facts: SignalFacts) -> Finding:
    shares = ", ".join(f"{percent(s)} at {size}" for size, s in facts.signal_share.items())
    message = f"Predicted share of groups with signal, by group size: {shares}."
    if max(facts.signal_share.values()) >= _FEW_GROUPS:
        return Finding("ok", "groups_with_signal", message)
    remedy = "Most sampling would be wasted: mix in easier or harder prompts, or set refill_limit."
    return Finding("warning", "few_groups_with_signal", message, remedy)


def _evidence(drawn_P: Sequence[Drawn]) -> tuple[dict[str, Json], ...]:
    return tuple(
        {"id": drawn.prompt.id, "completion": excerpt(drawn.texts_G[0])} for drawn in drawn_P[:3]
    )
