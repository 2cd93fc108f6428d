"""Eval runs: each validation of a job, with every answer and its reward, as OpenAI's evals show it.

A job has one eval, `eval_<job>`; a validation at a step is one run of it, `evalrun_<job>_<step>`;
an answer is an output item. They are read from the job's run folder (`validation.jsonl`), nothing
is stored twice. An answer passes from the grader's `pass_threshold` on, 0.5 when it has none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunestone.api.http import Call, Route
from tunestone.api.openai.bodies import unix
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.job_objects import JOB_PREFIX, find_job
from tunestone.api.openai.paging import page, read_choice, read_limit
from tunestone.api.services import Services
from tunestone.data import load_prompts
from tunestone.jobs.tables import Job
from tunestone.runlog import read_lines
from tunestone.types import Prompt

_EVAL = re.compile(r"eval_([a-z0-9]{12})")
_RUN = re.compile(r"evalrun_([a-z0-9]{12})_([0-9]{1,9})")
_PASS = 0.5
_NO_ERROR = {"code": "", "message": ""}
Answer = Mapping[str, Any]
"""A line of validation.jsonl, see docs/architecture.md."""


@dataclass(frozen=True, slots=True)
class _Eval:
    """A job and its validations."""

    job: Job
    folder: Path
    """The job's."""
    answers_by_step: Mapping[int, Sequence[Answer]]

    @property
    def grader(self) -> Mapping[str, Any]:
        """As the client gave it."""
        return dict(self.job.request["method"]["reinforcement"]["grader"])

    def passes(self, answer: Answer) -> bool:
        """Whether an answer is good enough."""
        threshold = self.grader.get("pass_threshold")
        reward = answer["reward"]
        return reward is not None and reward >= (_PASS if threshold is None else threshold)


async def retrieve_eval(call: Call) -> Response:
    """`GET /evals/{eval_id}`."""

    def find() -> dict[str, Any]:
        found = _open(call)
        return {
            "id": f"eval_{found.job.id}",
            "object": "eval",
            "name": f"Validation of {JOB_PREFIX}{found.job.id}",
            "created_at": unix(found.job.created_at),
            "data_source_config": {"type": "custom", "schema": {"type": "object"}},
            "testing_criteria": [found.grader],
            "metadata": found.job.request.get("metadata") or {},
        }

    return JSONResponse(await run_in_threadpool(find))


async def list_runs(call: Call) -> Response:
    """`GET /evals/{eval_id}/runs`, in order of the steps unless asked otherwise."""
    limit = read_limit(call.request, default=20, most=1_000)
    descending = read_choice(call.request, "order", ("asc", "desc")) == "desc"
    after = call.request.query_params.get("after")

    def find() -> dict[str, Any]:
        found = _open(call)
        steps = sorted(found.answers_by_step, reverse=descending)
        if after is not None:
            steps = steps[steps.index(_step_of(found, after)) + 1 :]
        return page(steps, limit, lambda step: _render_run(found, step))

    return JSONResponse(await run_in_threadpool(find))


async def retrieve_run(call: Call) -> Response:
    """`GET /evals/{eval_id}/runs/{run_id}`."""

    def find() -> dict[str, Any]:
        found = _open(call)
        return _render_run(found, _step_of(found, call.path["run_id"]))

    return JSONResponse(await run_in_threadpool(find))


async def list_items(call: Call) -> Response:
    """`GET /evals/{eval_id}/runs/{run_id}/output_items`, in the order of the validation rows."""
    limit = read_limit(call.request, default=20, most=1_000)
    descending = read_choice(call.request, "order", ("asc", "desc")) == "desc"
    status = call.request.query_params.get("status")
    after = call.request.query_params.get("after")

    def find() -> dict[str, Any]:
        found = _open(call)
        step = _step_of(found, call.path["run_id"])
        places = list(range(len(found.answers_by_step[step])))
        if descending:
            places.reverse()
        if after is not None:
            places = places[places.index(_place_of(found, step, after)) + 1 :]
        if status in ("pass", "fail"):
            answers = found.answers_by_step[step]
            places = [i for i in places if found.passes(answers[i]) == (status == "pass")]
        prompts = _prompts(found.folder)
        return page(places, limit, lambda place: _render_item(found, step, place, prompts))

    return JSONResponse(await run_in_threadpool(find))


async def retrieve_item(call: Call) -> Response:
    """`GET /evals/{eval_id}/runs/{run_id}/output_items/{item_id}`."""

    def find() -> dict[str, Any]:
        found = _open(call)
        step = _step_of(found, call.path["run_id"])
        place = _place_of(found, step, call.path["item_id"])
        return _render_item(found, step, place, _prompts(found.folder))

    return JSONResponse(await run_in_threadpool(find))


def _open(call: Call) -> _Eval:
    match = _EVAL.fullmatch(call.path["eval_id"])
    try:
        with call.services.store.session() as session:
            job = find_job(session, f"{JOB_PREFIX}{match[1]}" if match else "")
    except OpenAIError:
        raise _unknown("eval", call.path["eval_id"]) from None
    folder = _folder(call.services, job)
    answers: dict[int, list[Answer]] = {}
    for line in read_lines(folder / "run" / "validation.jsonl"):
        answers.setdefault(int(line["step"]), []).append(line)
    return _Eval(job, folder, answers)


def _folder(services: Services, job: Job) -> Path:
    return services.folder / "jobs" / job.id


def _step_of(found: _Eval, run_id: str) -> int:
    match = _RUN.fullmatch(run_id)
    if not match or match[1] != found.job.id or int(match[2]) not in found.answers_by_step:
        raise _unknown("eval run", run_id)
    return int(match[2])


def _place_of(found: _Eval, step: int, item_id: str) -> int:
    prefix, _, place = item_id.rpartition("_")
    known = range(len(found.answers_by_step[step]))
    if prefix != f"outputitem_{found.job.id}_{step}" or place not in map(str, known):
        raise _unknown("output item", item_id)
    return int(place)


def _unknown(what: str, name: str) -> OpenAIError:
    return OpenAIError(404, f"There is no {what} {name}.", code="not_found")


def _render_run(found: _Eval, step: int) -> dict[str, Any]:
    job, answers = found.job, found.answers_by_step[step]
    errored = sum(answer["reward"] is None for answer in answers)
    passed = sum(map(found.passes, answers))
    failed = len(answers) - passed - errored
    rewards = [answer["reward"] for answer in answers if answer["reward"] is not None]
    source = job.request.get("validation_file") or job.request["training_file"]
    name = str(found.grader.get("name", ""))
    return {
        "id": f"evalrun_{job.id}_{step}",
        "object": "eval.run",
        "eval_id": f"eval_{job.id}",
        "name": f"Step {step}",
        "created_at": unix(job.started_at or job.created_at),
        "status": "completed",
        "model": job.request["model"],
        "data_source": {"type": "jsonl", "source": {"type": "file_id", "id": source}},
        "error": _NO_ERROR,
        "metadata": {
            "step": str(step),
            "mean_reward": str(sum(rewards) / len(rewards)) if rewards else "",
        },
        "per_model_usage": [],
        "per_testing_criteria_results": [
            {"testing_criteria": name, "passed": passed, "failed": failed + errored}
        ],
        "report_url": "",
        "result_counts": {
            "total": len(answers),
            "passed": passed,
            "failed": failed,
            "errored": errored,
        },
    }


def _render_item(
    found: _Eval, step: int, place: int, prompts: Mapping[str, Prompt]
) -> dict[str, Any]:
    job, answer = found.job, found.answers_by_step[step][place]
    prompt = prompts.get(str(answer["prompt_id"]))
    turns = [dict(turn) for turn in prompt.messages] if prompt else []
    error = {"code": "grader_error", "message": answer["error"]} if answer["error"] else _NO_ERROR
    passed = found.passes(answer)
    return {
        "id": f"outputitem_{job.id}_{step}_{place}",
        "object": "eval.run.output_item",
        "created_at": unix(job.started_at or job.created_at),
        "eval_id": f"eval_{job.id}",
        "run_id": f"evalrun_{job.id}_{step}",
        "status": "error" if answer["reward"] is None else "pass" if passed else "fail",
        "datasource_item": {
            "id": answer["prompt_id"],
            **({**prompt.row, "messages": turns} if prompt else {}),
        },
        "datasource_item_id": place,
        "results": [_render_result(found, answer)],
        "sample": {
            "input": [{"role": t["role"], "content": t["content"] or ""} for t in turns],
            "output": [{"role": "assistant", "content": answer["text"]}],
            "finish_reason": answer["finish_reason"],
            "model": job.request["model"],
            "error": error,
            "usage": {
                "prompt_tokens": answer["prompt_tokens"],
                "completion_tokens": answer["tokens"],
                "total_tokens": answer["prompt_tokens"] + answer["tokens"],
                "cached_tokens": 0,
            },
            **_sampling(job),
        },
    }


def _render_result(found: _Eval, answer: Answer) -> dict[str, Any]:
    return {
        "name": found.grader.get("name", ""),
        "type": found.grader["type"],
        "score": answer["reward"] or 0.0,
        "passed": found.passes(answer),
        "sample": {
            "error": answer["error"],
            "flags": answer["flags"],
            "scores": answer["metrics"] or {},
        },
    }


def _sampling(job: Job) -> dict[str, Any]:
    """How validation answers are drawn: greedily."""
    settings = {**job.plan["settings"], **job.progress.get("settings", {})}
    return {
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": settings["seed"],
        "max_completion_tokens": settings.get("max_completion_tokens", 0),
    }


def _prompts(folder: Path) -> dict[str, Prompt]:
    """Id -> row that was validated on; from the validation file, or the part of the training file
    that was split off."""
    files = sorted((folder / "input").glob("*.jsonl"), reverse=True)
    held_out = [path for path in files if path.stem.startswith("validation")] or files
    return {prompt.id: prompt for path in held_out for prompt in load_prompts(path)}


_PATH = "/evals/{eval_id}"
ROUTES = (
    Route("openai", "evals.retrieve", "GET", _PATH, retrieve_eval),
    Route("openai", "evals.runs.list", "GET", f"{_PATH}/runs", list_runs),
    Route("openai", "evals.runs.retrieve", "GET", f"{_PATH}/runs/{{run_id}}", retrieve_run),
    Route(
        "openai",
        "evals.runs.output_items.list",
        "GET",
        f"{_PATH}/runs/{{run_id}}/output_items",
        list_items,
    ),
    Route(
        "openai",
        "evals.runs.output_items.retrieve",
        "GET",
        f"{_PATH}/runs/{{run_id}}/output_items/{{item_id}}",
        retrieve_item,
    ),
)
