"""Lambda's Python runtime, the part of it a handler can notice; runs inside the sandbox.

`load_program` imports the handler's module once, as Lambda does at a cold start, with the package's
folder first on `sys.path` and Lambda's environment variables set; each call gives it the event and
a context. The result leaves as the text Lambda would send: JSON in which a Decimal is a number and
NaN is `NaN`; bytes as they are. Sets, dates, numpy arrays and the like are refused, as on Lambda.

Left out: extensions, layers, streaming of responses, `/tmp` shared between calls (each call starts
from a fresh fork), and Lambda's log format. Nothing but the standard library is imported here:
every call forks the process that did it.

Source: the behaviour of AWS's runtime interface client for Python.
"""

import decimal
import importlib
import inspect
import json
import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tunestone.errors import RewardError

_ACCOUNT, _REGION = "000000000000", "us-east-1"


class LambdaContext:
    """What a handler gets as its second argument, with the names and types of Lambda's."""

    def __init__(self, *, function_arn: str, timeout_seconds: float) -> None:
        """`timeout_seconds` counts from now."""
        self._deadline = time.monotonic() + timeout_seconds
        self.aws_request_id = str(uuid.uuid4())
        self.invoked_function_arn = function_arn
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]  # a string there
        self.log_group_name = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.identity = SimpleNamespace(cognito_identity_id=None, cognito_identity_pool_id=None)
        self.client_context = None
        self.tenant_id = None

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the call is ended; never negative."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))

    def log(self, message: Any) -> None:
        """Write to the log, which is stdout."""
        sys.stdout.write(str(message))


def load_program(setup: Mapping[str, Any]) -> Callable[[Any], str]:
    """The handler as a function from an event to the text of its answer.

    `setup`: `root` (folder), `module`, `function`, `source` (what people call the package),
    `timeout_seconds`, `memory_mib`; and, where the function was deployed with them, `variables`
    (its environment) and `arn`.
    Raises RewardError when there is no such handler, and whatever the module raises on import.
    """
    root, module, function = Path(setup["root"]), setup["module"], setup["function"]
    given_arn = setup.get("arn", "")
    name = given_arn.rpartition(":")[2] or module.replace(".", "-")
    _set_environment(setup, root=root, name=name)
    sys.path.insert(0, str(root))
    handler = _find_handler(root, module, function, source=setup["source"])
    region = os.environ["AWS_REGION"]
    arn = given_arn or f"arn:aws:lambda:{region}:{_ACCOUNT}:function:{name}"

    def call(event: Any) -> str:
        context = LambdaContext(function_arn=arn, timeout_seconds=setup["timeout_seconds"])
        return encode_result(handler(event, context))

    return call


def encode_result(result: Any) -> str:
    """The text Lambda makes of a handler's result. Raises TypeError when it is not JSON."""
    if isinstance(result, bytes):
        return result.decode()
    try:
        return json.dumps(result, default=_encode_decimal, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the handler's result cannot be sent as JSON: {error}") from error


def _set_environment(setup: Mapping[str, Any], *, root: Path, name: str) -> None:
    os.environ.update(setup.get("variables", {}))
    # A region that the user handed on wins: a judge's endpoint may depend on it.
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _REGION
    os.environ.update(
        {
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python3.{sys.version_info.minor}",
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "AWS_LAMBDA_FUNCTION_NAME": name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(setup["memory_mib"]),
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{os.getpid()}",
            "LAMBDA_TASK_ROOT": str(root),
            "_HANDLER": f"{setup['module']}.{setup['function']}",
        }
    )


def _find_handler(
    root: Path, module: str, function: str, *, source: str
) -> Callable[[Any, LambdaContext], Any]:
    loaded = importlib.import_module(module)
    file = getattr(loaded, "__file__", None)
    if file is None or not Path(file).resolve().is_relative_to(root.resolve()):
        raise RewardError(
            f"the handler's module {module} hides behind Python's own ({file or 'built in'}).",
            remedy="Rename the handler's file.",
        )
    found = getattr(loaded, function, None)
    if not callable(found):
        inside = Path(file).resolve().relative_to(root.resolve())  # of a zip, the root is temporary
        place = source if source.endswith(".py") else f"{source}: {inside}"
        functions = [key for key, value in vars(loaded).items() if inspect.isfunction(value)]
        raise RewardError(
            f"{place} has no function {function}; it has {', '.join(functions) or 'none'}.",
            remedy='Write lambda_handler(event, context), or set `handler = "module.function"`.',
        )
    if inspect.iscoroutinefunction(found):
        raise RewardError(
            f"the handler {module}.{function} is async, which Lambda does not run.",
            remedy="Write a plain function; it may use asyncio.run inside.",
        )
    handler: Callable[[Any, LambdaContext], Any] = found
    return handler


def _encode_decimal(value: Any) -> float:
    if isinstance(value, decimal.Decimal):
        return math.nan if value.is_nan() else float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
