"""What the processes of a call take, seen from outside.

Limits of address space and CPU hold for one process only; this looks at all of a call together. A
worker that has namespaces of its own is the one child of the process that was started; all below
the worker belongs to its call. Elsewhere than on Linux there is no /proc, and nothing is seen.
"""

import contextlib
import resource
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_PAGE = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """One line of the process table."""

    pid: int
    parent: int
    group: int
    session: int
    memory: int
    """Resident bytes."""


@dataclass(frozen=True, slots=True)
class Greed:
    """A limit that a call has passed, and how its end is called."""

    kind: Literal["memory", "killed"]
    reason: str


def process_table() -> list[ProcessUsage]:
    """All processes there are now."""
    table = []
    entries = Path("/proc").iterdir() if Path("/proc/self/stat").exists() else ()
    for entry in entries:
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # After the name, which may hold spaces and brackets: state, parent, group ...
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            parent, group, session = map(int, fields[1:4])
            memory = int(fields[21]) * _PAGE
            table.append(ProcessUsage(int(entry.name), parent, group, session, memory))
    return table


def descendants(table: Sequence[ProcessUsage], pid: int) -> list[ProcessUsage]:
    """All processes below this one, parents before children."""
    children = defaultdict(list)
    for usage in table:
        children[usage.parent].append(usage)
    found = list(children[pid])
    for usage in found:  # it grows while we walk it
        found += children[usage.pid]
    return found


def find_greed(
    table: Sequence[ProcessUsage],
    pid: int,
    *,
    has_namespace: bool,
    memory: int,
    processes: int,
) -> Greed | None:
    """Which limit the call of the worker started as `pid` has passed, if any.

    `memory` in bytes is what the call's processes may hold beyond their copies of the worker.
    """
    below = descendants(table, pid)
    worker, call = (below[:1], below[1:]) if has_namespace else ([], below)
    shared = max(
        (usage.memory for usage in table if usage.pid == pid or usage in worker), default=0
    )
    held = sum(max(0, usage.memory - shared) for usage in call)
    if held > memory:
        limit = f"more than the limit of {memory >> 20} MiB"
        return Greed("memory", f"its processes held {held >> 20} MiB, {limit}")
    if len(call) > processes:
        return Greed("killed", f"it ran {len(call)} processes, more than the limit of {processes}")
    return None
