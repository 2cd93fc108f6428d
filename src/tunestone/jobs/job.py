"""The life of a job: one state machine, of which Bedrock's and OpenAI's states are views.

    validating ──> queued ──> running ──> succeeded
        │            │  ^       │
        │            │  │       ├──(wish stop)───> stopped
        │            │  │       ├──(wish pause)──> paused ──> queued (resumed)
        │            │  └───────┴── the server or the machine went down
        └────────────┴────────────> stopped, failed (running too)

A wish is what someone asked of a running job; it is kept apart from the state because the trainer
goes on to the end of its step.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sqlalchemy import update
from sqlalchemy.orm import Session

from tunestone.errors import RequestError
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Change, Job

State = Literal["validating", "queued", "running", "paused", "succeeded", "failed", "stopped"]
MOVES: dict[State, frozenset[State]] = {
    "validating": frozenset({"queued", "stopped", "failed"}),
    "queued": frozenset({"running", "paused", "stopped", "failed"}),
    "running": frozenset({"queued", "paused", "succeeded", "failed", "stopped"}),
    "paused": frozenset({"queued", "stopped"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "stopped": frozenset(),
}
ENDED: frozenset[State] = frozenset(state for state, moves in MOVES.items() if not moves)


class StateError(RequestError):
    """The job is not in a state from which it could be moved there."""

    code = "state_error"


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where rows come from."""

    kind: Literal["file", "s3", "logs"]
    """`file`: an id in `files`; `s3`: an s3:// address; `logs`: invocation logs below one."""
    location: str
    filters: dict[str, Any] | None = None
    """Bedrock's requestMetadataFilters, for logs."""
    use_response: bool = False
    """Whether a logged answer becomes `reference_answer`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a dialect asks the supervisor to do."""

    training: DataSource
    reward: dict[str, Any]
    """A reward spec as plain data (a `[reward]` table of a run's config)."""
    settings: dict[str, Any]
    """Other settings of the run (fields of TrainConfig) that the request decides."""
    validation: tuple[DataSource, ...] = ()
    output: str = ""
    """s3:// address below which artefacts are written; empty for none."""
    least_rows: int = 1
    most_rows: int = 20_000
    most_validation_rows: int = 20_000
    organization: str = "tunestone"
    """Second part of an OpenAI model id."""
    suffix: str = ""
    """Third part."""
    model_name: str = ""
    """Bedrock's customModelName."""
    response_format: dict[str, Any] | None = None
    """OpenAI's response_format: answers are held to it while training."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What only one dialect needs: integrations, kms key ..."""

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """What `to_json` gave."""
        sources = [DataSource(**source) for source in data["validation"]]
        return cls(
            **{**data, "training": DataSource(**data["training"]), "validation": tuple(sources)}
        )


def new_job(plan: Plan, **columns: Any) -> Job:
    """A job that has just been asked for; `columns` are those that the dialect decides."""
    moment = now()
    return Job(
        id=new_id(),
        state="validating",
        created_at=moment,
        updated_at=moment,
        plan=plan.to_json(),
        phases={},
        progress={},
        result_files=[],
        **columns,
    )


def move(session: Session, job_id: str, to: State, **changes: Any) -> None:
    """Change a job's state, in one statement that holds however many do so at once.

    `changes` are further columns. Raises StateError when the job is in no state that leads there.
    """
    leading = [state for state, moves in MOVES.items() if to in moves]
    moment = now()
    if to in ENDED:
        changes.setdefault("ended_at", moment)
        changes.setdefault("wish", "")
    changed = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state.in_(leading))
        .values(state=to, updated_at=moment, **changes)
    )
    if changed.rowcount == 0:  # type: ignore[attr-defined]
        job = session.get(Job, job_id, populate_existing=True)
        state = job.state if job else "unknown"
        raise StateError(f"The job is {state}; it cannot become {to}.")
    note_change(session, job_id, to)


def note_change(session: Session, job_id: str, state: str) -> None:
    """Have the receivers of notifications told of it, if and only if the transaction holds."""
    session.add(Change(job_id=job_id, state=state, created_at=now()))
