"""What the tests of the server's pages share: a served folder, and jobs that are just rows.

with serving(tmp_path) as (services, client):
    job = add_job(services, state="running")
    run = write_run(run_path(services, job))
    client.get("/ui/jobs.json")
"""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import update

from live_server import IdleJobs, running, services_in
from tunestone.api.dashboard import build_dashboard
from tunestone.api.openai import ROUTES, render_error
from tunestone.api.services import Services
from tunestone.jobs.job import DataSource, Plan, new_job
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Deployment, Job, Model

HERE = {"sec-fetch-site": "same-origin"}
PAGE = {"accept": "text/html"}
BASE = "smollm2-135m"


class WishingJobs(IdleJobs):
    """Asks a running job to stop or pause, as the supervisor does; its trainer is the test."""

    def stop(self, job_id: str) -> None:
        self._wish(job_id, "stop")

    def pause(self, job_id: str) -> None:
        self._wish(job_id, "pause")

    def _wish(self, job_id: str, wish: str) -> None:
        with self._store.session() as session:
            session.execute(update(Job).where(Job.id == job_id).values(wish=wish))


@contextlib.contextmanager
def serving(folder: Path, **options: Any) -> Iterator[tuple[Services, httpx2.Client]]:
    """(services, client) of a live server over `folder`; a request may take minutes if it must."""
    services = services_in(folder, **options)
    dashboard = build_dashboard(services)
    with (
        running(services, ROUTES, {"openai": render_error}, dashboard=dashboard) as url,
        httpx2.Client(base_url=url, timeout=300) as client,
    ):
        yield services, client
    services.store.close()


def add_job(
    services: Services,
    *,
    dialect: str = "openai",
    state: str = "queued",
    name: str = "",
    age: int = 0,
    **columns: Any,
) -> str:
    """The id of a new job that was asked for `age` minutes ago."""
    plan = Plan(DataSource("file", "file-1"), reward={"type": "exact"}, settings={"seed": 1})
    fixed = {"model": BASE, "base": BASE, "region": "us-east-1", "request": {}}
    job = new_job(plan, dialect=dialect, name=name, **fixed)
    job.created_at -= timedelta(minutes=age)
    job.state = state
    for column, value in columns.items():
        setattr(job, column, value)
    with services.store.session() as session:
        session.add(job)
    return job.id


def set_job(services: Services, job_id: str, **columns: Any) -> None:
    with services.store.session() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**columns))


def state_of(services: Services, job_id: str) -> str:
    with services.store.session() as session:
        return session.get_one(Job, job_id).state


def run_path(services: Services, job_id: str) -> Path:
    """Where a job's run folder is."""
    path = services.folder / "jobs" / job_id / "run"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def add_model(
    services: Services, job_id: str, *, kind: str = "tuned", step: int = 30, **columns: Any
) -> str:
    """The name of a model that a job made."""
    suffix = "" if kind == "tuned" else f":ckpt-step-{step}"
    alias = f"ft:{BASE}:tunestone::{job_id}{suffix}"
    values = {"name": "", "dialect": "openai", "status": "active", **columns}
    model = Model(
        id=new_id(),
        alias=alias,
        kind=kind,
        job_id=job_id,
        model=BASE,
        base=BASE,
        adapter=f"jobs/{job_id}/run/adapter",
        region="us-east-1",
        step=step,
        metrics={},
        created_at=now(),
        **values,
    )
    with services.store.session() as session:
        session.add(model)
    return alias


def add_deployment(services: Services, alias: str, *, name: str, status: str = "Active") -> str:
    """The id of a deployment of a model."""
    moment = now()
    row = Deployment(
        id=new_id(),
        kind="deployment",
        name=name,
        model_arn=alias,
        status=status,
        region="us-east-1",
        request={},
        created_at=moment,
        updated_at=moment,
    )
    with services.store.session() as session:
        session.add(row)
    return row.id
