"""A model as the judge of answers that no program can check (RLAIF).

Three modes. `score`: each answer alone on a scale, one request an answer. `pairwise`: each answer
against every other one to the same prompt, or against the reference answer, each pair asked twice
with the places swapped, so that a judge who likes the first place gives nobody an advantage.
`ranking`: all answers to a prompt in one request, in a shuffled order; cheap, but the favour of a
place is only spread by the shuffle, not cancelled.

The answers to one prompt are found by its id among the samples of one `grade` call. Rewards of the
last two modes are relative to the group: good for training, meaningless as an absolute level.

Answers that could not be read are errors with their flag, never zeros. Not kept: the judge's
reasoning; a grade holds numbers, and the cache holds the text.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Literal, Self, final

from pydantic import Field, model_validator

from tunestone.rewards.judges.asking import Asker, answer_grade, open_asker
from tunestone.rewards.judges.chat_models import Endpoint, SamplingParams
from tunestone.rewards.judges.groups import PairwiseJudge, RankingJudge
from tunestone.rewards.judges.prompts import Exhibit, Material, score_question
from tunestone.rewards.judges.templates import TEMPLATES, JudgeTemplate
from tunestone.rewards.spec import Context, Spec
from tunestone.types import Grade, Grader, Sample

_WIDEST_SCALE = 100


class Judge(Spec):
    """A model judges the answers by a rubric."""

    type: Literal["judge"] = "judge"
    template: Literal[
        "instruction_following", "summarization", "reasoning", "rag_faithfulness", "custom"
    ] = "instruction_following"
    """A ready rubric, any part of which the next three fields replace."""
    instructions: str = ""
    """What a good answer does. Empty: the template's; `custom` needs some."""
    criteria: tuple[str, ...] = ()
    """What to look for, the weightiest first. Empty: the template's."""
    scale: dict[int, str] = Field(default_factory=dict)
    """Score -> what deserves it; the lowest score is reward 0, the highest 1. Empty: the
    template's, 1 to 5."""
    mode: Literal["score", "pairwise", "ranking"] = "score"
    """Requests per prompt with G answers: G, G x (G - 1), 1."""
    against: Literal["group", "reference"] = "group"
    """`pairwise` compares with the other answers, or with the reference answer (2 x G requests)."""
    reference: str = ""
    """Template of the reference answer, such as {{ item.reference_answer.text }}. Empty: the row's
    `reference_answer`, where it has one."""
    context: str = ""
    """Template of the sources, such as {{ item.documents }}. Empty: the row's `context`, where it
    has one."""
    model: str = Field(min_length=1)
    """What the endpoint calls it."""
    endpoint: Endpoint = Endpoint()
    """Where it is asked."""
    sampling_params: SamplingParams = SamplingParams()
    """How its answer is drawn; temperature 0 unless one is given."""
    shuffle_seed: int = 0
    """Of the order in which `ranking` shows the answers; the same answers get the same order."""

    @property
    def calls_models(self) -> bool:
        """It does, each time a text is not in the cache."""
        return True

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.template == "custom" and not self.instructions.strip():
            raise ValueError("template = 'custom' needs instructions: say what a good answer does")
        if self.scale and not 1 <= max(self.scale) - min(self.scale) <= _WIDEST_SCALE:
            raise ValueError(f"scale needs two to {_WIDEST_SCALE + 1} steps, got {self.scale}")
        if self.against == "reference" and self.mode != "pairwise":
            raise ValueError("against = 'reference' is for mode = 'pairwise'")
        return self

    @property
    def rubric(self) -> JudgeTemplate:
        """The template with what this spec replaces."""
        ready = TEMPLATES[self.template]
        return JudgeTemplate(
            self.instructions or ready.instructions,
            self.criteria or ready.criteria,
            self.scale or ready.scale,
        )

    def open(self, context: Context, stack: ExitStack) -> Grader:
        """The grader. Raises RewardError for a broken template or a client that cannot be made."""
        exhibit = Exhibit(reference=self.reference, context=self.context)
        params = self.sampling_params
        if params.temperature is None:
            params = params.model_copy(update={"temperature": 0.0})
        asker = open_asker(self.model, self.endpoint, params=params, context=context, stack=stack)
        if self.mode == "score":
            return ScoreJudge(asker, self.rubric, exhibit)
        if self.mode == "ranking":
            return RankingJudge(asker, self.rubric, exhibit, seed=self.shuffle_seed)
        return PairwiseJudge(asker, self.rubric, exhibit, by_reference=self.against == "reference")


@final
class ScoreJudge:
    """Each answer alone, on the rubric's scale. The score itself is the sub-score `score`."""

    def __init__(self, asker: Asker, rubric: JudgeTemplate, exhibit: Exhibit) -> None:
        self.asker = asker
        """Counts what came from the cache."""
        self._rubric = rubric
        self._exhibit = exhibit

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample, in order."""
        materials = self._exhibit.materials(samples)
        questions = [
            score_question(self._rubric, material, sample.text)
            for sample, material in zip(samples, materials, strict=True)
            if isinstance(material, Material)
        ]
        answers = iter(self.asker.ask_all(questions))
        return [
            material
            if isinstance(material, Grade)
            else answer_grade(next(answers), model=self.asker.name, grade=self._to_grade)
            for material in materials
        ]

    def _to_grade(self, score: int) -> Grade:
        low, high = min(self._rubric.scale), max(self._rubric.scale)
        return Grade((score - low) / (high - low), metrics={"score": score})
