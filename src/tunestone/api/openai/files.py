"""Files: uploads that jobs train on, and files that jobs wrote.

A file is a row and a file of the same id under `files/` in the data folder; its name, which the
client chose, is only shown. It is flushed and renamed before its row is committed, and the answer
comes after that: what was acknowledged is there after a power cut. What a crash leaves of an upload
is removed by `sweep` when the server starts. It leaves whole files without a row alone, for it may
be the database that is the wrong one.
"""

import json
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from tunestone.api.http import Call, Route
from tunestone.api.openai.bodies import unix
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.paging import page, read_choice, read_limit
from tunestone.api.openai.uploads import Upload, receive_form
from tunestone.api.services import Services
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import File
from tunestone.runlog import flush, storage_errors

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""What files may be uploaded for; jobs read those for `fine-tune`."""
_LEAST_SECONDS, _MOST_SECONDS = 3600, 2_592_000
_PARTIAL = ".partial"
_CHUNK_BYTES = 2**16


async def create(call: Call) -> Response:
    """`POST /files`."""
    services, file_id = call.services, f"file-{new_id()}{new_id()}"
    partial = folder_of(services) / f"{file_id}{_PARTIAL}"
    try:
        upload = await receive_form(
            call.request, partial, most_bytes=services.settings.max_upload_bytes
        )
        file = await run_in_threadpool(_keep, services, file_id, partial, upload)
    finally:
        partial.unlink(missing_ok=True)
    return JSONResponse(render(file))


async def list_files(call: Call) -> Response:
    """`GET /files`."""
    limit = read_limit(call.request, default=10_000, most=10_000)
    ascending = read_choice(call.request, "order", ("desc", "asc")) == "asc"
    query = call.request.query_params
    rows = await run_in_threadpool(
        _list, call.services, query.get("after"), query.get("purpose"), ascending, limit
    )
    return JSONResponse(page(rows, limit, render))


async def retrieve(call: Call) -> Response:
    """`GET /files/{file_id}`."""
    return JSONResponse(render(await run_in_threadpool(_find, call)))


async def delete(call: Call) -> Response:
    """`DELETE /files/{file_id}`. A job that has begun has its own copy."""
    services, file_id = call.services, call.path["file_id"]

    def forget() -> None:
        with services.store.session() as session:
            file = find_file(session, file_id)
            session.delete(file)
        (services.folder / file.path).unlink(missing_ok=True)

    await run_in_threadpool(forget)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


async def content(call: Call) -> Response:
    """`GET /files/{file_id}/content`: the bytes as they were uploaded."""
    file = await run_in_threadpool(_find, call)
    try:
        opened = await anyio.open_file(call.services.folder / file.path, "rb")
    except FileNotFoundError:  # deleted a moment ago
        raise missing(file.id) from None

    async def stream() -> AsyncIterator[bytes]:
        async with opened:
            while chunk := await opened.read(_CHUNK_BYTES):
                yield chunk

    headers = {"Content-Length": str(file.bytes)}
    return StreamingResponse(stream(), media_type="application/octet-stream", headers=headers)


def render(file: File) -> dict[str, Any]:
    """A FileObject. Every file is processed: what is in it is checked by the job that uses it."""
    shown = {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": unix(file.created_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
    return shown if file.expires_at is None else {**shown, "expires_at": unix(file.expires_at)}


def _find(call: Call) -> File:
    with call.services.store.session() as session:
        return find_file(session, call.path["file_id"])


def find_file(session: Session, file_id: str) -> File:
    """The row of a file. Raises OpenAIError when there is none, or its time is over."""
    file = session.get(File, file_id)
    if file is None or (file.expires_at is not None and file.expires_at <= now()):
        raise missing(file_id)
    return file


def missing(file_id: str) -> OpenAIError:
    """What is said of a file that is not there."""
    return OpenAIError(404, f"No such File object: {file_id}", param="id")


def folder_of(services: Services) -> Path:
    """Where the files lie."""
    folder = services.folder / "files"
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    return folder


def sweep(services: Services) -> None:
    """Remove unfinished uploads and expired files; before any request is answered."""
    with services.store.session() as session:
        expired = list(session.scalars(select(File).where(File.expires_at <= now())))
        for file in expired:
            session.delete(file)
    leftovers = folder_of(services).glob(f"*{_PARTIAL}")
    for path in (*leftovers, *(services.folder / file.path for file in expired)):
        path.unlink(missing_ok=True)


def _keep(services: Services, file_id: str, partial: Path, upload: Upload) -> File:
    """Give the uploaded file its place and row."""
    for name in upload.fields:
        if name != "purpose" and not name.startswith("expires_after"):
            raise OpenAIError(400, f"Unknown parameter: {name!r}.", param=name)
    moment = now()
    file = File(
        id=file_id,
        filename=clean_name(upload.filename or ""),
        purpose=_read_purpose(upload),
        bytes=upload.bytes,
        sha256=upload.sha256,
        path=f"files/{file_id}",
        created_at=moment,
        expires_at=_read_expiry(upload.fields, moment),
    )
    if not upload.bytes:
        raise OpenAIError(400, "The uploaded file is empty.", param="file", code="empty_file")
    place = services.folder / file.path
    with storage_errors(place):
        partial.rename(place)
        flush(place.parent)  # the row must not be older than the name it speaks of
    with services.store.session() as session:
        session.add(file)
    return file


def _list(
    services: Services, after: str | None, purpose: str | None, ascending: bool, limit: int
) -> list[File]:
    with services.store.session() as session:
        query = select(File).where(or_(File.expires_at.is_(None), File.expires_at > now()))
        if purpose is not None:
            query = query.where(File.purpose == purpose)
        if after is not None:
            last = find_file(session, after)
            beyond = (
                File.created_at > last.created_at
                if ascending
                else (File.created_at < last.created_at)
            )
            later_id = File.id > last.id if ascending else File.id < last.id
            query = query.where(or_(beyond, and_(File.created_at == last.created_at, later_id)))
        order = (
            (File.created_at, File.id) if ascending else (File.created_at.desc(), File.id.desc())
        )
        return list(session.scalars(query.order_by(*order).limit(limit + 1)))


def clean_name(name: str) -> str:
    """A file's name without folders and unprintable characters, for showing only."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(c for c in last if c.isprintable())[:255] or "upload"


def _read_purpose(upload: Upload) -> str:
    purpose = upload.fields.get("purpose")
    if purpose is None:
        raise OpenAIError(400, "Missing required parameter: 'purpose'.", param="purpose")
    if purpose not in PURPOSES:
        raise OpenAIError(
            400,
            f"Invalid 'purpose': {purpose!r} is not one of {', '.join(map(repr, PURPOSES))}.",
            param="purpose",
        )
    return purpose


def _read_expiry(fields: dict[str, str], moment: datetime) -> datetime | None:
    """When the file is to vanish, from `expires_after[anchor]` and `expires_after[seconds]`."""
    members = {
        key.removeprefix("expires_after[").removesuffix("]"): value
        for key, value in fields.items()
        if key.startswith("expires_after[")
    }
    if "expires_after" in fields:
        members = _read_json_expiry(fields["expires_after"])
    if not members:
        return None
    if members.get("anchor") != "created_at":
        raise OpenAIError(
            400, "Invalid 'expires_after.anchor': it must be 'created_at'.", param="expires_after"
        )
    seconds = str(members.get("seconds", ""))
    if not re.fullmatch(r"[0-9]{1,9}", seconds) or not (
        _LEAST_SECONDS <= int(seconds) <= _MOST_SECONDS
    ):
        raise OpenAIError(
            400,
            f"Invalid 'expires_after.seconds': {seconds!r} is not an integer from {_LEAST_SECONDS} "
            f"to {_MOST_SECONDS}.",
            param="expires_after",
        )
    return moment + timedelta(seconds=int(seconds))


def _read_json_expiry(text: str) -> dict[str, Any]:
    try:
        members = json.loads(text)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise OpenAIError(
            400, "Invalid 'expires_after': it must be an object.", param="expires_after"
        )
    return members


ROUTES = (
    Route("openai", "files.create", "POST", "/files", create, "write", streams_upload=True),
    Route("openai", "files.list", "GET", "/files", list_files),
    Route("openai", "files.retrieve", "GET", "/files/{file_id}", retrieve),
    Route("openai", "files.delete", "DELETE", "/files/{file_id}", delete, "write"),
    Route("openai", "files.content", "GET", "/files/{file_id}/content", content),
)
