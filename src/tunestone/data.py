"""Data files: one JSON object per line -> `Prompt`, and rows -> a data file.

Two shapes are read, and a file may mix them, because one is a subset of the other: Amazon
Bedrock's (`messages`, `reference_answer`, `id`, `tools`, any other key) and OpenAI's (`messages`,
`tools`, any other key). Whatever is not `messages`, `tools` or `id` belongs to the reward and is
passed on untouched. The whole file is checked before anything is trained: the first fault stops
the load with a `DataError` that names file, line and remedy, since a row dropped in silence is a
row nobody misses until the numbers are wrong.

Left out on purpose: images and audio (the models here read text), a smallest and a largest number
of rows (the services set limits, a laptop does not), and row schemas beyond the prompt (what
`reference_answer` must look like is the reward's business).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from os import fsync, getpid
from pathlib import Path
from typing import Any

from tunestone.errors import DataError, StorageError
from tunestone.rows import (
    Place,
    did_you_mean,
    encode_row,
    message_key,
    parse_completions,
    parse_object,
    parse_prompt,
)
from tunestone.types import Prompt, Sample


def load_prompts(path: Path) -> list[Prompt]:
    """Read a JSONL file of Bedrock's or OpenAI's shape, in file order.

    Content given as text blocks becomes one string, blocks joined by a line break. A row without
    `id` (or with `null`) is called `row-<line number>`; a number is taken as its string. Blank
    lines are skipped but counted, a byte order mark is accepted.

    Raises DataError, with `path` and 1-based `line`, at the first unusable row.
    """
    prompts: list[Prompt] = []
    line_of_id: dict[str, int] = {}
    for line, text in _read_lines(path):
        place = Place(str(path), line)
        prompt = parse_prompt(parse_object(text, place, first=not prompts), place)
        if prompt.id in line_of_id:
            raise place.error(
                f"the id {prompt.id!r} is already used on line {line_of_id[prompt.id]}.",
                remedy="Give each row its own `id`, or leave `id` out of all rows.",
            )
        line_of_id[prompt.id] = line
        prompts.append(prompt)
    if not prompts:
        raise _is_empty(path)
    return prompts


def load_samples(path: Path) -> list[Sample]:
    """Read rows that hold completions, in file order, a sample per completion.

    A row is a row of training data with what was answered: under `completion` (a text), under
    `completions` (a list of texts), or as a last turn of the assistant.

    Raises DataError, with `path` and 1-based `line`, at the first unusable row.
    """
    samples: list[Sample] = []
    for line, text in _read_lines(path):
        place = Place(str(path), line)
        row, completions = parse_completions(parse_object(text, place, first=not samples), place)
        prompt = parse_prompt(row, place)
        samples += [Sample(prompt, completion) for completion in completions]
    if not samples:
        raise _is_empty(path)
    return samples


def find_overlap(train: Sequence[Prompt], heldout: Sequence[Prompt]) -> list[tuple[str, str]]:
    """Pairs (train id, held-out id) whose messages are equal: a leak into the evaluation.

    All such pairs, in held-out order, then train order. Equal means the same turns with the same
    keys and texts; the order of keys, `tools`, ids and reference answers do not matter.
    """
    train_ids: dict[str, list[str]] = {}
    for prompt in train:
        train_ids.setdefault(message_key(prompt), []).append(prompt.id)
    return [
        (train_id, prompt.id)
        for prompt in heldout
        for train_id in train_ids.get(message_key(prompt), ())
    ]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, whole or not at all (temporary file beside it, then a rename).

    Raises DataError with the 1-based line when a row is not JSON (NaN and infinity are not), and
    StorageError when the file cannot be written; a file that was there before is then unharmed.
    """
    temporary = path.with_name(f".{path.name}.{getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for line, row in enumerate(rows, start=1):
                file.write(encode_row(row, Place(str(path), line)))
            file.flush()
            fsync(file.fileno())  # the rename must not reach the disk before the bytes do
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path}: the file cannot be written: {error.strerror}.",
            remedy="Check that the folder exists, may be written to, and has room.",
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def fingerprint(path: Path) -> str:
    """SHA-256 of the file in hexadecimal, read in blocks. Raises DataError if unreadable."""
    with _open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_empty(path: Path) -> DataError:
    return DataError(
        "the file is empty.",
        path=str(path),
        remedy='Write one JSON object per line, each with a "messages" list.',
    )


def _open(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        names = [other.name for other in path.parent.glob("*") if other.is_file()]
        raise DataError(
            "the file does not exist.",
            path=str(path),
            remedy="Check the path." + did_you_mean(path.name, names),
        ) from error
    except IsADirectoryError as error:
        raise DataError(
            "this is a folder, not a file.", path=str(path), remedy="Name one JSONL file in it."
        ) from error
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror}.",
            path=str(path),
            remedy="Check the path and who may read it.",
        ) from error


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(1-based line number, text) of every line that is not blank."""
    with _open(path) as file:
        for line, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise Place(str(path), line).error(
                    f"byte 0x{raw[error.start]:02x} at offset {error.start} of the line "
                    "is not valid UTF-8.",
                    remedy="Save the file as UTF-8.",
                ) from error
            if line == 1:
                text = text.removeprefix("\ufeff")
            if text.strip():
                yield line, text
