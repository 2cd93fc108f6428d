"""The jobs of a server as runs to look at, whichever door they came through."""

from collections.abc import Sequence
from typing import final

from sqlalchemy import Select, select

from tunestone.api.openai.job_objects import JOB_PREFIX
from tunestone.api.services import Services
from tunestone.jobs.job import MOVES
from tunestone.jobs.tables import Job, Model
from tunestone.pages.library import ShownJob, ShownRun
from tunestone.runlog import RunFolder


@final
class JobLibrary:
    """A picture of the jobs at the moment it is asked for."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def runs(self) -> list[ShownRun]:
        """All of them, the newest first."""
        return self._shown(select(Job).order_by(Job.created_at.desc(), Job.id.desc()))

    def find(self, key: str) -> ShownRun | None:
        """The job of that id, however its door dresses it."""
        found = self._shown(select(Job).where(Job.id == key.removeprefix(JOB_PREFIX)))
        return found[0] if found else None

    def _shown(self, query: Select[Job]) -> list[ShownRun]:
        with self._services.store.session() as session:
            jobs = list(session.scalars(query))
            ids = [job.id for job in jobs]
            results = select(Model.job_id, Model.alias).where(
                Model.kind == "tuned", Model.status == "active", Model.job_id.in_(ids)
            )
            tuned = {row.job_id: row.alias for row in session.execute(results)}
        return [self._shown_run(job, tuned.get(job.id, "")) for job in jobs]

    def _shown_run(self, job: Job, tuned: str) -> ShownRun:
        dressed = f"{JOB_PREFIX}{job.id}" if job.dialect == "openai" else job.id
        shown = ShownJob(
            id=dressed,
            door=job.dialect,
            model=job.model,
            created=job.created_at.isoformat(timespec="seconds"),
            state=job.state,
            wish=job.wish,
            error=str(job.error["message"]) if job.error else "",
            actions=tuple(_actions(job)),
            tuned=tuned,
        )
        folder = self._services.folder / "jobs" / job.id / "run"
        return ShownRun(job.id, job.name or dressed, RunFolder(folder), shown)


def _actions(job: Job) -> Sequence[str]:
    """What may be asked of a job in its state; whoever asks at the wrong moment is told so."""
    if job.wish == "stop":
        return []
    leads_to = MOVES[job.state]  # type: ignore[index]
    possible = {
        "pause": "paused" in leads_to and not job.wish,
        "resume": job.state == "paused",
        "stop": "stopped" in leads_to,
    }
    return [action for action, can in possible.items() if can]
