"""How long prompts and reference answers are, in tokens, and the limits that follow.

The sizing rule is that of AWS's notebooks: `max_prompt_tokens` is twice the 99th percentile of the
prompts, `max_completion_tokens` three times that of the reference answers. The second half means
answers that hold the whole solution; from bare ones ("72") nothing follows, and none is given.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tunestone.check.answers import is_empty, whole_text
from tunestone.check.findings import Bars
from tunestone.types import Prompt

BARE_TOKENS = 16
"""Reference answers whose 99th percentile is below this say nothing of how long a solution is."""
_BARS = 10


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of every training prompt and of every reference answer that is not empty."""

    prompts_P: tuple[int, ...]
    answers_P: tuple[int, ...] = ()

    @property
    def max_prompt_tokens(self) -> int:
        """2 x P99 of the prompts."""
        return 2 * quantile(self.prompts_P, 0.99)

    @property
    def max_completion_tokens(self) -> int | None:
        """3 x P99 of the reference answers; None when they are bare or missing."""
        if not self.answers_P:
            return None
        longest = quantile(self.answers_P, 0.99)
        return 3 * longest if longest >= BARE_TOKENS else None


def measure_lengths(
    prompts: Sequence[Prompt],
    *,
    count_tokens: Callable[[Prompt], int],
    count_text_tokens: Callable[[str], int],
) -> Lengths:
    """Count with the model's own tokenizer; prompts with its chat template."""
    references = [prompt.row.get("reference_answer") for prompt in prompts]
    return Lengths(
        tuple(count_tokens(prompt) for prompt in prompts),
        tuple(count_text_tokens(whole_text(ref)) for ref in references if not is_empty(ref)),
    )


def quantile(values: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of all values does not exceed."""
    return int(np.quantile(values, share, method="inverted_cdf"))


def histogram(title: str, values: Sequence[int]) -> Bars:
    """At most ten bars of equal whole-numbered width, from the smallest value to the largest."""
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // _BARS))
    counts = np.bincount([(value - low) // width for value in values])
    starts = [low + i * width for i in range(len(counts))]
    labels = [
        f"{start}" if width == 1 else f"{start}-{min(start + width - 1, high)}" for start in starts
    ]
    return Bars(title, tuple(labels), tuple(int(count) for count in counts))
