"""Which mechanism of this machine confines reward code."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mechanism:
    """How a worker is confined."""

    name: str
    """`bubblewrap`, `landlock` or `none`."""
    description: str
    """One line for people."""


def choose_mechanism(wanted: str = "auto") -> Mechanism:
    """The best one there is, or the wanted one. Raises SandboxError when there is none."""
    raise NotImplementedError
