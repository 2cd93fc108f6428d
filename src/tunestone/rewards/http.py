"""A reward behind an HTTP endpoint of the user's: samples out, grades back, signed on request.

    POST url   {"samples": [{"id", "messages", "completion", "row"}]}
    answer     {"grades": [{"id", "reward", "metrics"?: {name: number}, "error"?: text}]}

`row` is every key of the data row besides `messages`, `id` among them; the sample's own `id` tells
completions of one row apart and is to be given back. With `format = "lambda"` the body and the
answer are those of a Bedrock reward Lambda instead (`aws_lambda/contract.py`).

With a shared secret every request carries `X-Tunestone-Timestamp` and `X-Tunestone-Signature`; a
server checks them with `verify`. Each attempt is signed anew, so that a retry after a long wait is
not taken for a replay. Asked again, with exponential backoff and jitter: lost connections, 429 and
5xx, `Retry-After` respected up to a minute. Not asked again: other answers, and a server that took
too long, which asking again only makes slower. Then all samples of the request carry the error:
other than a handler of ours, a server is not asked in smaller pieces. Left out: redirects (a signed
body should not wander off), proxies from the environment, cookies.
"""

import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import urllib3
from pydantic import Field, field_validator, model_validator
from urllib3.exceptions import HTTPError, ReadTimeoutError

from tunestone.errors import RewardError
from tunestone.rewards.aws_lambda.contract import (
    Reading,
    ResponseError,
    build_event,
    collect_metrics,
    describe_json,
    name_samples,
    parse_response,
    read_number,
    read_results,
)
from tunestone.rewards.spec import Context, Spec, failed
from tunestone.types import Grade, GradeFlag, Sample

TIMESTAMP_HEADER = "X-Tunestone-Timestamp"
SIGNATURE_HEADER = "X-Tunestone-Signature"
ANSWER_BYTES = 16 * 2**20
"""Largest answer that is read."""
_CONNECT_SECONDS = 10.0
_LONGEST_WAIT_SECONDS = 60
_CHUNK_BYTES = 1 << 16
_SHOWN_BYTES = 300


class Http(Spec):
    """An HTTP endpoint as the reward."""

    type: Literal["http"] = "http"
    url: str
    """http:// or https://, without a password in it."""
    secret_env: str = ""
    """Name of the environment variable with the shared secret; empty: requests are not signed."""
    format: Literal["tunestone", "lambda"] = "tunestone"
    """Shape of body and answer: ours, or those of a Bedrock reward Lambda."""
    wrap_reference_answer: bool = False
    """As for a Lambda; only with `format = "lambda"`."""
    timeout_seconds: float = Field(default=60.0, ge=1, le=900)
    """Longest time until one request is answered."""
    retries: int = Field(default=3, ge=0, le=10)
    """How often a request is sent again after it failed on the wire."""
    backoff_seconds: float = Field(default=0.5, gt=0, le=60)
    """The second retry waits twice this, the third four times, each up to this much longer by
    chance and a minute at most; the first one does not wait."""
    batch_size: int = Field(default=64, ge=1, le=10_000)
    """Most samples of one request."""
    concurrency: int = Field(default=12, ge=1, le=1_000)
    """Most requests at once."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{value!r} is not an address; write https://host/path")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a password in the address ends up in logs; use `secret_env`")
        return value

    @model_validator(mode="after")
    def _check_wrapping(self) -> Self:
        if self.wrap_reference_answer and self.format != "lambda":
            raise ValueError('`wrap_reference_answer` does nothing without `format = "lambda"`')
        return self

    def open(self, context: Context, stack: ExitStack) -> "HttpGrader":
        """The grader, with its connections. Raises RewardError when the secret is not set."""
        secret = os.environ.get(self.secret_env, "") if self.secret_env else ""
        if self.secret_env and not secret:
            raise RewardError(
                f"the environment variable {self.secret_env}, which should hold the secret of "
                f"{self.url.partition('?')[0]}, is not set.",
                remedy=f"export {self.secret_env}=..., or leave `secret_env` out.",
            )
        pool = urllib3.PoolManager(maxsize=self.concurrency, block=True)
        stack.callback(pool.clear)
        threads = stack.enter_context(ThreadPoolExecutor(max_workers=self.concurrency))
        return HttpGrader(self, pool, threads, secret=secret)


def sign(secret: str, body: bytes, *, timestamp: str) -> str:
    """The signature header: `v1=` and the HMAC-SHA256 of `timestamp.body` in hexadecimal."""
    message = timestamp.encode() + b"." + body
    return "v1=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def verify(
    secret: str,
    body: bytes,
    *,
    timestamp: str,
    signature: str,
    max_age_seconds: float = 300.0,
    now: float | None = None,
) -> bool:
    """Whether a request is from someone with the secret and not old; for the user's server.

    `timestamp` and `signature` are the two headers' values, `body` the bytes as received. Compares
    in constant time. `now` is in seconds since 1970, the clock by default.
    """
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 15:
        return False
    age = (time.time() if now is None else now) - int(timestamp)
    expected = sign(secret, body, timestamp=timestamp)
    same = hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))
    return same and abs(age) <= max_age_seconds


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came of a request: a body, or an error."""

    body: bytes = b""
    error: str = ""
    flag: GradeFlag = "unresponsive_reward_error"
    response: urllib3.BaseHTTPResponse | None = None
    fault: HTTPError | None = None
    may_pass_later: bool = False
    """Whether sending the same again makes sense."""
    attempts: int = 1


class HttpGrader:
    """Grades by HTTP requests, batch by batch, several at once.

    `seconds` of a grade is the wall time of its batch's request, waits and retries included.
    """

    def __init__(
        self, spec: Http, pool: urllib3.PoolManager, threads: Executor, *, secret: str = ""
    ) -> None:
        self._spec = spec
        self._pool = pool
        self._threads = threads
        self._secret = secret
        self._place = spec.url.partition("?")[0]  # for errors; a query may hold a key
        self._retry = urllib3.Retry(
            total=spec.retries,
            allowed_methods=None,  # POST too: grading the same samples twice changes nothing
            status_forcelist={429, *range(500, 600)},
            backoff_factor=spec.backoff_seconds,
            backoff_jitter=spec.backoff_seconds,
            backoff_max=_LONGEST_WAIT_SECONDS,
            retry_after_max=_LONGEST_WAIT_SECONDS,
        )

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample, in order. Never raises for a bad completion."""
        ids = name_samples(samples)
        size = self._spec.batch_size
        starts = range(0, len(samples), size)
        batches = [(samples[i : i + size], ids[i : i + size]) for i in starts]
        return [
            grade
            for grades in self._threads.map(lambda batch: self._grade_batch(*batch), batches)
            for grade in grades
        ]

    def _grade_batch(self, samples: Sequence[Sample], ids: Sequence[str]) -> list[Grade]:
        start = time.perf_counter()
        answer = self._exchange(self._encode(samples, ids))
        if answer.error:
            grades = [failed(answer.error, answer.flag)] * len(ids)
        else:
            try:
                reading = self._decode(answer.body, ids)
                reading.warn_of_strays()
                grades = reading.grades
            except ResponseError as error:
                grades = [failed(f"{self._place}: {error}", "other_error")] * len(ids)
        seconds = time.perf_counter() - start
        return [replace(grade, seconds=seconds, attempts=answer.attempts) for grade in grades]

    def _encode(self, samples: Sequence[Sample], ids: Sequence[str]) -> bytes:
        wrap = self._spec.wrap_reference_answer
        body: Any = (
            build_event(samples, ids, wrap_reference_answer=wrap)
            if self._spec.format == "lambda"
            else {"samples": [_build_item(s, key) for s, key in zip(samples, ids, strict=True)]}
        )
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")

    def _decode(self, body: bytes, ids: Sequence[str]) -> Reading:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ResponseError(f"the answer is not JSON: {_show(body)!r}") from error
        if self._spec.format == "lambda":
            return parse_response(value, ids)
        if not isinstance(value, dict) or "grades" not in value:
            raise ResponseError(f'expected {{"grades": [...]}}, got {describe_json(value)}')
        return read_results(value["grades"], ids, _read_grade)

    def _exchange(self, body: bytes) -> _Reply:
        """Send it until it is answered for good, or the retries are used up."""
        retry, attempts = self._retry, 1
        while (reply := self._attempt(body)).may_pass_later:
            try:
                retry = retry.increment(
                    "POST", self._place, response=reply.response, error=reply.fault
                )
                retry.sleep(reply.response)
            except HTTPError:  # that was the last one, or its Retry-After is no time
                break
            attempts += 1
        return replace(reply, attempts=attempts)

    def _attempt(self, body: bytes) -> _Reply:
        try:
            response = self._post(body)
            text = _receive(response, within=self._spec.timeout_seconds)
        except (ReadTimeoutError, TimeoutError):
            limit = self._spec.timeout_seconds
            return _Reply(error=f"{self._place} took longer than {limit:g} s")
        except ResponseError as error:
            return _Reply(error=f"{self._place}: {error}", flag="other_error")
        except HTTPError as fault:
            reason = f"{self._place}: {type(fault).__name__}: {fault}"
            return _Reply(error=reason, fault=fault, may_pass_later=True)
        if 200 <= response.status < 300:
            return _Reply(text)
        may_pass_later = self._retry.is_retry("POST", response.status)
        return _Reply(
            error=f"{self._place}: {_describe_status(response, text)}",
            flag="unresponsive_reward_error" if may_pass_later else "other_error",
            response=response,
            may_pass_later=may_pass_later,
        )

    def _post(self, body: bytes) -> urllib3.BaseHTTPResponse:
        """One attempt, its answer not yet read."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._secret:
            now = str(int(time.time()))
            headers[TIMESTAMP_HEADER] = now
            headers[SIGNATURE_HEADER] = sign(self._secret, body, timestamp=now)
        limit = self._spec.timeout_seconds
        return self._pool.request(
            "POST",
            self._spec.url,
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, limit), read=limit),
            retries=False,  # ours, with a signature each; this also leaves redirects alone
            preload_content=False,
        )


def _receive(response: urllib3.BaseHTTPResponse, *, within: float) -> bytes:
    """The whole body. Raises ResponseError when it is too large, TimeoutError when it drips."""
    end = time.monotonic() + within
    parts, size = [], 0
    try:
        # Nothing is unpacked: no compression was offered, and a bomb should stay one.
        while part := response.read1(_CHUNK_BYTES, decode_content=False):
            parts.append(part)
            size += len(part)
            if size > ANSWER_BYTES:
                raise ResponseError(f"the answer is larger than {ANSWER_BYTES // 2**20} MiB")
            if time.monotonic() > end:
                raise TimeoutError
    except BaseException:
        response.close()  # the rest of it is still on that connection
        raise
    response.release_conn()
    return b"".join(parts)


def _describe_status(response: urllib3.BaseHTTPResponse, body: bytes) -> str:
    if 300 <= response.status < 400:
        target = response.headers.get("Location", "nowhere")
        return f"HTTP {response.status} to {target}; redirects are not followed, name it in `url`"
    return f"HTTP {response.status}: {_show(body)}".rstrip(": ")


def _show(body: bytes) -> str:
    return body[:_SHOWN_BYTES].decode("utf-8", "replace").strip()


def _build_item(sample: Sample, key: str) -> dict[str, Any]:
    row = {**sample.prompt.row, "id": sample.prompt.id}
    if sample.prompt.tools:
        row["tools"] = [dict(tool) for tool in sample.prompt.tools]
    messages = [dict(message) for message in sample.prompt.messages]
    return {"id": key, "messages": messages, "completion": sample.text, "row": row}


def _read_grade(result: Mapping[str, Any]) -> Grade:
    if result.get("error"):
        return failed(str(result["error"]), "other_error")
    if "reward" not in result:
        raise ResponseError(f"no reward, only {', '.join(map(str, result))}")
    reward = read_number(result["reward"], "reward")
    named = result.get("metrics") or {}
    pairs = named.items() if isinstance(named, Mapping) else [(None, None)]
    metrics, flags = collect_metrics(pairs)
    return Grade(reward=reward, metrics=metrics, flags=flags)
