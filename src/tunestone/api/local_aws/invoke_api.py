"""Lambda's Invoke: the answer of the handler is the body, and headers say how it went."""

import json
import logging
import uuid
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter, to_thread
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from tunestone.api.http import Call
from tunestone.api.local_aws.credentials import handler_environment
from tunestone.api.local_aws.deployment import find_function
from tunestone.api.local_aws.errors import (
    InvalidParameterValueException,
    InvalidRequestContentException,
    RequestTooLargeException,
)
from tunestone.api.local_aws.invoke import ANSWER_BYTES, Result, Runner, encode_log
from tunestone.api.services import Services
from tunestone.jobs.store import Store
from tunestone.jobs.tables import Function

_log = logging.getLogger(__name__)

_AT_ONCE = 16
"""Calls that run at the same time; they have threads of their own, or handlers that ask this server
for something would wait for threads that wait for them."""
_runners: WeakKeyDictionary[Store, tuple[Runner, CapacityLimiter]] = WeakKeyDictionary()


async def invoke(call: Call) -> Response:
    """Invoke, of type RequestResponse, Event or DryRun."""
    row = await run_in_threadpool(find_function, call, {"FunctionName": call.path["FunctionName"]})
    event = _read_event(await call.request.body())
    kind = call.request.headers.get("x-amz-invocation-type") or "RequestResponse"
    headers = {"x-amzn-RequestId": str(uuid.uuid4())}
    if kind == "DryRun":
        return Response(status_code=204, headers=headers)
    run = partial(_run, call.services, row, event, _own_url(call.request))
    if kind == "Event":
        return Response(
            status_code=202, headers=headers, background=BackgroundTask(_unwatched, run)
        )
    if kind != "RequestResponse":
        raise InvalidParameterValueException(f"{kind} is no type of invocation.")
    result = await run()
    headers["X-Amz-Executed-Version"] = "$LATEST"
    if result.failed:
        headers["X-Amz-Function-Error"] = "Unhandled"
    if call.request.headers.get("x-amz-log-type") == "Tail":
        headers["X-Amz-Log-Result"] = encode_log(result.log)
    return Response(result.payload, headers=headers, media_type="application/json")


def stop_functions(services: Services) -> None:
    """End the functions that are loaded, when the server stops."""
    if services.store in _runners:
        _runners.pop(services.store)[0].close()


async def _run(services: Services, row: Function, event: Any, url: str) -> Result:
    found = _runners.get(services.store)
    if found is None:
        runner = Runner(services.folder, services.settings.sandbox)
        found = _runners.setdefault(services.store, (runner, CapacityLimiter(_AT_ONCE)))
    runner, limiter = found

    def work() -> Result:
        environment = {}
        if row.settings["network"]:
            environment = handler_environment(services.store, services.folder, url=url)
        return runner.call(row, event, environment)

    return await to_thread.run_sync(work, limiter=limiter)


async def _unwatched(run: Any) -> None:
    """A call nobody waits for; a failure goes to the log."""
    result: Result = await run()
    if result.failed:
        _log.warning("A function that was invoked as an event failed: %s", result.payload.decode())


def _read_event(body: bytes) -> Any:
    if len(body) > ANSWER_BYTES:
        raise RequestTooLargeException(
            f"Request must be smaller than {ANSWER_BYTES} bytes for the InvokeFunction operation"
        )
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequestContentException(
            f"Could not parse request body into json: {error}"
        ) from None


def _own_url(request: Request) -> str:
    """Where a handler on this machine finds this server."""
    host, port = request.scope["server"]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"
