"""What all operations that ask a model share: who is asked, by whom, since when, and the record.

A record of the call goes into the invocation log before the last of its answer is sent.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from starlette.concurrency import run_in_threadpool

from tunestone.api.bedrock.errors import (
    BedrockError,
    ResourceNotFoundException,
    ValidationException,
    classify,
)
from tunestone.api.http import Call
from tunestone.api.inference.targets import Target, resolve_target
from tunestone.errors import RequestError, UnknownModelError
from tunestone.jobs.invocation_log import Invocation
from tunestone.jobs.store import now

_THINGS = ("custom-model/", "custom-model-deployment/", "provisioned-model/", "imported-model/")
"""What a client made and can delete; a base model's name is simply right or wrong."""
_STREAM_ERRORS = {
    "ValidationException": "validationException",
    "ThrottlingException": "throttlingException",
    "ServiceUnavailableException": "serviceUnavailableException",
    "InternalServerException": "internalServerException",
}


@dataclass(frozen=True, slots=True)
class Asking:
    """One call of a model."""

    call: Call
    model_id: str
    """As the client wrote it."""
    target: Target
    started: datetime = field(default_factory=now)
    _began: float = field(default_factory=time.perf_counter)

    @property
    def request_id(self) -> str:
        """Under which log and answer speak of this call."""
        return self.call.request_id

    @property
    def latency_ms(self) -> int:
        """Whole milliseconds since the call came."""
        return round((time.perf_counter() - self._began) * 1000)

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer. A note says so where another model answers than the name says."""
        note = self.target.note.encode("ascii", "replace").decode()
        return {"x-tunestone-model-note": note} if note else {}

    async def record(
        self, asked: Any, answered: Any, tokens: tuple[int, int], metadata: Mapping[str, str]
    ) -> None:
        """Keep the call in the invocation log; `tokens` are those of the prompt and the answer."""
        log = self.call.services.invocation_log
        if log is None:
            return
        invocation = Invocation(
            operation=self.call.route.operation,
            model_id=self.model_id,
            region=self.call.caller.region,
            request_id=self.request_id,
            input=asked,
            output=answered,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            metadata=metadata,
            caller=self.call.caller.name,
            started=self.started,
        )
        await run_in_threadpool(log.record, invocation)


async def find_model(call: Call) -> Asking:
    """The model of the request's path.

    Raises ResourceNotFoundException for a custom model or deployment that is not there,
    ValidationException for any other unknown name, ModelNotReadyException where one has to wait.
    """
    name = call.path["modelId"]
    try:
        target = await run_in_threadpool(resolve_target, call.services, name)
    except UnknownModelError as error:
        if any(thing in name for thing in _THINGS):
            raise ResourceNotFoundException(f"Model not found. {error}") from error
        raise ValidationException(f"The provided model identifier is invalid. {error}") from error
    return Asking(call, name, target)


def as_stream_error(error: Exception) -> tuple[str, BedrockError]:
    """(name of the exception event, the error) for what went wrong in the middle of a stream."""
    known = classify(error)
    if isinstance(error, RequestError):  # what is wrong with a request is said before a stream
        return "modelStreamErrorException", known
    return _STREAM_ERRORS.get(known.code, "modelStreamErrorException"), known
