"""Two ways to invoke a reward Lambda: its handler in the sandbox, or the function on AWS.

Both take events and give one `Invocation` for each, in order, whatever becomes of the others; how
samples are put into events and what the answers mean is the grader's affair. A failure has a cause,
because the cause decides what helps:

    code    the handler raised, died, or used more than it may: a smaller event may well pass
    time    it took longer than its limit: the same, but finding out costs a limit each time
    wire    permission, no such function, no connection: no other event will do better

On AWS, botocore's standard mode asks again up to three times, with exponential backoff and jitter,
on throttling, server faults and lost connections. A call that ran into our time limit is not asked
again there: it would only cost the same limit three times more.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal, Protocol

from tunestone.errors import RewardError
from tunestone.rewards.aws_lambda.contract import describe_error_payload, describe_json
from tunestone.rewards.sandbox import Outcome

Event = list[dict[str, Any]]
Cause = Literal["", "code", "time", "wire"]

RETRIES = 3
"""On the wire, after the first attempt; as the service does."""
_ERROR_CHARACTERS = 4_000
"""A recorded traceback keeps its last part of this length; the reason stands at its end."""
_CONNECT_SECONDS = 10
_TOO_LARGE = {"RequestTooLargeException", "SerializedRequestEntityTooLargeException", "413"}


@dataclass(frozen=True, slots=True)
class Invocation:
    """What came of sending one event: an answer, or why there is none."""

    answer: Any = None
    """The decoded JSON of the answer."""
    error: str = ""
    cause: Cause = ""
    """Empty exactly when there is an answer; otherwise see the module's docstring."""
    seconds: float = 0.0
    """Wall time, all attempts together."""
    attempts: int = 1


class Transport(Protocol):
    """The seam between the grader and the place where the handler runs."""

    def invoke(self, events: Sequence[Event]) -> list[Invocation]:
        """One invocation per event, in order. Never raises for a failed one."""
        ...


class Calls(Protocol):
    """What is used of a `Sandbox`."""

    def call(self, payloads: Sequence[Any]) -> list[Outcome]:
        """One outcome per payload, in order."""
        ...


class SandboxTransport:
    """A handler that is loaded in a sandbox; see `program.py`."""

    def __init__(self, sandbox: Calls, *, timeout_seconds: float) -> None:
        """`timeout_seconds` is what the sandbox was given, for the words of an error."""
        self._sandbox = sandbox
        self._timeout_seconds = timeout_seconds

    def invoke(self, events: Sequence[Event]) -> list[Invocation]:
        """One invocation per event; the sandbox runs as many at once as it has workers."""
        outcomes = self._sandbox.call(events)
        return [
            self._read(outcome, len(event)) for outcome, event in zip(outcomes, events, strict=True)
        ]

    def _read(self, outcome: Outcome, count: int) -> Invocation:
        if outcome.kind == "timeout":
            error = f"{describe_timeout(self._timeout_seconds, count)}\n{outcome.error}".strip()
            invocation = Invocation(error=shorten(error), cause="time")
        elif outcome.kind:
            invocation = Invocation(error=shorten(outcome.error), cause="code")
        else:
            invocation = decode_answer(outcome.value)
        return replace(invocation, seconds=outcome.seconds, attempts=outcome.attempts)


class AwsTransport:
    """A function on AWS, invoked through boto3."""

    def __init__(
        self, client: Any, function: str, *, threads: Executor, timeout_seconds: float
    ) -> None:
        """`client` is from `connect_aws`; `threads` bounds how many events are out at once."""
        self._client = client
        self._function = function
        self._threads = threads
        self._timeout_seconds = timeout_seconds

    def invoke(self, events: Sequence[Event]) -> list[Invocation]:
        """One invocation per event."""
        return list(self._threads.map(self._invoke_one, events))

    def _invoke_one(self, event: Event) -> Invocation:
        start = perf_counter()
        invocation = self._send(event)
        return replace(invocation, seconds=perf_counter() - start)

    def _send(self, event: Event) -> Invocation:
        from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

        try:
            response = self._client.invoke(
                FunctionName=self._function,
                InvocationType="RequestResponse",
                Payload=encode_event(event),
            )
            payload = response["Payload"].read()
        except ReadTimeoutError:
            return Invocation(
                error=describe_timeout(self._timeout_seconds, len(event)), cause="time"
            )
        except ClientError as refusal:
            # Only an event that is too large can be helped by a smaller one.
            code = refusal.response.get("Error", {}).get("Code")
            cause: Cause = "code" if code in _TOO_LARGE else "wire"
            tried = _attempts(refusal.response)
            return Invocation(error=self._explain(refusal), cause=cause, attempts=tried)
        except BotoCoreError as fault:
            error = f"{self._function} was not invoked: {type(fault).__name__}: {fault}"
            return Invocation(error=error, cause="wire", attempts=RETRIES + 1)
        failed = bool(response.get("FunctionError"))
        read = read_function_error(payload, count=len(event)) if failed else decode_answer(payload)
        return replace(read, attempts=_attempts(response))

    def _explain(self, refusal: Any) -> str:
        """What AWS said, and what to do about the cases people meet."""
        fault = refusal.response.get("Error", {})
        code, message = fault.get("Code", "unknown"), fault.get("Message", "")
        remedy = {
            "AccessDeniedException": "Allow lambda:InvokeFunction on it to these credentials.",
            "ExpiredTokenException": "Renew the AWS credentials.",
            "InvalidSignatureException": "Check the AWS credentials and this machine's clock.",
            "UnrecognizedClientException": "Check the AWS credentials.",
            "ResourceNotFoundException": "Check its name, region and account.",
            "TooManyRequestsException": "Lower `concurrency`, or raise the function's.",
        }.get(code, "")
        tried = _attempts(refusal.response)
        times = f" after {tried} attempts" if tried > 1 else ""
        return f"{self._function} was not invoked{times}: {code}: {message} {remedy}".strip()


def connect_aws(
    function: str, *, endpoint_url: str | None, timeout_seconds: float, connections: int
) -> Any:
    """A boto3 client for the region in the function's ARN. Asks nobody but for credentials.

    Raises RewardError when boto3 is missing or no credentials are to be found.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise RewardError(
            "a Lambda on AWS needs the boto3 package.", remedy="pip install 'tunestone[aws]'"
        ) from error
    session = boto3.Session(region_name=function.split(":")[3])
    if session.get_credentials() is None:
        raise RewardError(
            f"there are no AWS credentials to invoke {function} with.",
            remedy="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": RETRIES + 1},
        max_pool_connections=connections,
        tcp_keepalive=True,  # a connection that is silent for minutes is dropped by many routers
    )
    client = session.client("lambda", endpoint_url=endpoint_url, config=config)
    client.meta.events.register_first("needs-retry.lambda.Invoke", _give_up_on_timeout)
    return client


def _give_up_on_timeout(caught_exception: Exception | None = None, **_: object) -> None:
    """Called by botocore before it decides about a retry; an exception from here ends the call."""
    from botocore.exceptions import ReadTimeoutError

    if isinstance(caught_exception, ReadTimeoutError):
        raise caught_exception


def encode_event(event: Iterable[Any]) -> bytes:
    """The event as it goes over the wire."""
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


def decode_answer(payload: Any) -> Invocation:
    """An answer's text as an invocation; not being JSON is the handler's fault."""
    try:
        return Invocation(answer=json.loads(payload))
    except (TypeError, ValueError, RecursionError):
        shown = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else payload
        error = f"the answer is not JSON: {describe_json(shown)}"
        return Invocation(error=error, cause="code")


def read_function_error(payload: bytes, *, count: int) -> Invocation:
    """Lambda's report of a handler that failed on AWS, by its exception or by its time limit."""
    report = decode_answer(payload).answer
    if not isinstance(report, Mapping):
        error = f"the function failed: {payload[:_ERROR_CHARACTERS].decode('utf-8', 'replace')}"
        return Invocation(error=error, cause="code")
    error = shorten(describe_error_payload(report))
    said = f"{report.get('errorType', '')} {report.get('errorMessage', '')}"
    if "Sandbox.Timedout" in said or "Task timed out after" in said:
        # Lambda's own limit, 3 seconds unless it was raised; ours was not reached.
        advice = f"with {count} samples; raise the function's timeout or lower `batch_size`"
        return Invocation(error=f"{error} ({advice})", cause="time")
    return Invocation(error=error, cause="code")


def describe_timeout(seconds: float, count: int) -> str:
    """Words for a call that was ended, and what to do."""
    samples = "1 sample" if count == 1 else f"{count} samples"
    return (
        f"the handler took longer than {seconds:g} s with {samples}; "
        "raise `timeout_seconds` (the function's Timeout) or lower `batch_size`"
    )


def shorten(text: str) -> str:
    """The last part of a long error, where the reason stands."""
    return text if len(text) <= _ERROR_CHARACTERS else "[...] " + text[-_ERROR_CHARACTERS:]


def _attempts(response: Mapping[str, Any]) -> int:
    return 1 + int(response.get("ResponseMetadata", {}).get("RetryAttempts", 0))
