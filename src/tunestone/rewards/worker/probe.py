"""The smallest program: a confined worker must fail to do what it tries."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_program(setup: dict[str, Any]) -> Callable[[Any], Any]:
    """A function that does what its payload names: `read` a file outside, open a `socket`, or
    `nothing`."""

    def attempt(what: str) -> str:
        if what == "read":
            return Path(setup["file"]).read_text(encoding="utf-8")
        if what == "socket":
            socket.create_server(("127.0.0.1", 0)).close()
        return what

    return attempt
