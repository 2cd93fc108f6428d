"""The server's settings: one frozen record, from a TOML file and options of `tunestone serve`."""

import base64
import binascii
import difflib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tunestone.config import read_toml, resolve
from tunestone.errors import ConfigError


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class BaseAlias(_Record):
    """What a name that clients use for a base model stands for here."""

    source: str
    """Model that is really trained and answers: a hub id, a folder, or `smollm2-135m`."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of a run that this base needs, such as `lora_rank` or `microbatch_tokens`."""


class Webhook(_Record):
    """A receiver of job notifications."""

    url: str
    secret: str = ""
    """`whsec_...`, as the openai client's `webhooks.unwrap` takes it. With kind `webhook` only."""
    kind: Literal["webhook", "eventbridge"] = "webhook"
    """OpenAI's signed events, or Bedrock's state changes in EventBridge's shape."""

    @model_validator(mode="after")
    def _check_secret(self) -> "Webhook":
        if self.kind == "webhook" and not _can_sign(self.secret):
            raise ValueError("a webhook needs a secret: whsec_ and base64, or any other text")
        return self


def _can_sign(secret: str) -> bool:
    if not secret.startswith("whsec_"):
        return bool(secret)
    try:
        return bool(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except binascii.Error:
        return False


class ServerSettings(_Record):
    """Everything that decides how the server behaves."""

    host: str = "127.0.0.1"
    """Address to listen on. On another than a loopback one the server wants keys."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    data: Path = Path("tunestone-data")
    """Folder of everything the server keeps: database, files, jobs, models."""
    database: str = ""
    """URL of a database, such as `postgresql+psycopg://user:password@host/name`. Empty: SQLite in
    the data folder."""
    local_aws: bool = False
    """Whether S3, STS, IAM and Lambda are answered too, for AWS's notebooks (extra `aws`)."""
    require_keys: bool = False
    """Whether a key is needed on a loopback address too. Once a key was made it always is."""
    tls_certificate: Path | None = None
    """PEM file of a certificate (with its chain), to serve HTTPS: boto3 sends bearer keys only over
    it. None: plain HTTP."""
    tls_key: Path | None = None
    """PEM file of the certificate's key, unless that holds it too."""
    region: str = "us-east-1"
    """Region in ARNs where a request does not name one by its signature."""
    account: str = Field(default="123456789012", pattern=r"^[0-9]{12}$")
    """Account id in ARNs."""
    organization: str = Field(default="tunestone", pattern=r"^[a-z0-9-]{1,40}$")
    """Organization in OpenAI's model ids (`ft:base:organization:suffix:id`)."""
    s3_endpoint: str = ""
    """Where `s3://` is, such as MinIO's address. Empty: Amazon S3; this server if `local_aws`."""
    base_models: dict[str, BaseAlias] = Field(default_factory=dict)
    """Names that clients use -> what is really trained. With none, the services' names mean the
    embedded model, hub ids themselves, and the answers and the log say so."""
    jobs_at_once: int = Field(default=1, ge=1, le=64)
    """Jobs that train at the same time; the others wait."""
    trainer_threads: int = Field(default=0, ge=0)
    """CPU threads of a training. 0 takes all cores."""
    trainer_niceness: int = Field(default=10, ge=0, le=19)
    """How far a training steps back for the server and everything else (Unix `nice`)."""
    sandbox: Literal["auto", "bubblewrap", "landlock", "none"] = "auto"
    """What confines reward code; see docs/rewards/sandbox.md."""
    least_rows: int = Field(default=100, ge=1)
    """Fewest training rows of a job in Bedrock's dialects (Bedrock: 100)."""
    engine_threads: int = Field(default=0, ge=0)
    """CPU threads of the engine that answers. 0 takes all cores."""
    engine_models: int = Field(default=2, ge=1)
    """Base models in memory at once; adapters on them are small and do not count."""
    engine_adapters: int = Field(default=16, ge=1)
    """Adapters in memory at once."""
    engine_rows: int = Field(default=64, ge=1)
    """Answers that are drawn at the same time; further requests wait."""
    max_body_bytes: int = Field(default=25 * 2**20, ge=1024)
    """Largest request but uploads."""
    max_upload_bytes: int = Field(default=512 * 2**20, ge=1024)
    """Largest uploaded file (OpenAI: 512 MB)."""
    requests_per_minute: int = Field(default=30_000, ge=0)
    """Requests per key (or address) and minute; 0 is no limit."""
    webhooks: tuple[Webhook, ...] = ()
    """Who is told when a job changes its state."""
    safety_hook: str = ""
    """A command that gets a job's training file as its argument before training; its exit status
    other than 0 fails the job with its output as the reason. Empty: none."""
    log_format: Literal["json", "text"] = "json"
    """How the log is written to standard error."""


def read_settings(path: Path | None, options: dict[str, Any]) -> ServerSettings:
    """Settings from a TOML file and from options, which win. Raises ConfigError."""
    values = read_toml(path) if path else {}
    try:
        settings = ServerSettings.model_validate({**values, **options})
    except ValidationError as error:
        raise _explained(error) from None
    for name, alias in settings.base_models.items():  # said now, not when the first job fails
        resolve(layers=[(f"base_models.'{name}'.settings", alias.settings)])
    return settings


def _explained(error: ValidationError) -> ConfigError:
    """The first thing wrong, and of an unknown setting the nearest known one."""
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    *above, key = map(str, problem["loc"])
    where = ".".join([*above, key])
    listed = "docs/server.md lists all settings."
    if problem["type"] != "extra_forbidden":
        reason = problem["msg"].removeprefix("Value error, ")
        return ConfigError(f"The server's setting '{where}': {reason}.", remedy=listed)
    tables: dict[str, type[_Record]] = {"base_models": BaseAlias, "webhooks": Webhook}
    fields = tables[above[0]].model_fields if above else ServerSettings.model_fields
    close = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    near = f"Did you mean '{close[0]}'? " if close else ""
    return ConfigError(f"The server has no setting '{where}'.", remedy=near + listed)
