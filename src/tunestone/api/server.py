"""The server as a whole: opens its parts over one data folder, listens, serves, and ends in order.

Everything that can be wrong with folder, database, keys or port is said before the first request is
taken. A signal to end stops listening, lets running requests finish, then ends engine, trainers
(which keep their checkpoints) and notifier, and leaves with status 0.
"""

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import FrameType
from typing import final

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool

from tunestone.api import bedrock, bedrock_runtime, local_aws, openai
from tunestone.api.access.gate import is_loopback
from tunestone.api.access.keys import OWN_KEY, KeyRing
from tunestone.api.app import ErrorRenderer, build_app
from tunestone.api.bedrock.errors import render_error as render_bedrock
from tunestone.api.dashboard import build_dashboard
from tunestone.api.evaluations.runner import Evaluations
from tunestone.api.http import DialectName, Route
from tunestone.api.inference.client import EngineClient
from tunestone.api.local_aws.credentials import own_credentials
from tunestone.api.notifications import describers
from tunestone.api.openai.errors import render_error as render_openai
from tunestone.api.own_routes import Readiness
from tunestone.api.services import Services
from tunestone.errors import ConfigError, RunError
from tunestone.jobs.data_folder import holding, holding_database, open_folder, open_store
from tunestone.jobs.invocation_log import InvocationLog
from tunestone.jobs.names import BaseNames
from tunestone.jobs.notify import Notifier
from tunestone.jobs.objects import Objects
from tunestone.jobs.settings import ServerSettings
from tunestone.jobs.supervisor import Supervisor

ROUTES: tuple[Route, ...] = (
    *bedrock.ROUTES,
    *bedrock_runtime.ROUTES,
    *local_aws.ROUTES,
    *openai.ROUTES,
)
RENDER_ERROR: Mapping[DialectName, ErrorRenderer] = {
    "bedrock": render_bedrock,
    "lambda": local_aws.render_error,
    "openai": render_openai,
}
GRACE_SECONDS = 20
"""How long running requests may take to finish when the server ends."""
_BACKLOG = 2048


@contextlib.contextmanager
def open_services(settings: ServerSettings, address: str) -> Iterator[Services]:
    """The parts of a server, none of them started; the data folder is ours until the end.

    `address` is where this server is to be found by its own children.
    """
    folder = open_folder(settings.data)
    with (
        holding(folder),
        contextlib.closing(open_store(settings, folder)) as store,
        holding_database(store),
    ):
        _check_access(settings, KeyRing(store, folder))
        os.environ[OWN_KEY] = KeyRing(store, folder).own_bearer()
        names = BaseNames(settings.base_models)
        objects = Objects(
            settings, endpoint=address, credentials=lambda: own_credentials(store, folder)
        )
        services = Services(
            settings=settings,
            folder=folder,
            store=store,
            names=names,
            objects=objects,
            jobs=Supervisor(settings, store, objects, names, folder),
            engine=EngineClient(settings),
            invocation_log=InvocationLog(
                store=store, objects=objects, folder=folder, account=settings.account
            ),
        )
        yield dataclasses.replace(services, evaluations=Evaluations(services))


def build_server(services: Services, readiness: Readiness) -> Starlette:
    """The application with all routes; its parts start and end with it."""

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        receivers = services.settings.webhooks
        notifier = Notifier(services.store, receivers, describers(services.settings))
        await run_in_threadpool(openai.sweep, services)
        async with contextlib.AsyncExitStack() as ending:
            if isinstance(services.engine, EngineClient):
                ending.push_async_callback(services.engine.aclose)
            ending.push_async_callback(run_in_threadpool, local_aws.stop_functions, services)
            for part in (notifier, services.invocation_log, services.jobs):
                if part is not None:
                    await run_in_threadpool(part.start)
                    ending.push_async_callback(run_in_threadpool, part.shutdown)
            if services.evaluations is not None:
                await services.evaluations.start()
                ending.push_async_callback(services.evaluations.shutdown)
            deploying = asyncio.create_task(bedrock.continue_deployments(services))
            ending.push_async_callback(_cancel, deploying)
            yield

    return build_app(
        services,
        ROUTES,
        RENDER_ERROR,
        lifespan=lifespan,
        elsewhere=local_aws.local_aws_app(services),
        dashboard=build_dashboard(services, is_closing=lambda: readiness.stopping),
        readiness=readiness,
    )


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that errors come before anything is started. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host.strip("[]"), port))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"The server cannot listen on {host}:{port}: {error.strerror or error}.",
            remedy="Choose another with --port (0 takes a free one) or --host.",
        ) from None
    bound.set_inheritable(False)
    return bound


def serve(settings: ServerSettings, ready: Callable[[str, Services], None]) -> None:
    """Serve until a signal to end comes. `ready` is told the address and the parts, once."""
    _check_tls(settings)
    _check_extras(settings)
    bound = listen(settings.host, settings.port)
    address = _address(settings, bound.getsockname()[1])
    with contextlib.closing(bound), open_services(settings, address=address) as services:
        readiness = Readiness()
        config = uvicorn.Config(
            build_server(services, readiness),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            http="h11",  # the faster parser that uvicorn may find sets headers no limit
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            backlog=_BACKLOG,
        )
        # uvicorn raises the signal once more when it has ended; ours is then a mark, not an end
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        server = _Server(config, readiness, lambda: ready(address, services))
        server.run(sockets=[bound])
        if not server.started:
            raise RunError("The server could not start.", remedy="The log above says why.")


@final
class _Server(uvicorn.Server):
    """uvicorn's server, that says when it is ready and when it begins to end."""

    def __init__(
        self, config: uvicorn.Config, readiness: Readiness, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end came."""
        self._readiness.stopping = True
        super().handle_exit(sig, frame)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _address(settings: ServerSettings, port: int) -> str:
    """Where clients on this machine find the server."""
    host = settings.host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if settings.tls_certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _check_tls(settings: ServerSettings) -> None:
    if settings.tls_certificate is None:
        if settings.tls_key is not None:
            raise ConfigError(
                "There is a tls_key, but no tls_certificate.",
                remedy="HTTPS needs both; for plain HTTP take tls_key out.",
            )
        return
    if settings.local_aws:
        raise ConfigError(
            "With local_aws the server asks itself over plain HTTP, so it cannot serve HTTPS.",
            remedy="Take tls_certificate out, and let a proxy end TLS.",
        )
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"The certificate {settings.tls_certificate} cannot be used: {error}.",
            remedy="tls_certificate and tls_key name PEM files.",
        ) from None


def _check_extras(settings: ServerSettings) -> None:
    missing = [name for name in ("moto", "boto3") if importlib.util.find_spec(name) is None]
    if settings.local_aws and missing:
        raise ConfigError(
            f"With local_aws the server needs {' and '.join(missing)}.",
            remedy="Install the extra: pip install 'tunestone[aws]'.",
        )


def creating_a_key(settings: ServerSettings) -> str:
    """The command that makes a key for a server with these settings."""
    elsewhere = " --database URL" if settings.database else ""
    return f"tunestone keys create --data {settings.data}{elsewhere}"


def _check_access(settings: ServerSettings, keys: KeyRing) -> None:
    keys.refresh()
    if not keys.any() and not is_loopback(settings.host):
        raise ConfigError(
            f"{settings.host} can be reached from other machines, and there are no keys.",
            remedy=f"Make one: {creating_a_key(settings)}",
        )
