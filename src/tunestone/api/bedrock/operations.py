"""From a function to a route: everything that all operations of the control plane have in common.

An operation is a plain function of the call and its checked members that gives the members of the
answer. Method, path, status and both shapes come from botocore's model, by the operation's name.
It runs in a thread, since it works with the database.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.model import OperationModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunestone.api.bedrock.errors import ConflictException, ValidationException
from tunestone.api.bedrock.shapes import Json, load_service, read_input, write_output
from tunestone.api.http import Call, Handler, Route, Scope


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with more than its members."""

    members: Mapping[str, Any] = field(default_factory=dict)
    model_note: str = ""
    """That something else is trained or answers than the model's name says."""
    note: str = ""
    """What an accepted request does not do here."""


Operation = Callable[[Call, Json], Reply | Mapping[str, Any]]


def route(name: str, operate: Operation, scope: Scope | None = None) -> Route:
    """The route of the operation that AWS calls `name`; without a scope, reading or writing."""
    return _route(name, _handler(load_service("bedrock").operation_model(name), operate), scope)


def refusal(name: str, reason: str) -> Route:
    """A route that says why an operation is not offered."""

    async def refuse(call: Call) -> Response:
        raise ValidationException(f"{name} is not offered by Tunestone: {reason}")

    return _route(name, refuse, None)


def _route(name: str, handler: Handler, scope: Scope | None) -> Route:
    http = load_service("bedrock").operation_model(name).http
    reads = name.startswith(("Get", "List"))
    return Route(
        dialect="bedrock",
        operation=name,
        method=http["method"],
        path=http["requestUri"],
        handler=handler,
        scope=scope or ("read" if reads else "write"),
    )


def _handler(model: OperationModel, operate: Operation) -> Handler:
    modelled = {shape.name for shape in model.error_shapes}

    async def handle(call: Call) -> Response:
        body = await call.request.body()
        given = read_input(model, call.path, call.request.query_params, body)
        try:
            answer = await run_in_threadpool(operate, call, given)
        except ConflictException as error:
            if "ConflictException" in modelled:
                raise
            raise ValidationException(error.message) from error
        return _respond(model, answer if isinstance(answer, Reply) else Reply(answer))

    return handle


def _respond(model: OperationModel, reply: Reply) -> Response:
    headers = {
        "x-tunestone-model-note": _in_ascii(reply.model_note),
        "x-tunestone-note": _in_ascii(reply.note),
    }
    return JSONResponse(
        write_output(model, reply.members),
        status_code=model.http["responseCode"],
        headers={name: value for name, value in headers.items() if value},
    )


def _in_ascii(text: str) -> str:
    return " ".join(text.split()).encode("ascii", "replace").decode()
