"""Checkpoint permissions: which projects a checkpoint is shared with.

They are kept and shown. This server has no projects, so nobody gains or loses anything by them.
"""

from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunestone.api.http import Call, Route
from tunestone.api.openai.bodies import parse, read_object, unix
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.paging import page, read_choice, read_limit
from tunestone.api.openai.schemas import CreatePermissions
from tunestone.errors import UnknownModelError
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Model, Permission


async def create(call: Call) -> Response:
    """`POST .../permissions`: one that is there already is given again."""
    body = parse(await read_object(call.request), CreatePermissions)
    projects = list(dict.fromkeys(body.project_ids))

    def share() -> list[Permission]:
        with call.services.store.session() as session:
            checkpoint = _find_checkpoint(session, call)
            query = select(Permission).where(Permission.checkpoint == checkpoint)
            known = {permission.project_id: permission for permission in session.scalars(query)}
            for project in projects:
                if project not in known:
                    known[project] = Permission(
                        id=f"cp_{new_id()}{new_id()}",
                        checkpoint=checkpoint,
                        project_id=project,
                        created_at=now(),
                    )
                    session.add(known[project])
            return [known[project] for project in projects]

    rows = await run_in_threadpool(share)
    return JSONResponse(page(rows, len(rows), _render))


async def list_permissions(call: Call) -> Response:
    """`GET .../permissions`, newest first unless asked otherwise."""
    limit = read_limit(call.request, default=10, most=1_000)
    ascending = read_choice(call.request, "order", ("descending", "ascending")) == "ascending"
    query = call.request.query_params
    after, project = query.get("after"), query.get("project_id")

    def find() -> list[Permission]:
        with call.services.store.session() as session:
            checkpoint = _find_checkpoint(session, call)
            found = select(Permission).where(Permission.checkpoint == checkpoint)
            if project is not None:
                found = found.where(Permission.project_id == project)
            moment, key = Permission.created_at, Permission.id
            if after is not None:
                last = _find(session, checkpoint, after)
                beyond = moment > last.created_at if ascending else moment < last.created_at
                later_id = key > last.id if ascending else key < last.id
                found = found.where(or_(beyond, and_(moment == last.created_at, later_id)))
            order = (moment, key) if ascending else (moment.desc(), key.desc())
            return list(session.scalars(found.order_by(*order).limit(limit + 1)))

    return JSONResponse(page(await run_in_threadpool(find), limit, _render))


async def delete(call: Call) -> Response:
    """`DELETE .../permissions/{permission_id}`."""

    def forget() -> str:
        with call.services.store.session() as session:
            permission = _find(session, _find_checkpoint(session, call), call.path["permission_id"])
            session.delete(permission)
            return permission.id

    deleted = await run_in_threadpool(forget)
    return JSONResponse({"id": deleted, "object": "checkpoint.permission", "deleted": True})


def _find_checkpoint(session: Session, call: Call) -> str:
    alias = call.path["checkpoint"]
    if session.scalar(select(Model.id).where(Model.alias == alias)) is None:
        raise UnknownModelError(f"There is no checkpoint '{alias}'.")
    return alias


def _find(session: Session, checkpoint: str, permission_id: str) -> Permission:
    permission = session.get(Permission, permission_id)
    if permission is None or permission.checkpoint != checkpoint:
        raise OpenAIError(
            404,
            f"There is no permission {permission_id} for '{checkpoint}'.",
            param="permission_id",
            code="not_found",
        )
    return permission


def _render(permission: Permission) -> dict[str, Any]:
    return {
        "id": permission.id,
        "object": "checkpoint.permission",
        "created_at": unix(permission.created_at),
        "project_id": permission.project_id,
    }


_PATH = "/fine_tuning/checkpoints/{checkpoint}/permissions"
_NAME = "fine_tuning.checkpoints.permissions"
ROUTES = (
    Route("openai", f"{_NAME}.create", "POST", _PATH, create, "admin", CreatePermissions),
    Route("openai", f"{_NAME}.retrieve", "GET", _PATH, list_permissions),
    Route("openai", f"{_NAME}.delete", "DELETE", f"{_PATH}/{{permission_id}}", delete, "admin"),
)
