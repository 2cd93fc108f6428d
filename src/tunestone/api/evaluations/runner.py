"""Runs evaluation jobs, one at a time, on the server's event loop.

    InProgress ──> Completed, Failed
        └──(StopEvaluationJob)──> Stopping ──> Stopped

The rows are the queue: a server that starts goes on with what an earlier one left, and answers that
came already are not asked for again.
"""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from tunestone.api.evaluations.answering import ask_all, given_answers
from tunestone.api.evaluations.asked import JUDGED, Asked, AskedDataset, AskedModel, read_request
from tunestone.api.evaluations.dataset import Item, read_items
from tunestone.api.evaluations.evaluator import EngineChat
from tunestone.api.evaluations.metrics import JobReward, Measured, Written, measure
from tunestone.api.evaluations.results import Evaluated, summarize, write_results
from tunestone.api.inference.targets import Target, resolve_target
from tunestone.api.services import Services
from tunestone.errors import TunestoneError, WorldError
from tunestone.jobs.intake import MESSAGE_CHARACTERS, public
from tunestone.jobs.job import Plan
from tunestone.jobs.store import now
from tunestone.jobs.tables import Evaluation, Job, Model
from tunestone.rewards.judges.asking import Asker
from tunestone.rewards.judges.cache import ReplyCache
from tunestone.rewards.judges.chat_models import Endpoint, SamplingParams

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
"""Between two looks at the rows."""
_JUDGE_TOKENS = 512
_OPEN = ("InProgress", "Stopping")


class Evaluations:
    """The background worker of the evaluations' table."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()

    async def start(self) -> None:
        """Begin to work, on the loop the engine is used on."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._work())

    def wake(self) -> None:
        """Look at the rows now. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._woken.set)

    async def shutdown(self) -> None:
        """Leave off; what runs goes on when the server starts again."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _work(self) -> None:
        while True:
            try:
                while job_id := await asyncio.to_thread(self._next):
                    await self._run(job_id)
            except WorldError:
                _log.exception("The database does not answer; evaluations go on when it does.")
            await self._wait()

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), _LOOK_SECONDS)
        self._woken.clear()

    async def _run(self, job_id: str) -> None:
        """Until the job has ended in some way."""
        work = asyncio.create_task(self._evaluate(job_id))
        try:
            while not work.done():
                if await asyncio.to_thread(self._status, job_id) != "InProgress":
                    await self._end(job_id, "Stopped")
                    return
                waiting = asyncio.create_task(self._wait())
                await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            await self._end(job_id, "Completed", result=work.result())
        except TunestoneError as error:
            told = public(str(error), self._services.folder, {})[:MESSAGE_CHARACTERS]
            await self._end(job_id, "Failed", failures=[told])
        except Exception as error:  # noqa: BLE001 - the one boundary of a job
            _log.error("The evaluation job %s failed by our own fault.", job_id, exc_info=error)
            fault = f"Our own fault ({type(error).__name__}). The server's log says what it is."
            await self._end(job_id, "Failed", failures=[fault])
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def _next(self) -> str | None:
        """The oldest job that has not ended."""
        query = select(Evaluation.id).where(Evaluation.status.in_(_OPEN))
        with self._services.store.session() as session:
            return session.scalar(query.order_by(Evaluation.created_at, Evaluation.id).limit(1))

    def _status(self, job_id: str) -> str:
        with self._services.store.session() as session:
            row = session.get(Evaluation, job_id)
        return row.status if row else "Deleting"

    async def _end(self, job_id: str, status: str, **changes: Any) -> None:
        """One that was asked to stop while it ended has stopped."""
        await asyncio.to_thread(self._write_end, job_id, status, changes)

    def _write_end(self, job_id: str, status: str, changes: dict[str, Any]) -> None:
        with self._services.store.session() as session:
            for before, after in (("InProgress", status), ("Stopping", "Stopped")):
                session.execute(
                    update(Evaluation)
                    .where(Evaluation.id == job_id, Evaluation.status == before)
                    .values(status=after, updated_at=now(), **changes)
                )

    async def _evaluate(self, job_id: str) -> dict[str, Any]:
        """The summary, once all results are written. Raises TunestoneError."""
        folder = self._services.folder / "evaluations" / job_id
        folder.mkdir(parents=True, exist_ok=True)
        asked = await asyncio.to_thread(self._read, job_id)
        targets = await asyncio.to_thread(self._resolve, asked)
        evaluated = []
        for d, dataset in enumerate(asked.datasets):
            items = await asyncio.to_thread(self._fetch, dataset, folder / f"dataset-{d}.jsonl")
            answers = [
                await self._answers(model, targets, items, folder / f"answers-{d}-{m}.jsonl")
                for m, model in enumerate(asked.models)
            ]
            measured = await self._measure(asked, dataset, targets, items, answers)
            evaluated.append(Evaluated(dataset, items, answers, measured))
        notes = {name: target.note for name, target in targets.items()}
        summary = summarize(asked, notes, evaluated)
        files = await asyncio.to_thread(write_results, folder, job_id, asked, summary, evaluated)
        for name, path in files.items():
            url = f"{asked.output}/{asked.name}/{job_id}/{name}"
            await asyncio.to_thread(self._services.objects.upload, path, url)
        return summary

    def _read(self, job_id: str) -> Asked:
        with self._services.store.session() as session:
            return read_request(session.get_one(Evaluation, job_id).request)

    def _resolve(self, asked: Asked) -> dict[str, Target]:
        names = [model.identifier for model in asked.models if not model.precomputed]
        names += [asked.evaluator] if asked.evaluator else []
        return {name: resolve_target(self._services, name) for name in names}

    def _fetch(self, dataset: AskedDataset, path: Path) -> list[Item]:
        if not path.exists():
            fresh = path.with_suffix(".part")
            self._services.objects.download(dataset.url, fresh)
            fresh.rename(path)
        return read_items(path, dataset.url)

    async def _answers(
        self, model: AskedModel, targets: dict[str, Target], items: list[Item], kept: Path
    ) -> list[Written]:
        if model.precomputed:
            return given_answers(model, items)
        ref = targets[model.identifier].ref
        engine = self._services.engine
        return await ask_all(engine, ref, sampling=model.sampling, items=items, kept=kept)

    async def _measure(
        self,
        asked: Asked,
        dataset: AskedDataset,
        targets: dict[str, Target],
        items: list[Item],
        answers: list[list[Written]],
    ) -> list[Measured]:
        reward = await asyncio.to_thread(self._reward, asked, targets)
        if not set(dataset.metrics) & set(JUDGED):
            return await self._scores(dataset, items, answers, reward=reward, asker=None)
        chat = EngineChat(
            self._services.engine, targets[asked.evaluator].ref, asyncio.get_running_loop()
        )
        cache = ReplyCache(None)
        params = SamplingParams(temperature=0.0, max_completions_tokens=_JUDGE_TOKENS)
        asker = Asker(chat, name=asked.evaluator, endpoint=Endpoint(), params=params, cache=cache)
        try:
            return await self._scores(dataset, items, answers, reward=reward, asker=asker)
        finally:
            chat.close()
            # Its threads wait for answers that this very loop gives: they are waited for elsewhere.
            await asyncio.to_thread(asker.close)
            cache.close()

    async def _scores(
        self,
        dataset: AskedDataset,
        items: list[Item],
        answers: list[list[Written]],
        *,
        reward: JobReward | None,
        asker: Asker | None,
    ) -> list[Measured]:
        return [
            await asyncio.to_thread(measure, metric, items, answers, reward=reward, asker=asker)
            for metric in dataset.metrics
        ]

    def _reward(self, asked: Asked, targets: dict[str, Target]) -> JobReward | None:
        """That of the last model that was tuned here."""
        for model in reversed(asked.models):
            target = targets.get(model.identifier)
            if target is None or not target.model_id:
                continue
            with self._services.store.session() as session:
                tuned = session.get_one(Model, target.model_id)
                plan = Plan.from_json(session.get_one(Job, tuned.job_id).plan)
            folder = self._services.folder / "jobs" / tuned.job_id
            origin = f"reward of the job {tuned.job_id} that tuned {model.identifier}"
            return JobReward(plan.reward, folder, self._services.settings.sandbox, origin)
        return None
