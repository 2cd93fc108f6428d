"""What a form can tell of rows before a job is made: the first ones, the first fault, the check.

The check runs in a process of its own, as the engine and the trainers do: it needs the model's
tokenizer and so torch, which the server does not import, and a search for repeats in many rows
would hold up everybody else. It loads no weights, draws nothing and runs no reward, so it takes
seconds; what completions would show is left to `tunestone check`.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.files import find_file, missing
from tunestone.api.services import Services
from tunestone.errors import DataError, WorldError
from tunestone.jobs.intake import count_rows
from tunestone.pages.app import Data
from tunestone.rows import Place, parse_object

FIRST_ROWS = 5
"""Rows that are shown, and that a grader is tried on."""
_SECONDS = 120.0
_PARAMS = {
    "config_error": "tunestone",
    "model_error": "model",
    "download_error": "model",
    "reward_error": "method.reinforcement.grader",
}
"""Code of an error of the check -> which part of a job it is about."""


def preview(services: Services, file_id: str) -> Data:
    """The first rows of an uploaded file, how many there are, and what is wrong with the first bad
    one. Raises OpenAIError when there is no such file."""
    with services.store.session() as session:
        file = find_file(session, file_id)
    path = services.folder / file.path
    try:
        rows, unusable, fault = count_rows(path)
    except FileNotFoundError:  # deleted a moment ago
        raise missing(file_id) from None
    message = str(fault).replace(str(path), file.filename) if fault else ""
    return {
        "id": file.id,
        "filename": file.filename,
        "rows": rows,
        "unusable": unusable,
        "fault": {"message": message, "line": fault.line} if fault else None,
        "first": _first_rows(path),
    }


def _first_rows(path: Path) -> list[Data]:
    """Those before the first that is no object."""
    found: list[Data] = []
    with contextlib.suppress(DataError), path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            text = raw.decode("utf-8-sig", "replace")
            if text.strip():
                found.append(parse_object(text, Place(str(path), line), first=not found))
            if len(found) == FIRST_ROWS:
                break
    return found


@final
class RowCheck:
    """Looks at the rows of jobs that are still to be made, one after the other."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def check(
        self, settings: Data, reward: Mapping[str, Any] | None, names: Mapping[str, str]
    ) -> Data:
        """Findings, the worst first, and recommended settings.

        `settings` are those of the run; `names` says what the client calls its files, by `data`
        and `validation`. Raises OpenAIError for what is wrong with them, WorldError when the check
        takes too long.
        """
        task = json.dumps({"settings": settings, "reward": reward})
        async with self._turn:
            answer: Data = json.loads(await _run(task))
        if "error" in answer:
            raise _refusal(answer["error"], settings, names)
        return _renamed(answer, settings, names)


async def _run(task: str) -> str:
    """The answer of a check in a process of its own. Raises WorldError, or RuntimeError."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tunestone.check"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            answer, said = await process.communicate(task.encode())
    except TimeoutError:
        raise WorldError(
            f"The check was ended after {_SECONDS:.0f} seconds.",
            remedy="Try again, or check fewer rows.",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the check failed:\n{said.decode('utf-8', 'replace')[-4000:]}")
    return answer.decode()


def _refusal(error: Data, settings: Data, names: Mapping[str, str]) -> OpenAIError:
    """The error of a check in the API's words."""
    param = _PARAMS.get(error["code"])
    if error["code"] == "data_error":
        validation = settings.get("validation")
        is_validation = bool(validation) and error["message"].startswith(f"{validation}:")
        param = "validation_file" if is_validation else "training_file"
    told = _renamed(error, settings, names)
    return OpenAIError(
        503 if error["again"] else 400,
        f"{told['message']} {told['remedy']}".strip(),
        type="server_error" if error["again"] else "invalid_request_error",
        param=param,
        code=error["code"],
    )


def _renamed(value: Data, settings: Data, names: Mapping[str, str]) -> Data:
    """With the client's names in place of the server's paths."""
    text = json.dumps(value)
    for key, name in names.items():
        text = text.replace(_inside_json(settings[key]), _inside_json(name))
    found: Data = json.loads(text)
    return found


def _inside_json(text: str) -> str:
    return json.dumps(text)[1:-1]
