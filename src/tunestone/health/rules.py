"""The rules of the health watch: from lines of metrics.jsonl to what is wrong, if anything.

Each rule is a function of all lines up to now that looks at a window at their end. Thresholds are
in limits.py, when a sign is told in watch.py. A rule whose metrics are missing (in a run
begun with an earlier version, or without a shadow reward) is silent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from tunestone.health.limits import HORIZON, WINDOW, limit

Record = Mapping[str, Any]
_FEWEST_GRADIENTS = 10  # before a median of them says what is usual
_FEWEST_FINISHED = 16  # completions, before the mean of their rewards says anything


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found."""

    limit: str
    """Name of the limit that was crossed."""
    metric: str
    value: float
    """As compared with the limit, in its unit."""
    first: int
    """First step of the window; the last is the newest one."""
    message: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A sign, and how to look for it."""

    code: str
    find: Callable[[Sequence[Record]], Finding | None]
    needs: tuple[str, ...]
    """Metrics without which it is silent."""
    fewest: int = WINDOW
    """Steps before which it is silent."""
    window: int = WINDOW
    """Most steps its window has. That of `train_validation_divergence` begins after the best
    validation, whose checkpoint is kept anyway."""


def _mean(records: Sequence[Record], name: str) -> float:
    """Of the steps that have it; at least one does."""
    return fmean(record[name] for record in records if record.get(name) is not None)


def _share(records: Sequence[Record], name: str) -> float:
    """Of all completions of these steps."""
    return float(sum(r[name] for r in records) / sum(r["completions"] for r in records))


def _entropy(records: Sequence[Record]) -> Finding | None:
    window = records[-WINDOW:]
    entropy = _mean(window, "entropy")
    if entropy >= limit("entropy_collapse.entropy"):
        return None
    return Finding(
        "entropy_collapse.entropy",
        "entropy",
        entropy,
        window[0]["step"],
        f"Entropy {entropy:.3f} nats over the last {WINDOW} steps: the policy hardly varies any "
        "more, so groups agree and nothing is learnt. Lower learning_rate, or stop here.",
    )


def _length(records: Sequence[Record]) -> Finding | None:
    window, start = records[-WINDOW:], records[:WINDOW]
    first, last = _mean(start, "length_mean"), _mean(window, "length_mean")
    cut, cut_at_first = _mean(window, "truncated_share"), records[0]["truncated_share"]
    growth = limit("length_explosion.growth")
    gain = _mean(window, "reward_mean") - _mean(start, "reward_mean")
    advice = (
        f"and the reward rose by {gain:.3f}. Read some: does the reward pay for length?"
        if gain > 0
        else f"and the reward did not rise ({gain:+.3f}). Read some: does it end its answers?"
    )
    if cut > limit("length_explosion.truncated_share") and cut > growth * cut_at_first:
        return Finding(
            "length_explosion.truncated_share",
            "truncated_share",
            cut,
            window[0]["step"],
            f"{100 * cut:.0f} % of the completions run into max_completion_tokens, "
            f"{100 * cut_at_first:.0f} % did in the first step, {advice}",
        )
    if last <= growth * first:
        return None
    return Finding(
        "length_explosion.growth",
        "length_mean",
        last / first,
        window[0]["step"],
        f"Completions take {last:.0f} tokens, {last / first:.1f} times as many as at the start "
        f"({first:.0f}), {advice}",
    )


def _truncated(records: Sequence[Record]) -> Finding | None:
    """Cut off and the poorer for it; where none is finished, cut off and earning nothing."""
    window = records[-WINDOW:]
    cut = _mean(window, "truncated_share")
    if cut <= limit("truncated_completions.share"):
        return None
    earned = [r["truncated_share"] * (r["truncated_reward_mean"] or 0.0) for r in window]
    theirs = sum(earned) / sum(r["truncated_share"] for r in window)
    rest = sum(r["reward_mean"] for r in window) - sum(earned)
    others = rest / (WINDOW * (1 - cut)) if cut < 1 else 0.0
    finished = sum(r["completions"] * (1 - r["truncated_share"]) for r in window)
    comparable = finished >= _FEWEST_FINISHED
    if theirs > 0 and not (comparable and theirs < limit("truncated_completions.earned") * others):
        return None
    if theirs <= 0 and others <= 0 and cut < 1:
        return None  # nothing is earned by anybody: the reward is too hard, not the limit too low
    ended = f"those that end by themselves earn {others:.3f}" if cut < 1 else "none ends by itself"
    return Finding(
        "truncated_completions.share",
        "truncated_share",
        cut,
        window[0]["step"],
        f"{100 * cut:.0f} % of the completions are cut off and earn {theirs:.3f}; {ended}. "
        "Raise max_completion_tokens, or ask for less.",
    )


def _repetition(records: Sequence[Record]) -> Finding | None:
    window = records[-WINDOW:]
    share = _mean(window, "repetition_share")
    if share <= limit("repetition.share"):
        return None
    return Finding(
        "repetition.share",
        "repetition_share",
        share,
        window[0]["step"],
        f"{100 * share:.0f} % of the four-word sequences of a completion stood in it before: it "
        "turns in circles. Does the reward pay for length, or for words that may be repeated?",
    )


def _identical(records: Sequence[Record]) -> Finding | None:
    window = records[-WINDOW:]
    share, reward = _mean(window, "identical_share"), _mean(window, "reward_mean")
    solved = reward >= limit("identical_completions.reward")
    if share <= limit("identical_completions.share") or solved:
        return None
    return Finding(
        "identical_completions.share",
        "identical_share",
        share,
        window[0]["step"],
        f"{100 * share:.0f} % of the completions equal another one of their group, at a reward of "
        f"{reward:.3f}: the policy has settled on its answers and hardly tries others. Unless they "
        "still improve, go back to an earlier checkpoint with a lower learning_rate.",
    )


def _no_signal(records: Sequence[Record]) -> Finding | None:
    window = records[-WINDOW:]
    share = _mean(window, "signal_share")
    solved = _saturated(records) is not None  # which is then what has to be told
    if share >= limit("no_signal.share") or solved:
        return None
    reward = _mean(window, "reward_mean")
    return Finding(
        "no_signal.share",
        "signal_share",
        share,
        window[0]["step"],
        f"In {100 * (1 - share):.0f} % of the groups all completions earned the same (mean reward "
        f"{reward:.3f}), so nothing is learnt from them. Is the reward constant, are the prompts "
        "too easy or too hard, or has the policy settled on one answer?",
    )


def _saturated(records: Sequence[Record]) -> Finding | None:
    window = records[-WINDOW:]
    reward = _mean(window, "reward_mean")
    inside = all(r["reward_min"] >= 0 and r["reward_max"] <= 1 for r in window)
    if reward <= limit("reward_saturated.reward") or not inside:
        return None
    return Finding(
        "reward_saturated.reward",
        "reward_mean",
        reward,
        window[0]["step"],
        f"Reward {reward:.3f} of at most 1: hardly anything is left to learn from these prompts. "
        "Stop here, or take harder ones; if it came suddenly, read what is paid.",
    )


def _plateau(records: Sequence[Record]) -> Finding | None:
    window = records[-HORIZON:]
    last = _mean(window[-WINDOW:], "reward_mean")
    gain = last - _mean(window[:WINDOW], "reward_mean")
    low = limit("low_reward_plateau.reward")
    if last >= low or gain >= limit("low_reward_plateau.gain"):
        return None
    return Finding(
        "low_reward_plateau.reward",
        "reward_mean",
        last,
        window[0]["step"],
        f"Reward {last:.3f}, below {low} and {gain:+.3f} within {HORIZON} steps: "
        "too sparse to learn from, or learning_rate is too low. Take easier prompts, give partial "
        "credit, or raise it.",
    )


def _divergence(records: Sequence[Record]) -> Finding | None:
    validated = [r for r in records if "validation_reward" in r]
    if len(validated) < 2:
        return None
    best = max(validated, key=lambda r: float(r["validation_reward"]))
    training, last = _mean(records[-WINDOW:], "reward_mean"), validated[-1]["validation_reward"]
    fall = best["validation_reward"] - last
    far = training - last >= limit("train_validation_divergence.gap")
    if not far or fall < limit("train_validation_divergence.fall"):
        return None
    return Finding(
        "train_validation_divergence.gap",
        "validation_reward",
        training - last,
        best["step"] + 1,
        f"Training reward {training:.3f}, validation reward {last:.3f} and falling from "
        f"{best['validation_reward']:.3f}: it learns the training prompts by heart. The best "
        "checkpoint is kept.",
    )


def _shadow(records: Sequence[Record]) -> Finding | None:
    """Compared with the first steps, and with those in which the shadow reward was at its best."""
    records = [r for r in records if r["shadow_reward_mean"] is not None]  # None: all failed
    if len(records) < 2 * WINDOW:
        return None
    start, window = records[:WINDOW], records[-WINDOW:]
    starts = range(0, len(records) - WINDOW, WINDOW)
    peak = max(
        (records[i : i + WINDOW] for i in starts), key=lambda r: _mean(r, "shadow_reward_mean")
    )
    reward, shadow = _mean(window, "reward_mean"), _mean(window, "shadow_reward_mean")
    rise = reward - _mean(start, "reward_mean")
    follow = shadow - _mean(start, "shadow_reward_mean")
    fall = _mean(peak, "shadow_reward_mean") - shadow
    stalls = (
        rise >= limit("shadow_divergence.rise")
        and follow < limit("shadow_divergence.follow") * rise
    )
    falls = fall >= limit("shadow_divergence.fall") and reward >= _mean(peak, "reward_mean")
    if not stalls and not falls:
        return None
    return Finding(
        "shadow_divergence.follow" if stalls else "shadow_divergence.fall",
        "shadow_reward_mean",
        follow / rise if stalls else fall,
        window[0]["step"],
        f"The reward rose by {rise:.3f} to {reward:.3f}, the shadow reward by {follow:+.3f} to "
        f"{shadow:.3f} ({fall:.3f} below its best). {_carrier(start, window)}Read what is paid: "
        "this is how reward hacking looks.",
    )


def _carrier(start: Sequence[Record], window: Sequence[Record]) -> str:
    """Which component of the reward rose most; empty where the reward is made of one piece."""
    rises = {
        name: fmean(r["scores"][name] for r in window) - fmean(r["scores"][name] for r in start)
        for name in window[-1].get("scores", {})
        if all(name in r["scores"] for r in (*start, *window))
    }
    if not rises:
        return ""
    name = max(rises, key=lambda name: rises[name])
    return f"The component {name} rose most, by {rises[name]:+.3f}. "


def _grader_errors(records: Sequence[Record]) -> Finding | None:
    window = records[-WINDOW:]
    share = _share(window, "grade_errors")
    shadow = sum(r.get("shadow_errors", 0) for r in window)
    shadow_share = shadow / max(1, sum(r.get("shadow_graded", 0) for r in window))
    worst = max(share, shadow_share)
    if worst <= limit("grader_errors.share"):
        return None
    whose = "The reward" if share >= shadow_share else "The shadow reward"
    return Finding(
        "grader_errors.share",
        "grade_errors" if share >= shadow_share else "shadow_errors",
        worst,
        window[0]["step"],
        f"{whose} failed on {100 * worst:.0f} % of the completions of the last {WINDOW} steps. "
        "They are left out of their groups; mend the grader, and go on with --resume.",
    )


def _gradient(records: Sequence[Record]) -> Finding | None:
    """Steps without signal have no gradient and say nothing about what is usual."""
    norm = float(records[-1]["gradient_norm"])
    window = records[-HORIZON - 1 :]
    before = [r["gradient_norm"] for r in window[:-1] if r["gradient_norm"] > 0]
    if len(before) < _FEWEST_GRADIENTS:
        return None
    usual = median(before)
    if norm <= limit("gradient_spike.ratio") * usual:
        return None
    return Finding(
        "gradient_spike.ratio",
        "gradient_norm",
        norm / usual,
        records[-1]["step"],
        f"Gradient norm {norm:.3g}, {norm / usual:.0f} times the usual {usual:.3g}. It is clipped; "
        "if it comes again, lower learning_rate or look for rewards of another scale.",
    )


def _mismatch(records: Sequence[Record]) -> Finding | None:
    """Steps without signal train on nothing and have no gap."""
    window = records[-WINDOW:]
    gaps = [r["sampling_gap"] for r in window if r["tree_nodes"]]
    if not gaps or (gap := fmean(gaps)) <= limit("sampling_mismatch.gap"):
        return None
    return Finding(
        "sampling_mismatch.gap",
        "sampling_gap",
        gap,
        window[0]["step"],
        f"Log-probabilities in sampling and in training differ by {gap:.3f} nats on average: what "
        'is trained is not what was drawn. Use sampler = "shared", or fp32.',
    )


RULES = (
    Rule("entropy_collapse", _entropy, ("entropy",)),
    Rule("length_explosion", _length, ("length_mean", "truncated_share", "reward_mean")),
    Rule("truncated_completions", _truncated, ("truncated_reward_mean", "completions")),
    Rule("repetition", _repetition, ("repetition_share",)),
    Rule("identical_completions", _identical, ("identical_share", "reward_mean")),
    Rule("no_signal", _no_signal, ("signal_share", "reward_mean", "reward_min", "reward_max")),
    Rule("reward_saturated", _saturated, ("reward_mean", "reward_min", "reward_max")),
    Rule("low_reward_plateau", _plateau, ("reward_mean",), fewest=HORIZON, window=HORIZON),
    Rule("train_validation_divergence", _divergence, ("reward_mean",)),
    Rule("shadow_divergence", _shadow, ("shadow_reward_mean",)),
    Rule("grader_errors", _grader_errors, ("grade_errors", "completions")),
    Rule("gradient_spike", _gradient, ("gradient_norm",), fewest=_FEWEST_GRADIENTS + 1, window=1),
    Rule("sampling_mismatch", _mismatch, ("sampling_gap", "tree_nodes")),
)
"""In the order in which the signs of one step are told."""
CODES = tuple(rule.code for rule in RULES)
"""Of all alerts that a step can raise."""
