"""A data folder with a supervisor over it, a tiny model, and jobs for it: what tests of jobs need.

`Shelf` stands for S3: addresses below `s3://shelf/` are files of a folder.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import select

from toy import REWARD, SETTINGS
from tunestone.data import fingerprint
from tunestone.errors import DataError, WorldError
from tunestone.jobs.job import ENDED, DataSource, Plan
from tunestone.jobs.names import BaseNames
from tunestone.jobs.settings import ServerSettings
from tunestone.jobs.store import Store, new_id, now, sqlite_url
from tunestone.jobs.supervisor import Supervisor
from tunestone.jobs.tables import Event, File, Job, Model

PATIENCE_SECONDS = 300.0
"""Until a test gives up on a job; nothing depends on how long it really takes."""


_UNHURRIED = '''
def unhurried(prompt, completion, row):
    """As `letters`; a step of 32 then takes long enough for a test to come in between."""
    import time
    time.sleep(0.004)
    return letters(prompt, completion, row)
'''


class Shelf:
    """Objects in a folder."""

    def __init__(self, folder: Path, *, open_for_writing: bool = True) -> None:
        self.folder = folder
        self.open_for_writing = open_for_writing
        self.full = False

    def download(self, url: str, to: Path) -> None:
        if not self.path(url).is_file():
            raise DataError(f"There is no object {url}.")
        shutil.copyfile(self.path(url), to)

    def list(self, url: str) -> list[str]:
        files = sorted(path for path in self.path(url).rglob("*") if path.is_file())
        return [f"s3://shelf/{path.relative_to(self.folder).as_posix()}" for path in files]

    def upload(self, path: Path, url: str) -> None:
        if self.full:
            raise WorldError(f"{url} could not be written: the bucket is gone.")
        self.path(url).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.path(url))

    def check_writable(self, url: str) -> None:
        if not self.open_for_writing:
            raise DataError(f"{url}: access denied (s3:PutObject).")

    def environment(self) -> dict[str, str]:
        return {}

    def path(self, url: str) -> Path:
        return self.folder / url.removeprefix("s3://shelf/")


class Bench:
    """One data folder."""

    def __init__(self, folder: Path, model: Path, **settings: Any) -> None:
        self.folder = folder / "data"
        self.model = model
        self.shelf = Shelf(folder / "shelf")
        self.reward = folder / "reward.py"
        self.reward.write_text(REWARD + _UNHURRIED)
        self.folder.mkdir(exist_ok=True)
        (self.folder / "files").mkdir(exist_ok=True)
        self.store = Store(sqlite_url(self.folder))
        self.store.migrate()
        options = {"data": self.folder, "trainer_threads": 1, "trainer_niceness": 0, **settings}
        self.settings = ServerSettings.model_validate(options)
        self.supervisor = self.new_supervisor()

    def new_supervisor(self) -> Supervisor:
        names = BaseNames({})
        return Supervisor(self.settings, self.store, self.shelf, names, self.folder)

    def add_file(self, lines: list[Any], name: str = "train.jsonl") -> DataSource:
        """An uploaded file; a line is a row, or a text as it is."""
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        file_id = f"file-{new_id()}"
        path = self.folder / "files" / file_id
        path.write_text("".join(f"{text}\n" for text in texts))
        with self.store.session() as session:
            session.add(
                File(
                    id=file_id,
                    filename=name,
                    purpose="fine-tune",
                    bytes=path.stat().st_size,
                    sha256=fingerprint(path),
                    path=f"files/{file_id}",
                    created_at=now(),
                )
            )
        return DataSource("file", file_id)

    def add_job(
        self,
        *,
        training: DataSource | None = None,
        reward: str = "letters",
        dialect: str = "openai",
        model: str = "o4-mini-2025-04-16",
        start: str = "",
        base: str = "",
        settings: dict[str, Any] | None = None,
        **plan: Any,
    ) -> str:
        """A job as a dialect inserts it."""
        job_id = new_id()
        made = Plan(
            training=training or self.add_file(rows("train", 0, 12)),
            reward={"type": "function", "path": f"{self.reward}:{reward}"},
            settings={**SETTINGS, "lora_rank": 4, "max_steps": 4, **(settings or {})},
            **{"organization": "org", **plan},
        )
        made.settings.pop("threads", None)
        moment = now()
        with self.store.session() as session:
            session.add(
                Job(
                    id=job_id,
                    dialect=dialect,
                    name=f"job-{job_id}",
                    state="validating",
                    model=model,
                    base=base or str(self.model),
                    start_adapter=start,
                    region="us-east-1",
                    created_at=moment,
                    updated_at=moment,
                    request={},
                    plan=made.to_json(),
                    phases={},
                    progress={},
                    result_files=[],
                )
            )
        self.supervisor.wake()
        return job_id

    def job(self, job_id: str) -> Job:
        with self.store.session() as session:
            return session.get_one(Job, job_id)

    def events(self, job_id: str) -> list[Event]:
        with self.store.session() as session:
            query = select(Event).where(Event.job_id == job_id).order_by(Event.sequence)
            return list(session.scalars(query))

    def messages(self, job_id: str) -> list[str]:
        return [event.message for event in self.events(job_id) if event.type == "message"]

    def models(self, job_id: str) -> list[Model]:
        with self.store.session() as session:
            return list(session.scalars(select(Model).where(Model.job_id == job_id)))

    def wait(self, job_id: str, until: Callable[[Job], bool] | None = None) -> Job:
        """The job once it has ended, or once `until` holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            job = self.job(job_id)
            if (until or (lambda job: job.state in ENDED))(job):
                return job
            assert time.monotonic() < deadline, (job.state, job.progress, self.messages(job_id))
            assert until is None or job.state not in ENDED, (job.state, job.error)
            time.sleep(0.02)

    def run_folder(self, job_id: str) -> Path:
        return self.folder / "jobs" / job_id / "run"


def rows(name: str, first: int, count: int, **keys: Any) -> list[dict[str, Any]]:
    """Prompts of the toy."""
    return [
        {"id": f"{name}-{i}", "messages": [{"role": "user", "content": f"Say {i}"}], **keys}
        for i in range(first, first + count)
    ]
