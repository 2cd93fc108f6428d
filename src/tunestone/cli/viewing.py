"""The command that shows runs in a browser."""

import socket
import webbrowser
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from tunestone.cli.app import app, say
from tunestone.errors import ConfigError


@app.command()
def view(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders; default: runs/.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8001,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser.")] = False,
) -> None:
    """Show runs in a browser: curves as they grow, rollouts, base against tuned, a blind vote.

    There is no login: who can reach the address may look, vote, and stop a run.
    """
    import uvicorn

    from tunestone.pages.app import build_view
    from tunestone.pages.library import FolderLibrary

    library = FolderLibrary(paths or [Path("runs")])
    bound = _listen(host, port)
    name = f"[{host.strip('[]')}]" if ":" in host else host
    address = f"http://{name}:{bound.getsockname()[1]}/"
    config = uvicorn.Config(
        build_view(library, [host.strip("[]")]),
        log_level="critical",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,  # a page that follows a run would hold it for ever
    )
    count = len(library.runs())
    say(f"Pages of {count} run{'s' if count != 1 else ''}: {address}  (Ctrl-C ends)")
    if open_browser:
        webbrowser.open(address)
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        say("Ended.")


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises ConfigError when there can be none, or too many could ask."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host.strip("[]"), port), family=family)
    except OSError as error:
        raise ConfigError(
            f"The pages cannot listen on {host}:{port}: {error.strerror or error}.",
            remedy="Choose another with --port (0 takes a free one) or --host.",
        ) from None
    if ip_address(bound.getsockname()[0]).is_unspecified:
        bound.close()
        raise ConfigError(
            f"With --host '{host}' there is no name that requests could be held to.",
            remedy="Give the one address or name under which the pages are to be reached.",
        )
    return bound
