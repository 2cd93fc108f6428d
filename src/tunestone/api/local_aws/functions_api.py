"""Lambda's operations, as boto3 calls them: deploy, look at, change, delete and invoke functions.

Requests are checked along botocore's own model of Lambda. Beyond it: only Python runtimes, only
zips that are sent along or lie in S3, no layers, images, versions or aliases of their own; a name
with a version or alias is accepted and means the present code. Permissions are kept and echoed, and
nothing is refused for want of them.
"""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from botocore.model import OperationModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunestone.api.bedrock.shapes import Json, load_service, read_input, write_output
from tunestone.api.http import Call, Handler, Route
from tunestone.api.local_aws import deployment, permissions
from tunestone.api.local_aws.errors import UnknownOperationException
from tunestone.api.local_aws.invoke_api import invoke

Operation = Callable[[Call, Json], Mapping[str, Any]]

_OPERATIONS: Mapping[str, Operation] = {
    "CreateFunction": deployment.create_function,
    "GetFunction": deployment.get_function,
    "GetFunctionConfiguration": deployment.get_function_configuration,
    "ListFunctions": deployment.list_functions,
    "UpdateFunctionCode": deployment.update_function_code,
    "UpdateFunctionConfiguration": deployment.update_function_configuration,
    "DeleteFunction": deployment.delete_function,
    "AddPermission": permissions.add_permission,
    "GetPolicy": permissions.get_policy,
    "RemovePermission": permissions.remove_permission,
}
_DELETED = 204
"""Of DeleteFunction, as AWS answers; the model says 200."""


def _handler(name: str, operate: Operation) -> Handler:
    async def handle(call: Call) -> Response:
        _check_offered(call)
        model = _model(name)
        body = await call.request.body()
        given = read_input(model, call.path, call.request.query_params, body)
        answer = await run_in_threadpool(operate, call, given)
        status = _DELETED if name == "DeleteFunction" else model.http["responseCode"]
        headers = {"x-amzn-RequestId": str(uuid.uuid4())}
        if status == _DELETED:
            return Response(status_code=status, headers=headers)
        return JSONResponse(write_output(model, answer), status_code=status, headers=headers)

    return handle


async def _invoke(call: Call) -> Response:
    _check_offered(call)
    return await invoke(call)


def _check_offered(call: Call) -> None:
    if not call.services.settings.local_aws:
        raise UnknownOperationException(
            "Lambda is answered here only when the server is started with --local-aws."
        )


def _model(name: str) -> OperationModel:
    return load_service("lambda").operation_model(name)


def _route(name: str, handler: Handler) -> Route:
    http = _PATHS[name]
    reads = name.startswith(("Get", "List"))
    return Route("lambda", name, http[0], http[1], handler, scope="read" if reads else "write")


_BASE = "/2015-03-31/functions"
_ONE = f"{_BASE}/{{FunctionName}}"
_PATHS = {  # written out: the model of Lambda is large, and the server starts in two seconds
    "CreateFunction": ("POST", _BASE),
    "GetFunction": ("GET", _ONE),
    "GetFunctionConfiguration": ("GET", f"{_ONE}/configuration"),
    "ListFunctions": ("GET", _BASE),
    "UpdateFunctionCode": ("PUT", f"{_ONE}/code"),
    "UpdateFunctionConfiguration": ("PUT", f"{_ONE}/configuration"),
    "DeleteFunction": ("DELETE", _ONE),
    "AddPermission": ("POST", f"{_ONE}/policy"),
    "GetPolicy": ("GET", f"{_ONE}/policy"),
    "RemovePermission": ("DELETE", f"{_ONE}/policy/{{StatementId}}"),
    "Invoke": ("POST", f"{_ONE}/invocations"),
}
ROUTES: tuple[Route, ...] = (
    *(_route(name, _handler(name, operate)) for name, operate in _OPERATIONS.items()),
    _route("Invoke", _invoke),
)
"""Lambda's routes; they answer only with `local_aws`."""
