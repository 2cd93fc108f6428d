"""What the four ready judges are told: a goal, what to look for, and a scale with anchors.

They cover the ground of Bedrock's four console templates (instruction following, summarisation,
reasoning, faithfulness to sources); the text is ours, since Amazon's is not published. Every part
can be replaced in the spec. Rubrics are short on purpose: a small judge follows five plain lines
better than fifty.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JudgeTemplate:
    """A rubric."""

    instructions: str
    """What a good answer does, in one or two sentences."""
    criteria: tuple[str, ...]
    """What to look for, the weightiest first."""
    scale: Mapping[int, str]
    """Score -> what deserves it; the lowest score is worth 0, the highest 1."""


TEMPLATES: Mapping[str, JudgeTemplate] = {
    "instruction_following": JudgeTemplate(
        "A good answer does what the last user message and any system message ask for: all of it, "
        "and nothing that they forbid.",
        (
            "Every explicit demand is met: task, format, length, language, tone, order.",
            "What was forbidden or ruled out is absent.",
            "The content is correct and useful, not just shaped as asked.",
            "Nothing was added that was not wanted; length by itself earns nothing.",
        ),
        {
            1: "Ignores the request, or does something else.",
            2: "Misses the main demand, but meets some small ones.",
            3: "Meets the main demand; misses or breaks several others.",
            4: "Meets all demands but one small one.",
            5: "Meets every demand.",
        },
    ),
    "summarization": JudgeTemplate(
        "A good summary lets a reader who has not seen the text or dialogue know what matters in "
        "it, and tells nothing that is not in it.",
        (
            "Faithful: each statement is supported by the source; who said or did what is right.",
            "Complete: the main points, decisions, numbers and open questions are there.",
            "Concise: no padding, no repetition, no side issues; much shorter than the source.",
            "Clear: it reads well by itself, in a sensible order.",
        ),
        {
            1: "Contradicts the source, invents central facts, or is no summary.",
            2: "Has a serious error, or misses most of what matters.",
            3: "Mostly faithful, but misses a main point or carries much needless detail.",
            4: "Faithful and nearly complete; one small gap or a little padding.",
            5: "Faithful, complete, concise and clear.",
        },
    ),
    "reasoning": JudgeTemplate(
        "A good answer reaches the right conclusion by steps that a specialist of the field would "
        "accept.",
        (
            "The conclusion is right; where a reference answer is given, it agrees with it.",
            "Each step follows from what was given or shown before; calculations are right.",
            "The facts and rules of the field are used correctly.",
            "Nothing needed is skipped; nothing is claimed with more certainty than it has.",
        ),
        {
            1: "Wrong conclusion and no useful reasoning.",
            2: "Wrong conclusion; some steps are sound.",
            3: "Right conclusion by faulty or missing reasoning, or sound reasoning up to a slip.",
            4: "Right conclusion; the reasoning has one small gap.",
            5: "Right conclusion by complete and sound reasoning.",
        },
    ),
    "rag_faithfulness": JudgeTemplate(
        "A good answer says what the given sources say about the question, and no more. The "
        "sources are shown as context, or else stand in the conversation. Judge by the sources "
        "alone, not by what you know.",
        (
            "Every claim is supported by the sources; none contradicts them.",
            "Names, numbers, dates and quotes are exactly those of the sources.",
            "The question is answered as far as the sources allow.",
            "Where the sources do not hold the answer, it says so rather than guess.",
        ),
        {
            1: "Contradicts the sources, or is mostly invented.",
            2: "A central claim has no support.",
            3: "The central claims are supported; a side claim is not, or much is left out.",
            4: "Everything is supported; a small part of the question is left open.",
            5: "Everything is supported, and the question is answered as far as it can be.",
        },
    ),
    "custom": JudgeTemplate(
        "",
        (),
        {
            1: "Very poor.",
            2: "Poor.",
            3: "Acceptable.",
            4: "Good.",
            5: "Excellent.",
        },
    ),
}
