"""The log: one line per request and per thing that happened, as JSON or as text.

All of Python's logging comes through here, so that a library's lines look like ours. Keys, tokens
and signatures are cut out of every line before it is written.
"""

import logging
import re
import sys
from typing import Any, Literal, TextIO

import structlog

_SECRETS = re.compile(
    r"\bts-[\w-]{8,}|bedrock-api-key-[\w+/=-]+|whsec_[\w+/=-]+|(?<=Signature=)[\w%]+|\bsk-[\w-]{8,}"
    r"|(?<=[Bb]earer )[\w.+/=-]{8,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
LOGGER = "tunestone.server"
_DRESSING: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure(form: Literal["json", "text"], stream: TextIO = sys.stderr) -> None:
    """Write the log of this process to `stream` from now on."""
    last: Any = structlog.processors.JSONRenderer()
    if form == "text":
        last = structlog.dev.ConsoleRenderer(colors=False)
    cleaning = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_DRESSING, structlog.stdlib.PositionalArgumentsFormatter()],
        processors=[cleaning, structlog.processors.format_exc_info, hide_secrets, last],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("botocore", "urllib3", "s3transfer", "alembic", "werkzeug", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def logger(name: str = LOGGER) -> Any:
    """A logger that takes keywords: `logger().info("job_queued", job=id)`."""
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[*_DRESSING, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def hide_secrets(_: Any, __: str, event: Any) -> Any:
    """A processor: every text of an event without what should not be read by others."""
    return {name: _hidden(value) for name, value in event.items()}


def _hidden(value: Any) -> Any:
    return _SECRETS.sub("***", value) if isinstance(value, str) else value
