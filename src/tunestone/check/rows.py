"""The part of a check that needs no weights: the rows, and a first plan from their lengths.

`tunestone check` begins with it. The server's form for a job asks for this part alone, by
`python -m tunestone.check`: seconds instead of minutes, and nothing beside a training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestone.check.data_section import DataSet, check_data
from tunestone.check.findings import Section
from tunestone.check.lengths import measure_lengths
from tunestone.check.memory import find_gpu
from tunestone.check.plan import Recommendation, Setup, recommend
from tunestone.check.plan_section import Estimates, check_plan
from tunestone.config import TrainConfig
from tunestone.core.model import encode_prompt
from tunestone.core.prepare import split
from tunestone.data import load_prompts
from tunestone.types import Prompt


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What rows alone say."""

    sections: tuple[Section, ...]
    """`data`; and `plan`, unless the rows rule training out."""
    setup: Setup | None = None
    plan: Recommendation | None = None
    """None, like `setup`, when the rows rule training out."""

    @property
    def is_fatal(self) -> bool:
        """Whether there is no use in going on."""
        return any(section.is_fatal for section in self.sections)


def load_rows(config: TrainConfig) -> DataSet:
    """All rows of the files that `config` names. Raises DataError when one cannot be read."""
    return DataSet(_load(config.data), _load(config.validation), _load(config.test))


def look_at_rows(
    rows: DataSet,
    config: TrainConfig,
    reader: tuple[Any, Any],
    *,
    given: Mapping[str, Any],
    reward_source: str,
    say: Callable[[str], None],
) -> FirstLook:
    """Look at the rows that `load_rows` gave, and plan.

    `reader`: tokenizer and configuration of the model; `given`: settings to keep as they are;
    `reward_source` is that of `check_data`. Raises DataError for a prompt that the model cannot
    read.
    """
    tokenizer, model = reader
    lengths = measure_lengths(
        rows.training,
        count_tokens=lambda prompt: len(encode_prompt(tokenizer, prompt)),
        count_text_tokens=lambda text: len(tokenizer.encode(text)),
    )
    data = check_data(rows, lengths, reward_source=reward_source)
    if data.is_fatal:
        return FirstLook((data,))
    training, validation = split(config, say)
    setup = Setup(
        len(training),
        lengths,
        settings=given,
        has_gpu=find_gpu() is not None,
        context=getattr(model, "max_position_embeddings", None),
        heldout_P=tuple(len(encode_prompt(tokenizer, prompt)) for prompt in validation),
    )
    plan = recommend(setup)
    return FirstLook((data, check_plan(setup, plan, Estimates())), setup, plan)


def _load(path: str) -> list[Prompt]:
    """The prompts of a file, none when no file is named."""
    return load_prompts(Path(path)) if path else []
