"""SQL that has to give the right rows on a SQLite database of its row.

The query runs in the sandbox, on a database that is made from the row's script or opened from a
file that nobody can change, and may do nothing but read. A query that fails, writes, or never ends
has reward 0; a row whose script or reference query fails is an error on its samples.

Left out: a comparison over several databases, as Spider's test suites have it. On one small
database a wrong query may give the right rows; put rows into it that tell queries apart.
"""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Self, final

from pydantic import Field, model_validator

from tunestone.errors import RewardError
from tunestone.rewards.ready.extraction import UnusableReferenceError
from tunestone.rewards.ready.scoring import (
    Arguments,
    SandboxedGrader,
    from_templates,
)
from tunestone.rewards.sandbox import Limits, Program, Sandbox
from tunestone.rewards.spec import Context, Spec, TemplateText
from tunestone.types import Sample

_LOADER = "tunestone.rewards.ready.sql_program:load_program"
_GRACE_SECONDS = 5.0
_VARIABLE = re.compile(r"\{\{.*?\}\}")


@final
class Sql(Spec):
    """Whether the completion's query gives the right rows; sub-scores `executed` and `rows_f1`.

    Columns count by their order, not by name; equal rows count as often as they occur.
    """

    type: Literal["sql"] = "sql"
    reference: TemplateText = "{{ item.reference_answer }}"
    """The right query, or the right rows as a list of lists (or of objects)."""
    db_schema: TemplateText | None = Field(default=None, alias="schema")
    """Script that makes the database: CREATE and INSERT statements. `{{ item.schema }}` where
    neither this nor `database` is given."""
    database: TemplateText | None = None
    """SQLite file, relative to the reward's folder, such as `databases/{{ item.db_id }}.sqlite`."""
    reward: Literal["all", "share"] = "all"
    """`all`: 1 when the rows are those of the reference, else 0. `share`: their F1."""
    ordered: bool | None = None
    """Whether rows must come in the right order. Null: when the right query ends in an ORDER BY.
    Rows it leaves tied must come in the same order, too; let it break its ties."""
    strict: bool = False
    """Whether the query must stand in a closed fence; otherwise a text without one is searched for
    the first SELECT or WITH."""
    tolerance: float = Field(default=1e-6, ge=0)
    """Largest difference, absolute or relative, at which two numbers are equal."""
    most_rows: int = Field(default=10_000, ge=1)
    """A query that gives more rows is wrong."""
    timeout_seconds: float = Field(default=10.0, gt=0)
    """Wall time of a query."""
    memory_mib: int = Field(default=256, ge=16)
    """Memory SQLite may take."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.db_schema is not None and self.database is not None:
            raise ValueError("give a schema or a database, not both")
        return self

    def open(self, context: Context, stack: ExitStack) -> SandboxedGrader:
        """The grader; its workers end with the stack. Raises RewardError, SandboxError.

        The folder of the database is what may be read; a file that is not there is refused now
        where its name is no template.
        """
        setup = self.model_dump(
            include={"reward", "ordered", "strict", "tolerance", "most_rows", "memory_mib"}
        )
        readable: tuple[Path, ...] = ()
        if self.database is not None:
            readable = (_readable_part(context.folder, self.database),)
        sandbox = Sandbox(
            Program(_LOADER, {**setup, "seconds": self.timeout_seconds}, readable),
            # The row's own script and query take time and memory as well.
            Limits(
                seconds=2 * self.timeout_seconds + _GRACE_SECONDS,
                memory_mib=2 * self.memory_mib + 256,
            ),
            context.mechanism,
        )
        return SandboxedGrader(stack.enter_context(sandbox), self._arguments(context.folder))

    def files(self, context: Context) -> list[Path]:
        """The databases."""
        if self.database is None:
            return []
        folder, pattern = _split(context.folder, self.database)
        return sorted(folder.glob(pattern))

    def _arguments(self, folder: Path) -> Arguments:
        texts = {"reference": self.reference}
        if self.database is not None:
            texts["database"] = self.database
        else:
            texts["schema"] = self.db_schema or "{{ item.schema }}"
        resolve = from_templates(**texts)

        def read(sample: Sample) -> Mapping[str, Any]:
            found = dict(resolve(sample))
            if "database" in found:
                found["database"] = str(_existing(folder / str(found["database"])))
            elif not isinstance(found["schema"], str):
                raise UnusableReferenceError("the row's schema is no text.")
            return {**found, "reference": _read_reference(found["reference"])}

        return read


def _split(folder: Path, template: str) -> tuple[Path, str]:
    """The last folder before the first variable, and a glob of what lies below it."""
    start, _, _ = template.partition("{{")
    above, slash, _ = start.rpartition("/")
    return folder / (above + slash), _VARIABLE.sub("*", template[len(above + slash) :])


def _readable_part(folder: Path, template: str) -> Path:
    """The file, or where the name is a template the folder of all it may name."""
    path = _split(folder, template)[0] if "{{" in template else folder / template
    if not path.exists():
        raise RewardError(
            f"database: {path} does not exist.", remedy="Paths start at the reward's folder."
        )
    return path


def _existing(path: Path) -> Path:
    path = path.resolve()
    if not path.is_file():
        raise UnusableReferenceError(f"the row's database {path} does not exist.")
    return path


def _read_reference(reference: Any) -> str | list[list[Any]]:
    """The query, or the rows as lists."""
    if isinstance(reference, str) and reference.strip():
        return reference
    if not isinstance(reference, list):
        raise UnusableReferenceError("the reference is neither a query nor a list of rows.")
    rows = [list(row.values()) if isinstance(row, Mapping) else row for row in reference]
    if not all(isinstance(row, list) and all(map(_is_cell, row)) for row in rows):
        raise UnusableReferenceError(
            "the reference's rows are lists or objects of texts, numbers and nulls."
        )
    return rows


def _is_cell(value: Any) -> bool:
    if isinstance(value, int):
        return value.bit_length() < 64
    return value is None or isinstance(value, str | float)
