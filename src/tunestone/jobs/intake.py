"""What happens to a job before it is queued: its inputs are fetched, checked and laid out.

Everything that can be known to fail is found here, while the client still looks: inputs that cannot
be read, rows that are unusable, too few or too many of them, validation prompts that are training
prompts too, an output that cannot be written, settings that fight. Messages name the client's own
file or address and its line, never a path of this server.

    jobs/<id>/input/train.jsonl         as it came
    jobs/<id>/input/validation-0.jsonl  one for each validator, as it came
    jobs/<id>/input/validation.jsonl    all of them, where there are several
    jobs/<id>/input/report.json         what was accepted, for `manifest.report.csv`
    jobs/<id>/train.json                the settings of the run
"""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from tunestone.config import resolve
from tunestone.data import find_overlap, load_prompts, write_rows
from tunestone.errors import DataError, RequestError, TunestoneError
from tunestone.jobs.inputs import fetch_rows
from tunestone.jobs.job import DataSource, Plan, move
from tunestone.jobs.journal import set_phase, tell
from tunestone.jobs.names import BaseNames
from tunestone.jobs.settings import ServerSettings
from tunestone.jobs.store import Store
from tunestone.jobs.tables import File, Job, Model
from tunestone.rows import Place, parse_object, parse_prompt
from tunestone.runlog import write_json
from tunestone.types import Prompt

if TYPE_CHECKING:
    from tunestone.jobs.objects import Objects

_HOOK_SECONDS = 600.0
_UNPACKED = re.compile(r"[^\"'\s]*/tunestone-lambda-[^/\"'\s]+/")
"""Where a Lambda's package lies while it runs; on Lambda that is /var/task."""
MESSAGE_CHARACTERS = 2048
"""Longest message of a failed job (Bedrock's `failureMessage`)."""


@dataclass(frozen=True, slots=True)
class Input:
    """One file of rows."""

    label: str
    """As the client calls it."""
    param: str
    """Which of the request's parameters it came by."""
    path: Path
    rows: int = 0
    rejected: int = 0
    notes: tuple[str, ...] = ()
    """What should be said about them, such as how many logged calls were left out."""


class IntakeError(RequestError):
    """The job cannot be run as it was asked for; `param` is what is wrong in the request."""

    def __init__(self, code: str, message: str, *, param: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a job's inputs came to."""

    rows: int
    validation_rows: list[int]
    """Of each validator."""
    hook: str | None
    """What the safety hook said; None where there is none."""
    notes: Mapping[str, str]
    """What should be said, by the key of its event: that something else is trained than the name
    of the model says, or that rows were left out."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes jobs in. Has no state of its own."""

    settings: ServerSettings
    store: Store
    objects: "Objects"
    names: BaseNames
    data: Path

    def accept(self, job: Job) -> Accepted:
        """Lay the job's folder out. Raises IntakeError."""
        plan = Plan.from_json(job.plan)
        folder = self.data / "jobs" / job.id
        (folder / "input").mkdir(parents=True, exist_ok=True)
        inputs = self._name_inputs(plan, folder)
        try:
            if plan.output:
                self.objects.check_writable(plan.output)
        except TunestoneError as error:
            raise _refusal(error, inputs, folder, param="output_data_config") from error
        try:
            training, *validation = self._fetch(plan, inputs, folder)
            hook = self._screen(training)
            self._write_config(job, plan, folder, validation)
        except TunestoneError as error:
            raise _refusal(error, inputs, folder, param=None) from error
        except OSError as error:
            message = f"The inputs could not be stored: {error.strerror}."
            raise IntakeError("storage_error", message, param=None) from error
        notes = {f"left_out:{number}": told for number, told in enumerate(training.notes)}
        if note := self.names.resolve(self._base_name(job)).note:
            notes["note:model"] = note
        return Accepted(
            rows=training.rows,
            validation_rows=[entry.rows for entry in validation],
            hook=hook,
            notes=notes,
        )

    def _name_inputs(self, plan: Plan, folder: Path) -> list[Input]:
        """The files to fetch, the training file first."""
        sources = [plan.training, *plan.validation]
        names = ["train", *(f"validation-{i}" for i in range(len(plan.validation)))]
        params = ["training_file"] + ["validation_file"] * len(plan.validation)
        return [
            Input(self._label(source), param, folder / "input" / f"{name}.jsonl")
            for source, name, param in zip(sources, names, params, strict=True)
        ]

    def _label(self, source: DataSource) -> str:
        """What the client calls a source."""
        if source.kind != "file":
            return source.location
        with self.store.session() as session:
            file = session.get(File, source.location)
            return file.filename if file else source.location

    def _fetch(self, plan: Plan, inputs: Sequence[Input], folder: Path) -> list[Input]:
        """The inputs with their rows counted; the report is written even if some are refused."""
        counted, faults = [], []
        for source, entry in zip([plan.training, *plan.validation], inputs, strict=True):
            try:
                notes = fetch_rows(
                    source, entry.path, store=self.store, objects=self.objects, data=self.data
                )
            except TunestoneError as error:
                raise IntakeError(error.code, str(error), param=entry.param) from error
            rows, rejected, fault = count_rows(entry.path)
            counted.append(replace(entry, rows=rows, rejected=rejected, notes=tuple(notes)))
            if fault is not None:
                faults.append((counted[-1], fault))
        report = [{**asdict(entry), "path": entry.path.name} for entry in counted]
        write_json(folder / "input" / "report.json", {"inputs": report})
        if faults:
            entry, fault = faults[0]
            more = f"{entry.rejected} of {entry.rows} rows are unusable; the first: "
            raise IntakeError(
                "data_error", (more if entry.rejected > 1 else "") + str(fault), param=entry.param
            )
        _check_counts(plan, counted)
        prompts = [load_prompts(entry.path) for entry in counted]
        for entry, heldout in zip(counted[1:], prompts[1:], strict=True):
            _refuse_overlap(counted[0], prompts[0], entry, heldout)
        if len(counted) > 2:
            _merge(counted[1:], prompts[1:], folder)
        return counted

    def _screen(self, training: Input) -> str | None:
        """Ask the safety hook about the training file; what it printed."""
        if not self.settings.safety_hook:
            return None
        command = [*shlex.split(self.settings.safety_hook), str(training.path)]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_HOOK_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise IntakeError(
                "safety_hook_failed",
                f"The server's safety hook could not judge the training file: {error}.",
                param=training.param,
            ) from error
        said = (result.stdout + result.stderr).strip()
        if result.returncode:
            raise IntakeError(
                "moderation_refused",
                f"The server's safety hook refused {training.label}: {said}",
                param=training.param,
            )
        return said

    def _base_name(self, job: Job) -> str:
        """The client's name of the base, also where the job starts from a tuned model."""
        if not job.start_adapter:
            return job.model
        return self._start_model(job).model

    def _start_model(self, job: Job) -> Model:
        with self.store.session() as session:
            model = session.get(Model, job.start_adapter)
        if model is None:
            raise IntakeError("model_not_found", f"The model {job.model} is gone.", param="model")
        return model

    def _write_config(
        self, job: Job, plan: Plan, folder: Path, validation: Sequence[Input]
    ) -> None:
        """Write train.json. Raises ConfigError when settings are unknown or fight."""
        several = folder / "input" / "validation.jsonl"
        heldout = str(several if len(validation) > 1 else validation[0].path) if validation else ""
        values = {
            **self.names.resolve(self._base_name(job)).settings,
            **plan.settings,
            "response_format": plan.response_format or plan.settings.get("response_format"),
            "model": job.base,
            "data": str(folder / "input" / "train.jsonl"),
            "validation": heldout,
            "reward": plan.reward,
            "sandbox": self.settings.sandbox,
            "threads": self.settings.trainer_threads,
            **self._start(job, folder),
        }
        resolve(layers=[("the job", values)])
        write_json(folder / "train.json", values)

    def _start(self, job: Job, folder: Path) -> dict[str, Any]:
        """Settings of a job that goes on from a tuned model; its adapter is copied, for the model
        may be deleted meanwhile. A model whose every weight was trained is the base itself."""
        if not job.start_adapter:
            return {}
        model = self._start_model(job)
        if not model.adapter:
            return {"model": model.base}
        copy = folder / "input" / "start"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.data / model.adapter, copy)
        rank = json.loads((copy / "adapter_config.json").read_text(encoding="utf-8"))["r"]
        return {"model": model.base, "start_adapter": str(copy), "lora_rank": rank}


def queue(session: Session, job: Job, accepted: Accepted) -> None:
    """The job is queued, and what its inputs came to is told. Raises StateError."""
    move(session, job.id, "queued")
    job.phases = set_phase(job.phases, "validation", "Completed")
    rows = accepted.rows + sum(accepted.validation_rows)
    job.progress = {
        **job.progress,
        "rows": rows,
        "training_rows": accepted.rows,
        "validation_rows": accepted.validation_rows,
    }
    told = f"{accepted.rows} training rows were validated; the job is queued."
    tell(session, job.id, "validated", told, data={"rows": rows})
    for key, note in accepted.notes.items():
        tell(session, job.id, key, note, level="warn")


def count_rows(path: Path) -> tuple[int, int, DataError | None]:
    """Rows of a file, how many of them are unusable, and what is wrong with the first of these.

    A fault of the file as a whole (not UTF-8, empty, an id used twice) counts one row.
    """
    total, rejected, first = 0, 0, None
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            place = Place(str(path), line)
            try:
                text = raw.decode("utf-8").removeprefix("\ufeff" if line == 1 else "")
                parse_prompt(parse_object(text, place, first=not total), place)
            except UnicodeDecodeError as error:
                fault = place.error(f"not valid UTF-8: {error.reason}.", remedy="Save it as UTF-8.")
                first, rejected = first or fault, rejected + 1
            except DataError as error:
                first, rejected = first or error, rejected + 1
            total += 1
    if first is None:
        try:
            load_prompts(path)
        except DataError as error:
            first, rejected = error, 1
    return total, rejected, first


def shorten(message: str) -> str:
    """At most as long as a failed job's message may be; the middle goes, as of a traceback."""
    if len(message) <= MESSAGE_CHARACTERS:
        return message
    half = (MESSAGE_CHARACTERS - 5) // 2
    return f"{message[:half]}\n...\n{message[-half:]}"


def public(message: str, folder: Path, labels: Mapping[str, str]) -> str:
    """A message without the server's paths; `labels`: name below `input/` -> the client's name."""
    for name, label in labels.items():
        message = message.replace(str(folder / "input" / name), label)
    return _UNPACKED.sub("/var/task/", message.replace(f"{folder}/", ""))


def _refusal(
    error: TunestoneError, inputs: Sequence[Input], folder: Path, *, param: str | None
) -> IntakeError:
    """The error as the client is told."""
    labels = {entry.path.name: entry.label for entry in inputs}
    if isinstance(error, IntakeError):
        param = error.param
    return IntakeError(error.code, shorten(public(str(error), folder, labels)), param=param)


def _check_counts(plan: Plan, inputs: Sequence[Input]) -> None:
    training, *validation = inputs
    _refuse_count(training, least=plan.least_rows, most=plan.most_rows)
    for entry in validation:
        _refuse_count(entry, least=1, most=plan.most_validation_rows)


def _refuse_count(entry: Input, *, least: int, most: int) -> None:
    if least <= entry.rows <= most:
        return
    bound = f"at least {least} are needed" if entry.rows < least else f"at most {most} are allowed"
    message = " ".join([f"{entry.label} has {entry.rows} rows; {bound}.", *entry.notes])
    raise IntakeError("invalid_number_of_rows", message, param=entry.param)


def _refuse_overlap(
    training: Input, used: Sequence[Prompt], validation: Input, heldout: Sequence[Prompt]
) -> None:
    pairs = find_overlap(used, heldout)
    if pairs:
        raise IntakeError(
            "data_error",
            f"{len(pairs)} prompts of {validation.label} are also in {training.label}, "
            f"'{pairs[0][1]}' (there '{pairs[0][0]}') among them: a gain on them would prove "
            "nothing. Remove them from one of the two.",
            param=validation.param,
        )


def _merge(inputs: Sequence[Input], prompts: Sequence[Sequence[Prompt]], folder: Path) -> None:
    """One validation file of several. Ids that two of them use get their validator's number."""
    rows: list[dict[str, Any]] = []
    owner: dict[str, int] = {}
    for number, (entry, own) in enumerate(zip(inputs, prompts, strict=True)):
        lines = [line for line in entry.path.read_bytes().split(b"\n") if line.strip()]
        for prompt, line in zip(own, lines, strict=True):
            name = prompt.id if prompt.id not in owner else f"{prompt.id}-validator-{number + 1}"
            owner[name] = number
            rows.append({**json.loads(line.decode("utf-8-sig")), "id": name})
    write_rows(folder / "input" / "validation.jsonl", rows)
    write_json(folder / "input" / "validators.json", owner)
