"""Every threshold of the health watch: one table, from which docs/health.md is checked.

Where a number is published it is taken as it is. AWS and Azure publish few: most say what to look
at and not how much of it is too much, so that the number is ours, with its reason. Rewards are
taken to be between 0 and 1, as both services advise.

Sources: "AWS" is the guide to reinforcement fine-tuning on Amazon Bedrock and the post on best
practices of April 2026; "Azure" the thresholds in the skill files of its fine-tuning service.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that a rule compares with."""

    name: str
    """`code.what`: the alert, and what of it is meant."""
    value: float
    unit: str
    rule: str
    """What is compared, in words."""
    source: str

    @property
    def code(self) -> str:
        """The alert it belongs to."""
        return self.name.partition(".")[0]


WINDOW = 5
"""Steps over which a mean is taken. Ours: one batch of prompts is easier than the next, and healthy
runs of `word_problems` jump by 0.2 from step to step."""
HORIZON = 20
"""Steps that a reward has for rising, and over which the usual gradient is told. Ours: a fifth of
the steps of a short run on a GPU; runs that learn have moved by then."""

_TABLE = (
    Limit(
        "entropy_collapse.entropy",
        0.02,
        "nats",
        "mean entropy below",
        "AWS: near zero is collapse. Ours what is near: healthy runs with short answers end at "
        "0.04",
    ),
    Limit(
        "length_explosion.growth",
        3.0,
        "times",
        "mean length above that of the first steps",
        "Azure: three times the tokens is suspicious",
    ),
    Limit(
        "length_explosion.truncated_share",
        0.5,
        "share",
        "completions cut off, above, and above three times the share of the first step",
        "ours: the limit hides growth. In the run of reward-hacking.md that was paid for length, "
        "lengths doubled and 83 % were cut",
    ),
    Limit(
        "truncated_completions.share",
        0.5,
        "share",
        "completions cut off, above, and earning too little",
        "AWS shows the share and names no number. Ours: most answers never get to their end",
    ),
    Limit(
        "truncated_completions.earned",
        0.5,
        "share",
        "mean reward of those cut off, below this share of what the others earn",
        "ours: to be cut is no fault where it costs nothing (one label, one token)",
    ),
    Limit(
        "repetition.share",
        0.3,
        "share",
        "mean share of four-word sequences that stood in the same completion before, above",
        "AWS: a sudden spike of length is a loop. Ours how much: healthy runs stay below 0.02",
    ),
    Limit(
        "identical_completions.share",
        0.98,
        "share",
        "mean share of completions that another one of their group equals, above",
        "ours: healthy runs with short answers reach 0.93",
    ),
    Limit(
        "identical_completions.reward",
        0.95,
        "reward",
        "and mean reward below",
        "ours: a solved task is answered alike, and should be",
    ),
    Limit(
        "no_signal.share",
        0.10,
        "share",
        "groups whose rewards differ, below",
        "ours: healthy runs stay above 0.25; below 0.10 nine tenths of the time are wasted",
    ),
    Limit(
        "reward_saturated.reward",
        0.95,
        "reward",
        "mean reward above, of rewards between 0 and 1",
        "AWS: above 95 % there is hardly anything left to learn",
    ),
    Limit(
        "low_reward_plateau.reward",
        0.15,
        "reward",
        "mean reward below",
        "AWS: rewards that stay below 0.15 are a concern",
    ),
    Limit(
        "low_reward_plateau.gain",
        0.02,
        "reward",
        "and risen by less within 20 steps",
        "ours: what a mean over five steps of 128 completions moves by itself",
    ),
    Limit(
        "train_validation_divergence.gap",
        0.10,
        "reward",
        "training reward above the last validation reward by",
        "Azure: a gap above 0.10 is a reason to stop",
    ),
    Limit(
        "train_validation_divergence.fall",
        0.05,
        "reward",
        "and validation fallen from its best by",
        "AWS: falling validation is a concern. The number is the gap that Azure calls fine",
    ),
    Limit(
        "shadow_divergence.rise",
        0.10,
        "reward",
        "training reward risen by",
        "AWS: reward rises while people's scores stall is reward hacking. The number is Azure's "
        "for two rewards that should be one",
    ),
    Limit(
        "shadow_divergence.follow",
        0.2,
        "share",
        "and the shadow reward by less than this share of it",
        "ours: below a fifth it does not follow",
    ),
    Limit(
        "shadow_divergence.fall",
        0.10,
        "reward",
        "or the shadow reward fallen from its best, with a training reward no lower than then",
        "as above; three standard errors of 320 rewards of 0 and 1",
    ),
    Limit(
        "grader_errors.share",
        0.05,
        "share",
        "completions that could not be graded, above",
        "OpenAI fails a job with many errors and names no number. Ours: what cannot be graded is "
        "never learnt from, and is seldom a fair sample",
    ),
    Limit(
        "gradient_spike.ratio",
        10.0,
        "times",
        "gradient norm above the median of the 20 steps before",
        "AWS: extreme spikes are a problem of learning rate, reward scale or numerics. Ours how "
        "extreme: healthy runs stay below 3",
    ),
    Limit(
        "sampling_mismatch.gap",
        0.05,
        "nats",
        "mean difference between a token's log-probability in sampling and in training, above",
        "ours: each probability is off by a twentieth. Rounding is below 0.001 in fp32",
    ),
    Limit(
        "base_earns_nothing.reward",
        0.0,
        "reward",
        "best reward of the base on held-out prompts at most",
        "AWS: where the base earns nothing, teach it by examples first",
    ),
    Limit(
        "base_solves_it.reward",
        0.95,
        "reward",
        "mean reward of the base on held-out prompts above, of rewards between 0 and 1",
        "AWS: above 95 % there is hardly anything left to learn",
    ),
)
LIMITS = {limit.name: limit for limit in _TABLE}
"""By name."""


def limit(name: str) -> float:
    """The value of a limit."""
    return LIMITS[name].value
