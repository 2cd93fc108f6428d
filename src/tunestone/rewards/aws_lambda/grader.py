"""A reward in the shape of Amazon Bedrock's: a Lambda that scores a batch of samples at a time.

Three places for the same code, told apart by what the spec names: a handler file or a deployment
zip (`path`) runs in the sandbox of this machine; an ARN (`function`) is invoked on AWS. Event and
answer are those of `contract.py`, so a handler moves between them unchanged.

Samples go out in batches. A batch without a usable answer (the handler raised, died, took too long,
or returned nonsense) is asked again in about sqrt(n) pieces, and what fails then sample by sample,
so that one sample that breaks the handler costs no other its grade. We do not halve: 64 samples
would take six rounds, one after the other, where this takes two. The price is bounded: a sample is
asked about at most three times, and in each of the two further rounds at most `concurrency` pieces
of batches that ran out of time go out, so that time limits hold a step up about twice more at most;
other samples of such batches keep the error. A sample that fails alone carries its own traceback.

Lambda takes at most 6 MB of event; batches are cut to that size in both places, so that what works
here works there.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunestone.rewards.aws_lambda.contract import (
    ResponseError,
    build_event,
    name_samples,
    parse_response,
)
from tunestone.rewards.aws_lambda.package import open_package
from tunestone.rewards.aws_lambda.transport import (
    AwsTransport,
    Cause,
    Event,
    Invocation,
    SandboxTransport,
    Transport,
    connect_aws,
    encode_event,
    shorten,
)
from tunestone.rewards.sandbox import Limits, Program, Sandbox
from tunestone.rewards.spec import Context, Spec, failed
from tunestone.types import Grade, GradeFlag, Sample

EVENT_BYTES = 6 * 10**6
"""Largest event; Lambda's quota for a synchronous call is 6 MB."""
_OUTPUT_KIB = 24 * 1024
"""Room for Lambda's 6 MB of answer, and for the whole event in the log, which AWS's own samples
print at every call; both escaped, which makes some texts longer."""
_ARN = re.compile(
    r"arn:aws[a-z-]*:lambda:[a-z0-9-]+:[0-9]{12}:function:[A-Za-z0-9_-]+(:[A-Za-z0-9$_-]+)?"
)
_LOCAL_ONLY = ("handler", "memory_mib", "network", "environment", "variables")
_FLAGS: dict[Cause, GradeFlag] = {
    "code": "python_grader_runtime_error",
    "time": "unresponsive_reward_error",
    "wire": "python_grader_server_error",
}


class Lambda(Spec):
    """A Lambda handler as the reward. Name either `path` or `function`.

    Mantle's `{"type": "lambda", "lambda": {"function": ARN}}` is read too.
    """

    type: Literal["lambda"] = "lambda"
    path: str | None = None
    """Handler file (`.py`) or deployment package (`.zip`), to run on this machine."""
    function: str | None = Field(default=None, max_length=512)
    """ARN of a Lambda to invoke on AWS, with or without alias or version; it names the region."""
    handler: str = ""
    """`module.function` as in Lambda's settings, or only the function. Empty: `lambda_handler` of
    the file; of `lambda_function`, or else the only module, of a zip. Only with `path`."""
    endpoint_url: str | None = None
    """Where to send the call instead of AWS's own address. Only with `function`."""
    batch_size: int = Field(default=64, ge=1, le=10_000)
    """Most samples of one event."""
    concurrency: int = Field(default=12, ge=1, le=1_000)
    """Most events at once; with `path` this is the number of worker processes."""
    timeout_seconds: float = Field(default=300.0, ge=1, le=900)
    """Longest time of one event; Lambda allows 15 minutes."""
    memory_mib: int = Field(default=512, ge=128, le=10_240)
    """Memory of one call. Only with `path`."""
    wrap_reference_answer: bool = False
    """Send a string `reference_answer` as `{"text": string}` at the top level, as AWS's sample
    reward for open-weight models reads it."""
    network: bool = False
    """Let the handler open connections: for one that asks a judge. Only with `path`."""
    environment: tuple[str, ...] = ()
    """Names of environment variables handed on to the handler, such as AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL_BEDROCK_RUNTIME for a judge. Only with `path`."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the handler with their values, as in the Lambda's own settings. They
    are written into the run's config: no place for secrets. Only with `path`."""

    @model_validator(mode="before")
    @classmethod
    def _read_mantle(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "lambda" not in data:
            return data
        inner, outer = data["lambda"], {k: v for k, v in data.items() if k != "lambda"}
        if not isinstance(inner, dict) or set(inner) != {"function"} or "function" in outer:
            raise ValueError('`lambda` must be {"function": ARN}, and the only one to name it')
        return {**outer, **inner}

    @field_validator("function")
    @classmethod
    def _check_arn(cls, value: str | None) -> str | None:
        if value is not None and not _ARN.fullmatch(value):
            raise ValueError(
                f"{value!r} is not the ARN of a Lambda function; expected "
                "arn:aws:lambda:REGION:ACCOUNT:function:NAME, with or without :ALIAS"
            )
        return value

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if (self.path is None) == (self.function is None):
            raise ValueError("name either `path`, a handler here, or `function`, an ARN on AWS")
        astray = ("endpoint_url",) if self.path is not None else _LOCAL_ONLY
        place = "path" if self.path is not None else "function"
        for name in astray:
            if name in self.model_fields_set:
                raise ValueError(f"`{name}` does nothing with `{place}`; remove it")
        return self

    def open(self, context: Context, stack: ExitStack) -> "LambdaGrader":
        """The grader, with its workers or connections. Raises RewardError."""
        transport = self._open_aws(stack) if self.path is None else self._open(context, stack)
        return LambdaGrader(
            transport,
            batch_size=self.batch_size,
            concurrency=self.concurrency,
            wrap_reference_answer=self.wrap_reference_answer,
        )

    def files(self, context: Context) -> list[Path]:
        """The handler's file or zip; nothing for a function on AWS."""
        return [] if self.path is None else [context.folder / self.path]

    def _open(self, context: Context, stack: ExitStack) -> Transport:
        package = open_package(context.folder / str(self.path), self.handler, stack)
        program = Program(
            loader="tunestone.rewards.aws_lambda.program:load_program",
            setup={
                "root": str(package.root),
                "module": package.module,
                "function": package.function,
                "source": str(package.source),
                "timeout_seconds": self.timeout_seconds,
                "memory_mib": self.memory_mib,
                "variables": self.variables,
            },
            readable=(package.root,),
        )
        limits = Limits(
            seconds=self.timeout_seconds,
            memory_mib=self.memory_mib,
            output_kib=_OUTPUT_KIB,
            network=self.network,
            environment=self.environment,
        )
        sandbox = Sandbox(program, limits, context.mechanism, workers=self.concurrency)
        return SandboxTransport(stack.enter_context(sandbox), timeout_seconds=self.timeout_seconds)

    def _open_aws(self, stack: ExitStack) -> Transport:
        function = str(self.function)
        client = connect_aws(
            function,
            endpoint_url=self.endpoint_url,
            timeout_seconds=self.timeout_seconds,
            connections=self.concurrency,
        )
        stack.callback(client.close)
        threads = stack.enter_context(ThreadPoolExecutor(max_workers=self.concurrency))
        return AwsTransport(client, function, threads=threads, timeout_seconds=self.timeout_seconds)


class LambdaGrader:
    """Grades with a Lambda handler, batch by batch, over a transport.

    `seconds` of a grade is the wall time of the invocations its sample took part in, not divided by
    the size of the batch: it is how long that grade was waited for. `attempts` counts them, those
    on the wire included.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        batch_size: int,
        concurrency: int,
        wrap_reference_answer: bool = False,
    ) -> None:
        self._transport = transport
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._wrap = wrap_reference_answer

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample, in order. Never raises for a bad completion."""
        ids = name_samples(samples)
        event = build_event(samples, ids, wrap_reference_answer=self._wrap)
        grades = [_too_large(key) for key in ids]  # what no batch has room for keeps this
        batches = cut_batches(event, count=self._batch_size, size=EVENT_BYTES)
        failures = self._ask(batches, event, grades)
        failures = self._ask(self._divide(failures, singly=False), event, grades)
        self._ask(self._divide(failures, singly=True), event, grades)
        return grades

    def _ask(
        self, batches: Sequence[list[int]], event: Event, grades: list[Grade]
    ) -> list[tuple[list[int], Cause]]:
        """Send batches of places in the event, note their grades; those worth dividing."""
        if not batches:
            return []
        invocations = self._transport.invoke([[event[i] for i in batch] for batch in batches])
        failures: list[tuple[list[int], Cause]] = []
        for batch, invocation in zip(batches, invocations, strict=True):
            read, cause = _read(invocation, [event[i]["id"] for i in batch])
            for i, grade in zip(batch, read, strict=True):
                grades[i] = _add(grades[i], grade, invocation)
            if cause in ("code", "time") and len(batch) > 1:
                failures.append((batch, cause))
        return failures

    def _divide(
        self, failures: Sequence[tuple[list[int], Cause]], *, singly: bool
    ) -> list[list[int]]:
        pieces: list[list[int]] = []
        late = self._concurrency  # how many pieces that may run out of time again go out
        for batch, cause in failures:
            length = 1 if singly else isqrt(len(batch))
            cuts = [batch[start : start + length] for start in range(0, len(batch), length)]
            if cause == "time":
                cuts = cuts[:late]
                late -= len(cuts)
            pieces += cuts
        return pieces


def cut_batches(event: Event, *, count: int, size: int) -> list[list[int]]:
    """Places in the event, in order, in batches of at most `count` items and `size` bytes.

    An item that is larger by itself is in none of them.
    """
    batches: list[list[int]] = []
    room = 0
    for i, item in enumerate(event):
        bytes_needed = len(encode_event(item)) + 2  # the brackets, or comma and space before it
        if bytes_needed > size:
            continue
        if not batches or len(batches[-1]) == count or bytes_needed > room:
            batches.append([])
            room = size
        batches[-1].append(i)
        room -= bytes_needed
    return batches


def _read(invocation: Invocation, ids: Sequence[str]) -> tuple[list[Grade], Cause]:
    """A grade per id, and what went wrong with the invocation as a whole, if anything."""
    error, cause = invocation.error, invocation.cause
    if not cause:
        try:
            reading = parse_response(invocation.answer, ids)
        except ResponseError as fault:
            error, cause = shorten(str(fault)), "code"
        else:
            reading.warn_of_strays()
            return reading.grades, ""
    return [failed(error, _FLAGS[cause])] * len(ids), cause


def _add(before: Grade, grade: Grade, invocation: Invocation) -> Grade:
    return replace(
        grade,
        seconds=before.seconds + invocation.seconds,
        attempts=before.attempts + invocation.attempts,
    )


def _too_large(key: str) -> Grade:
    size = f"{EVENT_BYTES / 10**6:g} MB"
    error = f"the sample {key!r} alone is larger than the {size} that Lambda takes"
    return failed(error, "other_error", attempts=0)
