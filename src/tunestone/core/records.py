"""What a step leaves behind: the numbers of its line in metrics.jsonl, and the lines of samples.

Only counting; everything comes from completions and grades. Names and units are those of
docs/architecture.md, "The run folder".
"""

import math
import resource
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tunestone.core.evaluate import Answered, Example
from tunestone.rewards.ready.penalties import score_repetition
from tunestone.types import Completion, Grade

_LARGEST_EXPONENT = 700.0  # of a float


@dataclass(slots=True)
class Graded:
    """One prompt's completions with their grades."""

    example: Example
    completions_G: list[Completion]
    grades_G: list[Grade] = field(default_factory=list)
    advantages_G: list[float | None] = field(default_factory=list)
    shadows_G: list[Grade | None] = field(default_factory=list)
    """What the shadow reward gave; None for a completion it was not asked about, empty without."""

    @property
    def has_signal(self) -> bool:
        """Whether its completions earned different rewards."""
        return any(self.advantages_G)


def describe(graded_P: Sequence[Graded]) -> dict[str, Any]:
    """Metrics of a step's completions; reward statistics leave out failed grades.

    At least half of the grades are good: a step with fewer has been refused.
    """
    completions = [c for graded in graded_P for c in graded.completions_G]
    grades = [g for graded in graded_P for g in graded.grades_G]
    advantages = [a for graded in graded_P for a in graded.advantages_G if a is not None]
    rewards = [g.reward for g in grades if g.reward is not None]
    cut = [
        grade.reward
        for completion, grade in zip(completions, grades, strict=True)
        if completion.finish_reason == "length" and grade.reward is not None
    ]
    prompts = [len(graded.example.tokens) for graded in graded_P]
    entropies = [e for c in completions for e in c.entropies]
    return {
        "reward_mean": statistics.fmean(rewards),
        "reward_std": statistics.pstdev(rewards),
        "reward_min": min(rewards),
        "reward_max": max(rewards),
        "advantage_mean": statistics.fmean(advantages),
        "groups": len(graded_P),
        "signal_share": sum(graded.has_signal for graded in graded_P) / len(graded_P),
        "identical_share": identical_share(graded_P),
        "truncated_reward_mean": statistics.fmean(cut) if cut else None,
        "grade_errors": len(grades) - len(rewards),
        **describe_shadow(graded_P),
        **describe_grades(grades),
        **describe_seconds(grades),
        "prompt_length_mean": statistics.fmean(prompts),
        "prompt_length_min": min(prompts),
        "prompt_length_max": max(prompts),
        **describe_completions(completions),
        "entropy": statistics.fmean(entropies),
        **peak_memory(),
    }


def identical_share(graded_P: Sequence[Graded]) -> float:
    """Share of the completions that another one of their group equals, word for word."""
    counts = [Counter(c.text for c in graded.completions_G) for graded in graded_P]
    alike = sum(count for texts in counts for count in texts.values() if count > 1)
    return alike / sum(texts.total() for texts in counts)


def describe_shadow(graded_P: Sequence[Graded]) -> dict[str, Any]:
    """What a second, held-out grader says of the same completions; nothing without one."""
    grades = [grade for graded in graded_P for grade in graded.shadows_G if grade is not None]
    if not grades:
        return {}
    rewards = [grade.reward for grade in grades if grade.reward is not None]
    return {
        "shadow_reward_mean": statistics.fmean(rewards) if rewards else None,
        "shadow_graded": len(grades),
        "shadow_errors": len(grades) - len(rewards),
    }


def describe_completions(completions: Sequence[Completion]) -> dict[str, Any]:
    """Lengths in tokens, how many were cut off, and how sure the model was of what it drew."""
    lengths = [len(c.tokens) for c in completions]
    surprise = statistics.fmean(-logprob for c in completions for logprob in c.logprobs)
    return {
        "completions": len(completions),
        "completion_tokens": sum(lengths),
        "length_mean": statistics.fmean(lengths),
        "length_min": min(lengths),
        "length_max": max(lengths),
        "reasoning_length_mean": statistics.fmean(map(reasoning_length, completions)),
        "truncated_share": sum(c.finish_reason == "length" for c in completions) / len(completions),
        "repetition_share": statistics.fmean(
            score_repetition(c.text)[1]["repetition"] for c in completions
        ),
        "perplexity": math.exp(min(surprise, _LARGEST_EXPONENT)),
    }


def reasoning_length(completion: Completion) -> float:
    """Tokens of a leading `<think>` part, by its share of the text's characters; else 0."""
    head, end, _ = completion.text.partition("</think>")
    if not end:
        return 0.0
    return len(completion.tokens) * (len(head) + len(end)) / len(completion.text)


def describe_grades(grades: Sequence[Grade]) -> dict[str, Any]:
    """Series about the grading itself: sub-scores, kinds of errors, tokens of judges by model.

    `graders` tells the last two of each grader that a reward is made of.
    """
    names = sorted({name for grade in grades for name in grade.metrics})
    return {
        "scores": {
            name: statistics.fmean(g.metrics[name] for g in grades if name in g.metrics)
            for name in names
        },
        **_describe_failures(grades),
        "grade_retries": sum(grade.attempts - 1 for grade in grades),
        "graders": {name: _describe_failures(own) for name, own in _parts(grades).items()},
    }


def _describe_failures(grades: Sequence[Grade]) -> dict[str, Any]:
    """Kinds of errors, and tokens of judges by model."""
    tokens: dict[str, Counter[str]] = {}
    for grade in grades:
        for model, used in grade.tokens.items():
            tokens.setdefault(model, Counter()).update(used)
    return {
        "error_kinds": dict(Counter(flag for grade in grades for flag in grade.flags)),
        "judge_tokens": {model: dict(used) for model, used in tokens.items()},
    }


def _parts(grades: Sequence[Grade]) -> dict[str, list[Grade]]:
    """Grader -> its grades, of rewards that are made of several."""
    parts: dict[str, list[Grade]] = {}
    for grade in grades:
        for name, part in grade.parts.items():
            parts.setdefault(name, []).append(part)
    return parts


def describe_seconds(grades: Sequence[Grade]) -> dict[str, Any]:
    """How long the grades took; `grader_seconds` is the mean of each grader of several."""
    seconds = sorted(grade.seconds for grade in grades)
    return {
        "grade_seconds_mean": statistics.fmean(seconds),
        "grade_seconds_p50": seconds[len(seconds) // 2],
        "grade_seconds_max": seconds[-1],
        "grader_seconds": {
            name: statistics.fmean(grade.seconds for grade in own)
            for name, own in _parts(grades).items()
        },
    }


def describe_validation(answered: Answered) -> dict[str, Any]:
    """The same of answers to the validation prompts, for the step they were measured at."""
    seconds = describe_seconds(answered.grades)
    return {
        "validation": {
            **describe_completions(answered.completions),
            **describe_grades(answered.grades),
        },
        "validation_grade_seconds_mean": seconds["grade_seconds_mean"],
        "validation_grader_seconds": seconds["grader_seconds"],
    }


def peak_memory() -> dict[str, float]:
    """The most memory this process ever had, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    memory = {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    if torch.cuda.is_available():
        memory["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        memory["gpu_memory_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
    return memory


def validation_records(
    step: int, examples: Sequence[Example], answered: Answered
) -> Iterator[dict[str, Any]]:
    """Lines of validation.jsonl."""
    answers = zip(examples, answered.completions, answered.grades, strict=True)
    for example, completion, grade in answers:
        yield {
            "step": step,
            "prompt_id": example.prompt.id,
            "text": completion.text,
            "reward": grade.reward,
            "finish_reason": completion.finish_reason,
            "error": grade.error,
            "flags": list(grade.flags),
            "metrics": dict(grade.metrics),
            "prompt_tokens": len(example.tokens),
            "tokens": len(completion.tokens),
            "surprise_nats": -sum(completion.logprobs),
        }


def sample_records(step: int, graded_P: Sequence[Graded]) -> Iterator[dict[str, Any]]:
    """Lines of samples.jsonl."""
    for graded in graded_P:
        members = zip(graded.completions_G, graded.grades_G, graded.advantages_G, strict=True)
        for index, (completion, grade, advantage) in enumerate(members):
            shadow = graded.shadows_G[index] if graded.shadows_G else None
            yield {
                "step": step,
                "prompt_id": graded.example.prompt.id,
                "index": index,
                "text": completion.text,
                "reward": grade.reward,
                "advantage": advantage,
                "finish_reason": completion.finish_reason,
                "error": grade.error,
                "flags": list(grade.flags),
                "metrics": dict(grade.metrics),
                "tokens": list(completion.tokens),
                "logprobs": [round(value, 5) for value in completion.logprobs],
                **({} if shadow is None else _shadow_fields(shadow)),
            }


def _shadow_fields(shadow: Grade) -> dict[str, Any]:
    return {"shadow_reward": shadow.reward, "shadow_error": shadow.error}
