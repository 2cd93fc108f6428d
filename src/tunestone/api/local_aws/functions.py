"""Deployed Lambda functions: rows of `functions`, and their packages in the data folder.

A package is named by its content (`DATA/functions/<sha256>.zip`) and never changed or removed: a
job that runs keeps the code it started with, whatever is deployed later.
"""

import ast
import base64
import hashlib
import io
import os
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunestone.api.local_aws.names import FunctionName
from tunestone.errors import RewardError, StorageError
from tunestone.jobs.store import now
from tunestone.jobs.tables import Function
from tunestone.rewards.aws_lambda.package import unpack

Json = dict[str, Any]

PACKAGES = "functions"
"""Folder of the packages below the data folder."""
DEFAULTS: Json = {"Description": "", "Timeout": 3, "MemorySize": 128}
"""Lambda's own."""
_NETWORK_MODULES = (
    *("boto3", "botocore", "aiobotocore", "aioboto3", "openai", "anthropic", "litellm"),
    *("langchain_aws", "langchain_openai", "socket", "ssl", "http.client", "urllib.request"),
    *("urllib3", "requests", "httpx", "aiohttp", "websockets", "smtplib", "ftplib"),
)
"""A handler that imports one of these talks to somebody: a judge, most likely."""
_LOOKED_AT_BYTES = 256 * 1024
"""Of source. Python takes a second for it at worst, in which the server does nothing else."""


def keep_package(folder: Path, data: bytes) -> Json:
    """Store a zip in the data folder; the members that describe it, with its `path`.

    Raises RewardError when it cannot be unpacked, StorageError when it cannot be written.
    """
    digest = hashlib.sha256(data)
    packages = folder / PACKAGES
    packages.mkdir(parents=True, exist_ok=True)
    path = packages / f"{digest.hexdigest()}.zip"
    with tempfile.TemporaryDirectory(prefix="tunestone-lambda-") as scratch:
        candidate = Path(scratch) / "package.zip"
        candidate.write_bytes(data)
        try:
            unpack(candidate, Path(scratch) / "unpacked")
        except RewardError as error:  # in words without our own path
            message = error.message.replace(f" {candidate}", "")
            raise RewardError(message, remedy=error.remedy) from error
    if not path.exists():
        _write(path, data)
    return {
        "path": str(path.relative_to(folder)),
        "CodeSha256": base64.b64encode(digest.digest()).decode(),
        "CodeSize": len(data),
        "network": _talks(data),
    }


def new_row(name: FunctionName, settings: Json, package: Json) -> Function:
    """A row of a function that is deployed for the first time."""
    moment = now()
    row = Function(name=name.arn, created_at=moment, settings={**DEFAULTS, **settings})
    put_package(row, package)
    return row


def put_package(row: Function, package: Json) -> None:
    """Give a function new code."""
    row.path, row.sha256 = package["path"], package["CodeSha256"]
    row.settings = {
        **row.settings,
        "CodeSize": package["CodeSize"],
        "network": package["network"],
    }
    touch(row)


def touch(row: Function) -> None:
    """A new revision."""
    row.settings = {**row.settings, "RevisionId": str(uuid.uuid4())}
    row.updated_at = now()


def configuration(row: Function) -> Json:
    """A function as Lambda shows it (FunctionConfiguration)."""
    settings = row.settings
    variables = settings.get("Environment")
    return {
        "FunctionName": row.name.rpartition(":")[2],
        "FunctionArn": row.name,
        "Runtime": settings["Runtime"],
        "Role": settings["Role"],
        "Handler": settings["Handler"],
        "CodeSize": settings["CodeSize"],
        "Description": settings["Description"],
        "Timeout": settings["Timeout"],
        "MemorySize": settings["MemorySize"],
        "LastModified": f"{row.updated_at:%Y-%m-%dT%H:%M:%S.000+0000}",
        "CodeSha256": row.sha256,
        "Version": "$LATEST",
        "Environment": {"Variables": variables} if variables else None,
        "TracingConfig": {"Mode": "PassThrough"},
        "RevisionId": settings["RevisionId"],
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "Architectures": settings.get("Architectures", ["x86_64"]),
        "EphemeralStorage": {"Size": settings.get("EphemeralStorage", 512)},
    }


def _talks(data: bytes) -> bool:
    """Whether any module of a package imports something that opens connections.

    A package of much source brings libraries along; nobody looks into it, and it may.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        modules = [entry for entry in archive.infolist() if entry.filename.endswith(".py")]
        if sum(entry.file_size for entry in modules) > _LOOKED_AT_BYTES:
            return True
        sources = [archive.read(entry) for entry in modules]
    names = {name for source in sources for name in _imports(source)}
    return any(
        name == known or name.startswith(f"{known}.")
        for name in names
        for known in _NETWORK_MODULES
    )


def _imports(source: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the call will say so
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: the package cannot be written: {error.strerror}.",
            remedy="Check that the data folder may be written to and has room.",
        ) from error
