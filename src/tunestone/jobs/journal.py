"""What is told of a job while it goes on: its events, and how far its phases are.

An event has a key, and a job has each key once: a log that is read anew after a restart repeats
nothing. The phases are those of Bedrock's `statusDetails`: `validation` (inputs are fetched and
checked), `data_processing` (the trainer loads the model and encodes the prompts) and `training`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunestone.jobs.store import now
from tunestone.jobs.tables import Event

PHASES = ("validation", "data_processing", "training")
PhaseStatus = Literal["NotStarted", "InProgress", "Completed", "Stopping", "Stopped", "Failed"]
Phases = dict[str, Any]
Level = Literal["info", "warn", "error"]


def tell(
    session: Session,
    job_id: str,
    key: str,
    message: str,
    *,
    type: str = "message",
    level: Level = "info",
    data: Mapping[str, Any] | None = None,
    at: datetime | None = None,
) -> bool:
    """Add an event to a job, `key` being what it speaks of; False when it was told already."""
    if session.scalar(select(Event.id).where(Event.job_id == job_id, Event.key == key)):
        return False
    event = Event(
        id=f"ftevent-{uuid4()}",
        job_id=job_id,
        key=key,
        created_at=at or now(),
        level=level,
        type=type,
        message=message,
        data=None if data is None else dict(data),
    )
    session.add(event)
    session.flush()
    return True


def read_story(session: Session, job_id: str) -> list[dict[str, Any]]:
    """The messages to a job's client so far, as plain data, the oldest first."""
    query = select(Event).where(Event.job_id == job_id, Event.type != "metrics")
    return [
        {
            "time": event.created_at.isoformat(),
            "level": event.level,
            "type": event.type,
            "message": event.message,
            "data": event.data,
        }
        for event in session.scalars(query.order_by(Event.sequence))
    ]


def new_key(kind: str) -> str:
    """The key of an event that may come again, such as a pause."""
    return f"{kind}:{now().isoformat()}"


def set_phase(
    phases: Mapping[str, Any], name: str, status: PhaseStatus, *, at: datetime | None = None
) -> Phases:
    """The phases with one of them changed, now or `at` that time; the others are filled in where
    they are missing."""
    moment = (at or now()).isoformat()
    filled: Phases = {key: dict(phases.get(key) or {"status": "NotStarted"}) for key in PHASES}
    changed = filled[name]
    if changed["status"] != status:
        changed |= {"status": status, "updated_at": moment}
        changed.setdefault("created_at", moment)
    return filled


def set_current_phase(
    phases: Mapping[str, Any], status: PhaseStatus, *, at: datetime | None = None
) -> Phases:
    """The phases with the one that is under way changed, such as to `Stopped`."""
    for name in PHASES:
        if phases.get(name, {}).get("status") in {"InProgress", "Stopping"}:
            return set_phase(phases, name, status, at=at)
    return set_phase(phases, "validation", phases.get("validation", {}).get("status", "NotStarted"))
