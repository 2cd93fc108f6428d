"""What handlers work with, opened once by the server."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tunestone.generation import Engine
from tunestone.jobs.settings import ServerSettings
from tunestone.jobs.store import Store

if TYPE_CHECKING:
    from tunestone.jobs.invocation_log import InvocationLog
    from tunestone.jobs.names import BaseNames
    from tunestone.jobs.objects import Objects
    from tunestone.jobs.supervisor import Supervisor


class Runner(Protocol):
    """What works in the background on rows of a table, on the server's event loop."""

    async def start(self) -> None:
        """Begin, with what an earlier server left."""
        ...

    async def shutdown(self) -> None:
        """Leave off; what runs goes on when the server starts again."""
        ...

    def wake(self) -> None:
        """Look at the rows now: one was added or changed."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """The server's parts."""

    settings: ServerSettings
    folder: Path
    """The data folder, absolute."""
    store: Store
    names: "BaseNames"
    """What base models' names stand for."""
    objects: "Objects"
    """`s3://` addresses -> files, and back."""
    jobs: "Supervisor"
    """Runs the jobs; `wake()` after a change it should look at."""
    engine: Engine
    """Answers questions."""
    invocation_log: "InvocationLog | None" = None
    """Keeps what models were asked and said, where a client configured that."""
    evaluations: Runner | None = None
    """Runs evaluation jobs."""
