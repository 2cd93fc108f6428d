"""Fine-tuning jobs: create, look at, list, cancel, pause, resume.

Creating checks everything that can be known without reading the data, puts a row into `jobs` and
wakes the supervisor; what is wrong with the data fails the job with file and line, as it does at
both services.
"""

import re
import secrets
from collections.abc import Callable
from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunestone.api.http import Call, Route
from tunestone.api.inference.targets import Target, resolve_target
from tunestone.api.openai.bodies import parse, read_object
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.events import tell_start
from tunestone.api.openai.files import find_file
from tunestone.api.openai.graders import own_address, read_reward
from tunestone.api.openai.hyperparameters import read_own, to_settings
from tunestone.api.openai.job_objects import DIALECT, find_job, render_job, render_jobs
from tunestone.api.openai.paging import page, read_limit
from tunestone.api.openai.response_format import check_response_format
from tunestone.api.openai.rules import Rules, rules_for
from tunestone.api.openai.schemas import (
    CreateJob,
    Reinforcement,
    ReinforcementHyperparameters,
)
from tunestone.api.services import Services
from tunestone.jobs.job import DataSource, Plan, new_job
from tunestone.jobs.tables import File, Job

_SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*")
_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)


async def create(call: Call) -> Response:
    """`POST /fine_tuning/jobs`."""
    given = await read_object(call.request)
    body = parse(given, CreateJob)
    address = own_address(call)

    def insert() -> dict[str, Any]:
        job = _make_job(call, given, body, address)
        with call.services.store.session() as session:
            session.add(job)
            session.flush()
            tell_start(session, job)
            return render_job(session, job)

    shown = await run_in_threadpool(insert)
    call.services.jobs.wake()
    return JSONResponse(shown)


async def retrieve(call: Call) -> Response:
    """`GET /fine_tuning/jobs/{job_id}`."""

    def find() -> dict[str, Any]:
        with call.services.store.session() as session:
            return render_job(session, find_job(session, call.path["job_id"]))

    return JSONResponse(await run_in_threadpool(find))


async def list_jobs(call: Call) -> Response:
    """`GET /fine_tuning/jobs`, newest first."""
    limit = read_limit(call.request, default=20, most=1_000)
    after = call.request.query_params.get("after")
    wanted = _read_metadata_filter(call)

    def find() -> dict[str, Any]:
        with call.services.store.session() as session:
            jobs = _list(session, after, wanted, limit)
            shown = render_jobs(session, jobs)
            return page(jobs, limit, lambda job: shown[job.id])

    return JSONResponse(await run_in_threadpool(find))


async def cancel(call: Call) -> Response:
    """`POST /fine_tuning/jobs/{job_id}/cancel`: a running job ends after its step."""
    return await _move(call, call.services.jobs.stop)


async def pause(call: Call) -> Response:
    """`POST /fine_tuning/jobs/{job_id}/pause`: after its step the job rests with a checkpoint."""
    return await _move(call, call.services.jobs.pause)


async def resume(call: Call) -> Response:
    """`POST /fine_tuning/jobs/{job_id}/resume`: it goes on as if it had never paused."""
    return await _move(call, call.services.jobs.resume)


async def _move(call: Call, act: Callable[[str], None]) -> Response:
    def move() -> dict[str, Any]:
        with call.services.store.session() as session:
            job_id = find_job(session, call.path["job_id"]).id
        act(job_id)
        with call.services.store.session() as session:
            return render_job(session, find_job(session, call.path["job_id"]))

    return JSONResponse(await run_in_threadpool(move))


def _make_job(call: Call, given: dict[str, Any], body: CreateJob, address: str) -> Job:
    services = call.services
    reinforcement = _read_reinforcement(body)
    target = resolve_target(services, body.model)
    rules = rules_for(target.base, services.settings)
    _check_against(rules, body, target)
    find_files(services, training=body.training_file, validation=body.validation_file)
    check_response_format(reinforcement.response_format)
    reward = read_reward(services, reinforcement.grader, address)
    hyperparameters = _read_hyperparameters(body, reinforcement)
    base_settings = {} if target.model_id else services.names.resolve(target.base).settings
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    plan = Plan(
        training=DataSource("file", body.training_file),
        validation=(DataSource("file", body.validation_file),) if body.validation_file else (),
        reward=reward.spec,
        settings={
            **base_settings,
            **to_settings(hyperparameters),
            "seed": seed,
            **read_own(body.tunestone),
        },
        least_rows=rules.least_rows,
        most_rows=rules.most_rows,
        most_validation_rows=rules.most_validation_rows,
        organization=services.settings.organization,
        suffix=body.suffix or "",
        response_format=reinforcement.response_format,
        extra={"notes": _notes(body, target, reward.notes)},
    )
    return new_job(
        plan,
        dialect=DIALECT,
        name=body.suffix or "",
        model=target.base,
        base=target.ref.source,
        start_adapter=target.model_id,
        region=call.caller.region,
        request=given,
    )


def _read_reinforcement(body: CreateJob) -> Reinforcement:
    """The method, if it is the one that is trained here."""
    kind = body.method.type if body.method else "supervised"
    if kind != "reinforcement" or body.method is None:
        why = "" if body.method else " (which a job without 'method' means)"
        raise OpenAIError(
            400,
            f"This server trains by reinforcement only; the method '{kind}'{why} is not offered "
            "here. Send method = {'type': 'reinforcement', 'reinforcement': {'grader': ...}}.",
            param="method.type" if body.method else "method",
            code="unsupported_method",
        )
    if body.method.reinforcement is None:
        raise OpenAIError(
            400,
            "Missing required parameter: 'method.reinforcement'.",
            param="method.reinforcement",
        )
    return body.method.reinforcement


def _check_against(rules: Rules, body: CreateJob, target: Target) -> None:
    if body.suffix is not None and not rules.takes_suffix:
        raise OpenAIError(
            400,
            f"'suffix' is not supported for {target.base}: models of Bedrock's OpenAI-compatible "
            "endpoint are named by it. Remove it.",
            param="suffix",
            code="unsupported_parameter",
        )
    if body.suffix is not None and not _SUFFIX.fullmatch(body.suffix):
        raise OpenAIError(
            400,
            f"Invalid 'suffix': {body.suffix!r}; use letters, digits, blanks, '.', '_' and '-'.",
            param="suffix",
        )
    if body.validation_file is None and rules.needs_validation:
        raise OpenAIError(
            400,
            f"Missing required parameter: 'validation_file'. Reinforcement fine-tuning of "
            f"{target.base} needs one.",
            param="validation_file",
            code="missing_required_parameter",
        )
    if body.validation_file == body.training_file:
        raise OpenAIError(
            400,
            "'training_file' and 'validation_file' are the same file; what is trained on cannot "
            "tell how good the model is.",
            param="validation_file",
            code="invalid_validation_file",
        )


def find_files(services: Services, *, training: str, validation: str | None) -> dict[str, File]:
    """`training_file` and `validation_file` -> the file of that id. Raises OpenAIError."""
    found: dict[str, File] = {}
    files = {"training_file": training, "validation_file": validation}
    with services.store.session() as session:
        for param, file_id in files.items():
            if file_id is None:
                continue
            try:
                file = find_file(session, file_id)
            except OpenAIError:
                raise OpenAIError(
                    400,
                    f"Invalid '{param}': there is no file {file_id}.",
                    param=param,
                    code=f"invalid_{param}",
                ) from None
            if file.purpose != "fine-tune":
                raise OpenAIError(
                    400,
                    f"Invalid '{param}': {file_id} was uploaded with the purpose "
                    f"'{file.purpose}', not 'fine-tune'.",
                    param=param,
                    code=f"invalid_{param}",
                )
            found[param] = file
    return found


def _read_hyperparameters(
    body: CreateJob, reinforcement: Reinforcement
) -> ReinforcementHyperparameters:
    """Those of the method; where it has none, the legacy ones at the top."""
    given = reinforcement.hyperparameters
    if given is not None or body.hyperparameters is None:
        return given or ReinforcementHyperparameters()
    legacy = body.hyperparameters.model_dump(exclude_none=True)
    return parse(legacy, ReinforcementHyperparameters, within="hyperparameters")


def _notes(body: CreateJob, target: Target, about_reward: tuple[str, ...]) -> dict[str, str]:
    """What the client should know of the job from its start, by what it is about."""
    notes = {"model": target.note} if target.note else {}
    notes |= {f"grader:{number}": note for number, note in enumerate(about_reward)}
    if body.integrations:
        notes["wandb"] = (
            "Integration wandb: nothing is sent to Weights & Biases from here. The metrics are in "
            "this job's events, in its result file and in its run folder (metrics.jsonl)."
        )
    return notes


def _read_metadata_filter(call: Call) -> dict[str, str] | None:
    """Pairs a job's metadata must have; None: it must have none at all."""
    query = call.request.query_params
    if query.get("metadata") == "null":
        return None
    pairs = ((_METADATA.fullmatch(key), value) for key, value in query.multi_items())
    return {match[1]: value for match, value in pairs if match}


def _list(
    session: Session, after: str | None, wanted: dict[str, str] | None, limit: int
) -> list[Job]:
    query = select(Job).where(Job.dialect == DIALECT)
    if after is not None:
        last = find_job(session, after)
        query = query.where(
            or_(
                Job.created_at < last.created_at,
                and_(Job.created_at == last.created_at, Job.id < last.id),
            )
        )
    query = query.order_by(Job.created_at.desc(), Job.id.desc())
    if wanted == {}:
        return list(session.scalars(query.limit(limit + 1)))
    found: list[Job] = []
    for job in session.scalars(query.execution_options(yield_per=200)):
        metadata = job.request.get("metadata") or {}
        fits = not metadata if wanted is None else wanted.items() <= metadata.items()
        if fits:
            found.append(job)
        if len(found) > limit:
            break
    return found


_JOB = "/fine_tuning/jobs/{job_id}"
ROUTES = (
    Route(
        "openai",
        "fine_tuning.jobs.create",
        "POST",
        "/fine_tuning/jobs",
        create,
        "write",
        CreateJob,
    ),
    Route("openai", "fine_tuning.jobs.list", "GET", "/fine_tuning/jobs", list_jobs),
    Route("openai", "fine_tuning.jobs.retrieve", "GET", _JOB, retrieve),
    Route("openai", "fine_tuning.jobs.cancel", "POST", f"{_JOB}/cancel", cancel, "write"),
    Route("openai", "fine_tuning.jobs.pause", "POST", f"{_JOB}/pause", pause, "write"),
    Route("openai", "fine_tuning.jobs.resume", "POST", f"{_JOB}/resume", resume, "write"),
)
