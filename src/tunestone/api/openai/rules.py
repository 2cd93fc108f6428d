"""Which service's rules hold for a job: the base model's name says it.

Bedrock's OpenAI-compatible endpoint and OpenAI's own share their paths here. A name as Bedrock has
it (`openai.gpt-oss-20b`) brings Bedrock's limits, a name as OpenAI has it (`o4-mini-2025-04-16`)
OpenAI's; hub ids and the embedded model are neither's, and nothing is asked of them.
"""

from dataclasses import dataclass

from tunestone.jobs.names import EMBEDDED
from tunestone.jobs.settings import ServerSettings

_BEDROCK_PREFIXES = ("amazon.", "openai.", "qwen.")
_NO_LIMIT = 10_000_000


@dataclass(frozen=True, slots=True)
class Rules:
    """What a service asks of a job."""

    takes_suffix: bool
    needs_validation: bool
    least_rows: int
    most_rows: int
    most_validation_rows: int


def rules_for(base: str, settings: ServerSettings) -> Rules:
    """The rules for a base model's name as the client wrote it."""
    if base.startswith(_BEDROCK_PREFIXES):
        return Rules(
            takes_suffix=False,
            needs_validation=False,
            least_rows=settings.least_rows,
            most_rows=20_000,
            most_validation_rows=20_000,
        )
    if base == EMBEDDED or "/" in base:
        return Rules(
            takes_suffix=True,
            needs_validation=False,
            least_rows=1,
            most_rows=_NO_LIMIT,
            most_validation_rows=_NO_LIMIT,
        )
    return Rules(
        takes_suffix=True,
        needs_validation=True,
        least_rows=1,
        most_rows=50_000,
        most_validation_rows=1_000,
    )
