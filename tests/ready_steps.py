"""Steps shared by the tests of the ready graders: a row and a text in, grades out."""

from contextlib import ExitStack
from pathlib import Path

from tunestone.rewards.spec import Context, Spec
from tunestone.types import Grade, Prompt, Sample


def sample(text: str, **row: object) -> Sample:
    """What the model wrote to a row of these keys."""
    prompt = Prompt(id="p1", messages=({"role": "user", "content": "?"},), row=row)
    return Sample(prompt=prompt, text=text)


def grade(spec: Spec, *samples: Sample) -> list[Grade]:
    """Grades of the opened reward, through the sandbox of this machine where it needs one."""
    with ExitStack() as stack:
        return spec.open(Context(folder=Path()), stack).grade(samples)
