"""Runs deployed functions in the sandbox, and says what became of it as Lambda does.

A function that was called stays loaded until it is changed, or nobody called it for ten minutes.
"""

import base64
import json
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunestone.errors import RewardError
from tunestone.jobs.tables import Function
from tunestone.rewards.aws_lambda.package import open_package
from tunestone.rewards.sandbox import Limits, Outcome, Program, Sandbox, choose_mechanism

ANSWER_BYTES = 6_291_556
"""Longest event and longest answer of a synchronous call, as on Lambda."""
_OUTPUT_KIB = 24 * 1024
_IDLE_SECONDS = 600.0
_MOST_LOADED = 16
_LOG_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a call."""

    payload: bytes
    log: str
    """Its end, with Lambda's lines around it."""
    failed: bool = False


@dataclass(slots=True)
class _Loaded:
    sandbox: Sandbox
    stack: ExitStack
    used: float = 0.0
    calls: int = 0
    """How many are under way."""


@dataclass(slots=True)
class Runner:
    """All functions of one server that are loaded. Blocks; safe for several threads."""

    folder: Path
    sandbox: str
    """What confines them; see the server's settings."""
    _loaded: dict[str, _Loaded] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, row: Function, event: Any, environment: Mapping[str, str]) -> Result:
        """Run the function on an event. Raises SandboxError when nothing can confine it."""
        started, request_id = time.monotonic(), str(uuid.uuid4())
        key = f"{row.name} {row.settings['RevisionId']} {sorted(environment.items())}"
        try:
            loaded = self._take(key, row, environment)
        except RewardError as error:
            outcome = Outcome(value=_cannot_load(row, error))
        else:
            try:
                outcome = loaded.sandbox.call([event])[0]
            finally:
                self._give_back(loaded)
        report = _report(outcome, row, request_id)
        if not report["loaded"]:
            self._forget(key)  # it may load the next time
        payload = report["payload"].encode()
        if len(payload) > ANSWER_BYTES:
            report = _failure(
                f"Response payload size exceeded maximum allowed payload size ({ANSWER_BYTES} "
                "bytes).",
                "Function.ResponseSizeTooLarge",
            )
            payload = report["payload"].encode()
        seconds = time.monotonic() - started
        return Result(payload, _log(report["log"], request_id, seconds, row), report["failed"])

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            for key in list(self._loaded):
                self._loaded.pop(key).stack.close()

    def _take(self, key: str, row: Function, environment: Mapping[str, str]) -> _Loaded:
        with self._lock:
            self._end_idle()
            loaded = self._loaded.get(key)
        if loaded is None:
            fresh = self._load(row, environment)
            with self._lock:
                loaded = self._loaded.setdefault(key, fresh)
            if loaded is not fresh:
                fresh.stack.close()
        with self._lock:
            loaded.calls += 1
        return loaded

    def _give_back(self, loaded: _Loaded) -> None:
        with self._lock:
            loaded.calls -= 1
            loaded.used = time.monotonic()

    def _end_idle(self) -> None:
        free = sorted(
            (loaded.used, key) for key, loaded in self._loaded.items() if not loaded.calls
        )
        excess = len(self._loaded) - _MOST_LOADED + 1
        oldest = time.monotonic() - _IDLE_SECONDS
        for place, (used, key) in enumerate(free):
            if place < excess or used < oldest:
                self._loaded.pop(key).stack.close()

    def _forget(self, key: str) -> None:
        with self._lock:
            loaded = self._loaded.get(key)
            if loaded is not None and not loaded.calls:
                self._loaded.pop(key).stack.close()

    def _load(self, row: Function, environment: Mapping[str, str]) -> _Loaded:
        settings = row.settings
        with ExitStack() as stack:
            package = open_package(self.folder / row.path, settings["Handler"], stack)
            setup = {
                "root": str(package.root),
                "module": package.module,
                "function": package.function,
                "source": row.name,
                "timeout_seconds": settings["Timeout"],
                "memory_mib": settings["MemorySize"],
                "arn": row.name,
                "variables": {
                    **environment,
                    "AWS_REGION": row.name.split(":")[3],
                    **settings.get("Environment", {}),
                },
            }
            loader = "tunestone.rewards.aws_lambda.invocation:load_program"
            limits = Limits(
                seconds=settings["Timeout"],
                memory_mib=settings["MemorySize"],
                output_kib=_OUTPUT_KIB,
                network=settings["network"],
            )
            mechanism = choose_mechanism(self.sandbox)
            program = Program(loader, setup, readable=(package.root,))
            sandbox = stack.enter_context(Sandbox(program, limits, mechanism))
            return _Loaded(sandbox, stack.pop_all(), time.monotonic())


def _report(outcome: Outcome, row: Function, request_id: str) -> dict[str, Any]:
    """What the sandbox says, as `rewards/aws_lambda/invocation.py` would have said it."""
    if not outcome.kind:
        report: dict[str, Any] = outcome.value
        return report
    if outcome.kind == "timeout":
        message = f"Task timed out after {row.settings['Timeout']:.2f} seconds"
        kind = "Sandbox.Timedout"
    elif outcome.kind == "output":
        message, kind = outcome.error, "Function.ResponseSizeTooLarge"
    elif outcome.kind == "memory":
        message, kind = f"Runtime exited: {outcome.error}", "Runtime.OutOfMemory"
    else:
        message, kind = f"Runtime exited: {outcome.error}", "Runtime.ExitError"
    return _failure(f"RequestId: {request_id} Error: {message}", kind, log=outcome.printed)


def _cannot_load(row: Function, error: RewardError) -> dict[str, Any]:
    module = row.settings["Handler"].rpartition(".")[0]
    message = f"Unable to import module '{module}': {error}"
    return {**_failure(message, "Runtime.ImportModuleError"), "loaded": False}


def _failure(message: str, kind: str, *, log: str = "") -> dict[str, Any]:
    payload = json.dumps({"errorMessage": message, "errorType": kind})
    return {"payload": payload, "failed": True, "loaded": True, "log": log}


def _log(printed: str, request_id: str, seconds: float, row: Function) -> str:
    duration = f"{seconds * 1000:.2f} ms"
    end = f"END RequestId: {request_id}\nREPORT RequestId: {request_id}\tDuration: {duration}"
    end += f"\tMemory Size: {row.settings['MemorySize']} MB\n"
    start = f"START RequestId: {request_id} Version: $LATEST\n"
    return start + (printed.rstrip() + "\n" if printed.strip() else "") + end


def encode_log(log: str) -> str:
    """Its last 4 kB in base64, for the header."""
    return base64.b64encode(log.encode()[-_LOG_BYTES:]).decode()
