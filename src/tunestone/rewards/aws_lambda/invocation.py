"""One call of a handler as Lambda reports it; runs inside the sandbox, on top of `program.py`.

Where `program.py` gives a grader the answer or an exception, this gives what a client of Lambda's
Invoke gets: the answer, or `errorMessage`, `errorType` and `stackTrace`, and the end of the log. A
handler that cannot be loaded is reported at each call, as Lambda does it.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunestone.errors import RewardError
from tunestone.rewards.aws_lambda import program

_LOG_BYTES = 4096
_TASK = "/var/task"
"""Where a package lies on Lambda."""

Report = dict[str, Any]
"""`payload` (text), `failed` (whether it reports an exception), `loaded`, `log` (text)."""


def load_program(setup: Mapping[str, Any]) -> Callable[[Any], Report]:
    """A function from an event to a report; `setup` is that of `program.load_program`."""
    try:
        call = program.load_program(setup)
    # The module is the user's and may raise anything on import; each call reports it.
    except Exception as error:  # noqa: BLE001
        payload = json.dumps(_describe_loading(error, setup))
        return lambda event: {"payload": payload, "failed": True, "loaded": False, "log": _log()}

    def answer(event: Any) -> Report:
        try:
            payload, failed = call(event), False
        except MemoryError:
            raise  # the worker knows the limit
        except Exception as error:  # noqa: BLE001 - the handler's own, whatever it is
            payload, failed = json.dumps(_describe(error, setup)), True
        return {"payload": payload, "failed": failed, "loaded": True, "log": _log()}

    return answer


def _describe(error: Exception, setup: Mapping[str, Any]) -> Report:
    """An exception as Lambda's runtime reports it, without the frames of ours above it."""
    own = str(Path(__file__).parent)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(own):
        trace = trace.tb_next
    frames = traceback.format_list(traceback.extract_tb(trace))
    return {
        "errorMessage": str(error),
        "errorType": type(error).__name__,
        "stackTrace": [frame.replace(setup["root"], _TASK) for frame in frames],
    }


def _describe_loading(error: Exception, setup: Mapping[str, Any]) -> Report:
    module, function = setup["module"], setup["function"]
    report = {**_describe(error, setup), "stackTrace": []}
    if isinstance(error, RewardError):
        message = f"Handler '{function}' missing on module '{module}': {error}"
        return {**report, "errorMessage": message, "errorType": "Runtime.HandlerNotFound"}
    if isinstance(error, SyntaxError):
        message = f"Syntax error in module '{module}': {error}"
        return {**report, "errorMessage": message, "errorType": "Runtime.UserCodeSyntaxError"}
    if isinstance(error, ImportError):
        message = f"Unable to import module '{module}': {error}"
        return {**report, "errorMessage": message, "errorType": "Runtime.ImportModuleError"}
    return _describe(error, setup)


def _log() -> str:
    """The end of what this call wrote; the worker has put a file in the place of stdout."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    size = os.fstat(1).st_size
    return os.pread(1, _LOG_BYTES, max(0, size - _LOG_BYTES)).decode("utf-8", "replace")
