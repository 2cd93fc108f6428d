"""The supervisor: threads in the server that bring jobs from `validating` to their end.

One thread looks at all unfinished jobs a few times a second (`_round`); what takes long, fetching
inputs and sending results, goes to a small pool. Nothing that matters is in memory: what a job is
doing follows from its row, its folder and the lock its trainer holds, so a server that was killed
goes on where it was, and a trainer whose server was killed goes on by itself and is found again.

    trainer's lock   outcome.json    then
    held             -               follow its logs; hand a wish on
    free             ok              artefacts, then `succeeded`
    free             left            `stopped` or `paused` as wished, else `queued`
    free             an error        `failed`
    free             none            it was killed: `queued`, to go on from its checkpoint
"""

import fcntl
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from tunestone.errors import RunError, WorldError
from tunestone.jobs import ending, trainer
from tunestone.jobs.follow import Follower
from tunestone.jobs.intake import Intake, IntakeError, queue
from tunestone.jobs.job import StateError, move, note_change
from tunestone.jobs.journal import new_key, read_story, set_current_phase, set_phase, tell
from tunestone.jobs.names import BaseNames
from tunestone.jobs.settings import ServerSettings
from tunestone.jobs.store import Store, now
from tunestone.jobs.tables import Job

if TYPE_CHECKING:
    from tunestone.jobs.objects import Objects

_log = logging.getLogger("tunestone.jobs")
_ROUND_SECONDS = 0.3
_IDLE_SECONDS = 2.0
_SHUTDOWN_SECONDS = 20.0
_POOL = 4


class Supervisor:
    """Runs the jobs of one data folder."""

    def __init__(
        self,
        settings: ServerSettings,
        store: Store,
        objects: "Objects",
        names: BaseNames,
        folder: Path,
    ) -> None:
        """`folder`: the data folder."""
        self._settings = settings
        self._store = store
        self._data = folder.resolve()
        self._objects = objects
        self._intake = Intake(settings, store, objects, names, self._data)
        self._pool = ThreadPoolExecutor(_POOL, thread_name_prefix="jobs")
        self._thread = threading.Thread(target=self._watch, name="supervisor")
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._writing = threading.RLock()
        self._busy: set[str] = set()
        self._followers: dict[str, Follower] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._wished_at: dict[str, float] = {}
        self._lock: IO[str] | None = None
        self.grace_seconds = {"stop": 60.0, "pause": 600.0}
        """How long a trainer may take to the end of its step before it is killed. Nothing is lost
        but the steps since its last checkpoint, which a paused job repeats bit for bit."""

    def start(self) -> None:
        """Take the data folder and begin. Raises RunError when another server has it."""
        self._data.mkdir(parents=True, exist_ok=True)
        lock = (self._data / "supervisor.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise RunError(
                f"Another server runs the jobs of '{self._data}'.",
                remedy="End it first, or give this one a data folder of its own with --data.",
            ) from None
        self._lock = lock
        with self._change() as session:
            for job in session.scalars(select(Job).where(Job.state == "running")):
                if trainer.is_alive(self._folder(job.id)):
                    tell(
                        session,
                        job.id,
                        new_key("found"),
                        "The server is back; the training went on.",
                    )
        self._thread.start()

    def wake(self) -> None:
        """Look at the jobs now: one was added or changed."""
        self._woken.set()

    def shutdown(self) -> None:
        """Ask the trainers to end after their step, wait for them, and join the threads.

        They leave a checkpoint, and the next start of the server lets them go on from it. One that
        takes too long is killed, which loses no more than the steps since its last checkpoint.
        """
        self._closing.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._lock is not None:
            self._end_trainers()
            self._lock.close()

    def stop(self, job_id: str) -> None:
        """End a job for good. Raises StateError when it has ended, or is stopping already."""
        with self._change() as session:
            job = _get(session, job_id)
            if job.state == "running":
                if job.wish == "stop":
                    raise StateError("The job is stopping already.")
                _wish(session, job, "stop")
                job.phases = set_current_phase(job.phases, "Stopping")
                note_change(session, job_id, "stopping")
                tell(session, job_id, "stop", "The job was asked to stop; it ends its step.")
            else:
                ending.stop(session, job)
        self.wake()

    def pause(self, job_id: str) -> None:
        """Let a job rest with what it has. Raises StateError."""
        with self._change() as session:
            job = _get(session, job_id)
            if job.state == "running":
                if job.wish:
                    raise StateError(f"The job was asked to {job.wish} already.")
                _wish(session, job, "pause")
                told = "The job was asked to pause; it ends its step."
                tell(session, job_id, new_key("pause"), told)
            else:
                ending.pause(session, job)
        self.wake()

    def resume(self, job_id: str) -> None:
        """Let a paused job go on. Raises StateError."""
        with self._change() as session:
            job = _get(session, job_id)
            if job.state != "paused":
                raise StateError(f"The job is {job.state}; only a paused job can be resumed.")
            move(session, job_id, "queued", wish="")
            tell(session, job_id, new_key("resume"), "The job was resumed; it is queued.")
        self.wake()

    # --- the thread

    def _watch(self) -> None:
        while not self._closing.is_set():
            try:
                active = self._round()
            except Exception:  # noqa: BLE001 - without this thread no job would ever go on
                _log.exception("The jobs cannot be looked at; they go on when they can.")
                active = False
            self._woken.wait(_ROUND_SECONDS if active else _IDLE_SECONDS)
            self._woken.clear()

    def _round(self) -> bool:
        """Do for each unfinished job what is next; whether there is any."""
        unfinished = ("validating", "queued", "running")
        busy = frozenset(self._busy)  # before: a state may be old once the work on it is done
        with self._store.session() as session:
            query = select(Job.id, Job.state).where(Job.state.in_(unfinished))
            jobs = [tuple(row) for row in session.execute(query.order_by(Job.created_at, Job.id))]
        for job_id, state in jobs:
            if job_id in busy:
                continue
            if state == "validating":
                self._in_pool(self._take_in, job_id)
            elif state == "running":
                self._guarded(self._attend, job_id)
        self._launch_next()
        return bool(jobs)

    def _in_pool(self, work: Callable[[str], None], job_id: str) -> None:
        """Do it beside the thread; the job is left alone until it is done."""

        def run() -> None:
            try:
                self._guarded(work, job_id)
            finally:
                self._busy.discard(job_id)
                self.wake()

        self._busy.add(job_id)
        self._pool.submit(run)

    def _guarded(self, work: Callable[[str], None], job_id: str) -> None:
        """A fault of ours ends the job it met, not the others."""
        try:
            work(job_id)
        except (OSError, WorldError):
            _log.exception("Database or disk fail; job %s goes on when they do not.", job_id)
            time.sleep(_ROUND_SECONDS)
        except StateError as error:
            _log.info("Job %s was changed meanwhile: %s", job_id, error)
        except Exception as error:  # noqa: BLE001 - told as the job's error
            _log.exception("Job %s met a fault of the server.", job_id)
            trainer.send_signal(self._folder(job_id), signal.SIGKILL)
            with suppress(StateError), self._change() as session:
                message = f"A fault of the server: {type(error).__name__}: {error}."
                ending.fail(session, _get(session, job_id), "internal_error", message)

    # --- validating

    def _take_in(self, job_id: str) -> None:
        with self._change() as session:
            job = _get(session, job_id)
            if job.state != "validating":
                return  # it was stopped
            job.phases = set_phase(job.phases, "validation", "InProgress")
        try:
            accepted = self._intake.accept(job)
        except IntakeError as error:
            ending.send_manifest(self._objects, self._folder(job_id), job)
            with self._change() as session:
                job = _get(session, job_id)
                ending.tell_hook(session, job, error.code, str(error))
                ending.fail(session, job, error.code, error.message, param=error.param)
            return
        with self._change() as session:
            job = _get(session, job_id)
            queue(session, job, accepted)
            if accepted.hook is not None:
                ending.tell_hook(session, job, "", accepted.hook)

    # --- queued

    def _launch_next(self) -> None:
        """Start as many of the oldest queued jobs as may run."""
        with self._store.session() as session:
            running = select(func.count()).select_from(Job).where(Job.state == "running")
            free = self._settings.jobs_at_once - (session.scalar(running) or 0)
            queued = select(Job.id).where(Job.state == "queued").order_by(Job.created_at, Job.id)
            waiting = list(session.scalars(queued.limit(free))) if free > 0 else []
        for job_id in waiting:
            self._guarded(self._launch, job_id)

    def _launch(self, job_id: str) -> None:
        with self._change() as session:
            job = _get(session, job_id)
            move(session, job_id, "running", wish="", started_at=job.started_at or now())
            session.refresh(job)
            number = int(job.progress.get("sessions", 0)) + 1
            job.progress = {**job.progress, "sessions": number}
            if number == 1:
                job.phases = set_phase(job.phases, "data_processing", "InProgress")
            told = "The job has started." if number == 1 else "The training goes on."
            tell(session, job_id, f"started:{number}", told)
        self._followers.pop(job_id, None)
        self._wished_at.pop(job_id, None)
        settings = self._settings
        child = trainer.launch(
            self._folder(job_id),
            threads=settings.trainer_threads,
            niceness=settings.trainer_niceness,
            environment=self._objects.environment(),
        )
        self._children[job_id] = child
        with self._change() as session:
            _get(session, job_id).process = {"pid": child.pid, "started": now().isoformat()}

    # --- running

    def _attend(self, job_id: str) -> None:
        alive = trainer.is_alive(self._folder(job_id))
        self._follow(job_id)
        if alive:
            self._hand_on_wish(job_id)
            return
        child = self._children.pop(job_id, None)
        status = None if child is None else child.wait()
        outcome = trainer.read_outcome(self._folder(job_id))
        if outcome is not None and outcome.ok and not outcome.left:
            self._in_pool(self._finish, job_id)
            return
        with self._change() as session:
            job = _get(session, job_id)
            if outcome is None:
                ending.killed(session, job, self._folder(job_id), status)
            elif outcome.left:
                ending.left(session, job, paused=outcome.paused)
            else:
                ending.fail_by(session, job, self._folder(job_id), outcome)
        self._forget(job_id)

    def _follow(self, job_id: str) -> None:
        follower = self._followers.setdefault(job_id, Follower(self._data, job_id))
        try:
            while news := follower.look():
                with self._change() as session:
                    follower.write(session, _get(session, job_id), news)
        except Exception:
            del self._followers[job_id]  # what was read is read again
            raise

    def _hand_on_wish(self, job_id: str) -> None:
        with self._store.session() as session:
            job = _get(session, job_id)
        wish, folder = job.wish, self._folder(job_id)
        if not wish:
            return
        if job.phases["training"]["status"] == "NotStarted":
            trainer.send_signal(folder, signal.SIGTERM)  # nothing is lost yet
        if (folder / "run" / "config.json").is_file():  # the trainer removes a STOP of before it
            (folder / "run" / "STOP").touch()
        since = self._wished_at.setdefault(job_id, time.monotonic())
        if time.monotonic() - since > self.grace_seconds[wish]:
            trainer.send_signal(folder, signal.SIGKILL)

    def _finish(self, job_id: str) -> None:
        """Artefacts first; the state, the model and the result file then change together."""
        with self._store.session() as session:
            job = _get(session, job_id)
            story = read_story(session, job_id)
        folder = self._folder(job_id)
        unsent = ending.make_artefacts(self._objects, folder, job, story)
        with self._change() as session:
            job = _get(session, job_id)
            if job.wish == "stop":  # it has been told that it is stopped
                ending.stop(session, job)
            else:
                ending.succeed(session, job, self._data, unsent=unsent)
        self._forget(job_id)

    # --- the end

    def _end_trainers(self) -> None:
        with self._store.session() as session:
            running = list(session.scalars(select(Job.id).where(Job.state == "running")))
        trainer.end_all(map(self._folder, running), seconds=_SHUTDOWN_SECONDS)
        for child in self._children.values():
            child.wait()
        for job_id in running:
            self._guarded(self._set_down, job_id)

    def _set_down(self, job_id: str) -> None:
        """Note how a trainer was left at the server's end; a result is taken in at the next."""
        self._follow(job_id)
        outcome = trainer.read_outcome(self._folder(job_id))
        if outcome is None or outcome.left:
            with self._change() as session:
                told = "The server was shut down; the training goes on when it is back."
                paused = outcome is not None and outcome.paused
                ending.left(session, _get(session, job_id), paused=paused, told=told)

    def _forget(self, job_id: str) -> None:
        self._followers.pop(job_id, None)
        self._wished_at.pop(job_id, None)

    def _folder(self, job_id: str) -> Path:
        return self._data / "jobs" / job_id

    @contextmanager
    def _change(self) -> Iterator[Session]:
        """A transaction that no other one of this supervisor comes between: JSON columns are read,
        changed and written back."""
        with self._writing, self._store.session() as session:
            yield session


def _get(session: Session, job_id: str) -> Job:
    job = session.get(Job, job_id)
    if job is None:
        raise StateError(f"There is no job {job_id}.")
    return job


def _wish(session: Session, job: Job, wish: str) -> None:
    """Note a wish. Raises StateError when the job has ended meanwhile."""
    running = update(Job).where(Job.id == job.id, Job.state == "running")
    statement = running.values(wish=wish, updated_at=now())
    if session.execute(statement).rowcount == 0:  # type: ignore[attr-defined]
        raise StateError("The job has just ended.")
    session.refresh(job)
