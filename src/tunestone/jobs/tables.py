"""What the server remembers, as tables.

One row is one thing a client can name. Columns are what is searched, sorted or changed under a
condition; the rest of a request is kept as it came (`request`), so that it can be echoed exactly.
Ids are 12 of [a-z0-9], as in Bedrock's ARNs; a dialect dresses them (`ftjob-...`, `arn:aws:...`).
Times are UTC and aware. A change here needs a step in `migrations/`: `make migration WHAT="..."`
drafts it, and a test compares the two.
"""

import re
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    String,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

Json = dict[str, Any]
_UNKEPT = re.compile(r"[\x00\ud800-\udfff]")


class UtcTime(TypeDecorator[datetime]):
    """An aware time in UTC; SQLite keeps no zone, so it is put on when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Into UTC; a naive time is our fault."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware again."""
        if value is None or value.tzinfo is None:
            return value and value.replace(tzinfo=UTC)
        return value.astimezone(UTC)  # PostgreSQL answers in the zone of its own settings


class Words(TypeDecorator[str]):
    """Text as every database can keep it: what none of them takes becomes U+FFFD.

    PostgreSQL keeps no NUL, and halves of surrogate pairs have no UTF-8. A name a client asks for
    with one of them is then unknown, and a message that quotes one can be told.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Without them."""
        return value and _UNKEPT.sub("\ufffd", value)


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(
        naming_convention={  # a later step may only change what has a name
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: UtcTime,
        str: Words,
        Json: JSON,
        list[str]: JSON,
        list[Any]: JSON,
    }


class File(Base):
    """An uploaded or written file (OpenAI's Files)."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(Words(64), primary_key=True)
    filename: Mapped[str]
    purpose: Mapped[str] = mapped_column(index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Words(64))
    path: Mapped[str]
    """Relative to the data folder."""
    created_at: Mapped[datetime] = mapped_column(index=True)
    expires_at: Mapped[datetime | None]


class Job(Base):
    """A run that was asked for. `state` is one of `job.STATES`; see the table of moves there."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(Words(12), primary_key=True)
    dialect: Mapped[str] = mapped_column(Words(16), index=True)
    """`bedrock` or `openai`: through which door it came. Only that door shows it."""
    name: Mapped[str] = mapped_column(index=True)
    """Bedrock's jobName; OpenAI's suffix or empty."""
    state: Mapped[str] = mapped_column(Words(16), index=True)
    wish: Mapped[str] = mapped_column(Words(16), default="")
    """`stop` or `pause` while a running job is asked to end, else empty."""
    model: Mapped[str]
    """The base as the client named it."""
    base: Mapped[str]
    """What is really trained: a model source for `load_base`."""
    start_adapter: Mapped[str] = mapped_column(default="")
    """Id of the tuned model the job starts from (training goes on from there), or empty."""
    region: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    estimated_end: Mapped[datetime | None]
    request: Mapped[Json]
    """As it came, for echoing."""
    plan: Mapped[Json]
    """What the dialect made of it, for `worker.py`; see `job.Plan`."""
    phases: Mapped[Json]
    """validation, data_processing, training -> {status, created_at, updated_at} (ISO times)."""
    error: Mapped[Json | None]
    """{code, message, param} of a failed job."""
    progress: Mapped[Json]
    """step, steps, last metrics, train_rows, dropped prompts ... (for answers and pages)."""
    trained_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    result_files: Mapped[list[str]]
    """Ids in `files`."""
    process: Mapped[Json | None]
    """pid and start time of the trainer, to find or end it after a restart of the server."""
    __table_args__ = (Index("jobs_by_dialect_and_name", "dialect", "name"),)


class Event(Base):
    """Something that happened in a job, in order of `sequence`."""

    __tablename__ = "events"
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    key: Mapped[str]
    """What it speaks of, such as `metrics:12`; a job has each key once, so that reading a log anew
    after a restart repeats nothing."""
    created_at: Mapped[datetime]
    level: Mapped[str] = mapped_column(Words(8))
    type: Mapped[str] = mapped_column(Words(32))
    """`message`, `metrics` or `moderation_checks`."""
    message: Mapped[str]
    data: Mapped[Json | None]
    __table_args__ = (UniqueConstraint("job_id", "key"),)


class Model(Base):
    """A tuned model or a checkpoint: weights of ours that can answer."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(Words(12), primary_key=True)
    alias: Mapped[str] = mapped_column(unique=True)
    """OpenAI's id: `ft:base:org:suffix:id`, or `...:ckpt-step-20` for a checkpoint."""
    kind: Mapped[str] = mapped_column(Words(16), index=True)
    """`tuned` (the result of a job) or `checkpoint`."""
    name: Mapped[str] = mapped_column(index=True)
    """Bedrock's customModelName; empty for a checkpoint."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    dialect: Mapped[str] = mapped_column(Words(16))
    model: Mapped[str]
    """The base as the client named it."""
    base: Mapped[str]
    """The model source the adapter sits on; with no adapter, the folder of the whole model."""
    adapter: Mapped[str]
    """PEFT folder relative to the data folder; empty when `base` is the whole result."""
    status: Mapped[str] = mapped_column(Words(16))
    """`active`, or `creating`, `failed`."""
    region: Mapped[str]
    step: Mapped[int]
    metrics: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(index=True)


class Deployment(Base):
    """A name under which a tuned model answers (Bedrock)."""

    __tablename__ = "deployments"
    id: Mapped[str] = mapped_column(Words(12), primary_key=True)
    kind: Mapped[str] = mapped_column(Words(16), index=True)
    """`deployment`, or `provisioned` for Provisioned Throughput."""
    name: Mapped[str] = mapped_column(index=True)
    model_arn: Mapped[str]
    """Of a custom model (or, provisioned, of a base model)."""
    status: Mapped[str] = mapped_column(Words(16))
    """`Creating`, `Active` or `Failed`."""
    description: Mapped[str] = mapped_column(default="")
    region: Mapped[str]
    failure: Mapped[str] = mapped_column(default="")
    update: Mapped[Json | None]
    """{model_arn, status}: `Updating`, `UpdateCompleted` or `UpdateFailed`."""
    request: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime]


class Evaluation(Base):
    """A Bedrock evaluation job: base against tuned on a dataset."""

    __tablename__ = "evaluations"
    id: Mapped[str] = mapped_column(Words(12), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    status: Mapped[str] = mapped_column(Words(16), index=True)
    """`InProgress`, `Completed`, `Failed`, `Stopping`, `Stopped`, `Deleting`."""
    region: Mapped[str]
    request: Mapped[Json]
    result: Mapped[Json | None]
    failures: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime]


class Tag(Base):
    """A tag on anything with an ARN."""

    __tablename__ = "tags"
    arn: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Once(Base):
    """An idempotency token that was used: the same one gives the same thing again."""

    __tablename__ = "once"
    operation: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    """SHA-256 of the request; another request with the same token is refused."""
    made: Mapped[str]
    """What it made: an id or ARN."""
    created_at: Mapped[datetime]


class Permission(Base):
    """A checkpoint shared with a project (OpenAI's checkpoint permissions)."""

    __tablename__ = "permissions"
    id: Mapped[str] = mapped_column(primary_key=True)
    checkpoint: Mapped[str] = mapped_column(index=True)
    project_id: Mapped[str]
    created_at: Mapped[datetime]
    __table_args__ = (UniqueConstraint("checkpoint", "project_id"),)


class Function(Base):
    """A deployed Lambda function (local AWS); its package lies in the data folder."""

    __tablename__ = "functions"
    name: Mapped[str] = mapped_column(primary_key=True)
    """Its ARN, without a version: a name may be used once in each region."""
    path: Mapped[str]
    """The zip, relative to the data folder."""
    sha256: Mapped[str]
    """Of the zip, base64, as Lambda gives it."""
    settings: Mapped[Json]
    """Runtime, Role, Handler, Timeout, MemorySize, Environment, Description, RevisionId ..., and
    `network`: whether its code opens connections."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Key(Base):
    """An access key: a bearer token (hashed) and a SigV4 pair of one owner."""

    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(Words(20), primary_key=True)
    """The SigV4 access key id. Its secret is made from this and the data folder's own secret, and
    stored nowhere."""
    name: Mapped[str]
    bearer_sha256: Mapped[str] = mapped_column(Words(64), unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Change(Base):
    """A change of a job's state that receivers are still to be told of; see `notify.py`."""

    __tablename__ = "changes"
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(Words(16))
    """What the job became; `stopping` when a running one was asked to stop."""
    created_at: Mapped[datetime]


class Delivery(Base):
    """A notification that is to be sent: an outbox, so that a restart loses none."""

    __tablename__ = "deliveries"
    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    """job, state and receiver: each is sent once."""
    target: Mapped[str]
    kind: Mapped[str] = mapped_column(Words(16))
    """`webhook` (signed as OpenAI does) or `eventbridge`."""
    payload: Mapped[Json]
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime] = mapped_column(index=True)
    done_at: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime]


class Setting(Base):
    """What a client set once for the server, such as the invocation logging configuration."""

    __tablename__ = "settings"
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Json]
