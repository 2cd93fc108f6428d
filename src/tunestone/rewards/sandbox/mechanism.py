"""Which mechanism of this machine confines reward code, and the command that starts a worker in it.

Two mechanisms give the same promises: bubblewrap, the well-kept tool for it, where it is installed
and may be used; otherwise Landlock and seccomp with new namespaces where the machine allows them.
In a container that forbids namespaces Landlock and seccomp still hold alone: no network, no files,
no signals to other processes. Where neither is to be had, rewards are refused unless the user says
`sandbox = "none"`: then they run in child processes with limits on time and memory, but may read
and write what the user may.
"""

import functools
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunestone.errors import RewardError, SandboxError

MechanismName = Literal["bubblewrap", "landlock", "none"]

_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/ld.so.cache")
_SETTINGS = ("/etc/alternatives", "/etc/localtime", "/etc/ssl", "/etc/ca-certificates", "/etc/pki")
_NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a reward that walks over a set gives the same in every run
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_SCRATCH = "/scratch"  # not /tmp, below which a reward's own folder may lie
_WORKER = Path(__file__).resolve().parents[1] / "worker" / "main.py"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """How a worker is confined."""

    name: MechanismName
    namespaces: bool = True
    """Whether the worker gets process and network namespaces of its own."""

    @property
    def description(self) -> str:
        """One line for people."""
        if self.name == "bubblewrap":
            return "bubblewrap (own namespaces, seccomp)"
        if self.name == "landlock":
            return f"Landlock, seccomp{', own namespaces' if self.namespaces else ''}"
        return "none: reward code may read, write and connect as you may"


@dataclass(frozen=True, slots=True)
class Start:
    """How to start one worker: the command without its last argument, and what it is told."""

    command: list[str]
    environment: dict[str, str]
    scratch: str
    """The scratch folder as the worker sees it."""
    confine: dict[str, Any]


def start_of(
    mechanism: Mechanism,
    *,
    readable: Sequence[Path],
    network: bool,
    environment: Sequence[str],
    scratch: Path,
    file_mib: int,
) -> Start:
    """The command for a worker that may read `readable` and Python's own folders.

    `scratch` is an empty folder made for it; under bubblewrap it has one in memory instead.
    """
    python = [os.path.abspath(sys.executable), "-s", "-P", str(_WORKER)]  # noqa: PTH100  keeps links
    exposed = [path for folder in readable for path in expose(folder)]
    missing = [name for name in environment if name not in os.environ]
    if missing:
        raise RewardError(
            f"the reward wants the environment variable {missing[0]}, which is not set.",
            remedy="Set it, or take it out of `environment`.",
        )
    variables = _ENVIRONMENT | {name: os.environ[name] for name in environment}
    is_bubblewrap = mechanism.name == "bubblewrap"
    inside = _SCRATCH if is_bubblewrap else str(scratch)
    variables |= {"HOME": inside, "TMPDIR": inside}
    files = [*_system_files(network=network), *python_folders(), *map(str, exposed)]
    confine = {
        "namespaces": mechanism.name == "landlock" and mechanism.namespaces,
        "files": mechanism.name == "landlock",
        "system_calls": mechanism.name != "none",
        "readable": [*files, "/sys/devices/system/cpu"],
        "devices": list(_DEVICES),
        "listable": [str(path) for path in readable if path.is_dir()],  # to find modules there
    }
    wrap = _bubblewrap(files, network=network, file_mib=file_mib) if is_bubblewrap else []
    return Start([*wrap, *python], variables, inside, confine)


def expose(folder: Path) -> list[Path]:
    """What of a reward's folder the worker may read.

    A file: itself. A folder: everything in it but hidden entries (`.env`, `.git`, `.aws`). The
    home folder and those above it: only Python files and packages.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        return [folder]
    home = Path.home().resolve()
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if home.is_relative_to(folder):
        return [p for p in entries if p.suffix == ".py" or (p / "__init__.py").is_file()]
    return entries


def python_folders() -> list[str]:
    """Where Python and the packages this process can import lie.

    Not the current folder, which `python -m` makes importable: it is the user's.
    """
    home, current = Path.home().resolve(), Path.cwd()
    places = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *sys.path]
    found: dict[str, None] = {}
    for place in places:
        path = Path(place).resolve()
        if path.exists() and path != current and not home.is_relative_to(path):
            found[str(path)] = None
    # The folder of the interpreter as it is named, too: a virtual environment's is a link.
    return list(dict.fromkeys([*found, str(Path(sys.prefix)), str(_WORKER.parents[3])]))


@functools.cache
def choose_mechanism(wanted: str = "auto") -> Mechanism:
    """The best mechanism that works here (each is tried), or the wanted one.

    Raises SandboxError with what was tried and why it failed.
    """
    from tunestone.rewards.sandbox.pool import find_fault  # it starts a worker, so it needs us

    candidates = {
        "bubblewrap": [Mechanism("bubblewrap")],
        "landlock": [Mechanism("landlock"), Mechanism("landlock", namespaces=False)],
        "none": [Mechanism("none", namespaces=False)],
    }
    names = ["bubblewrap", "landlock"] if wanted == "auto" else [wanted]
    faults = []
    for candidate in (candidate for name in names for candidate in candidates[name]):
        fault = find_fault(candidate)
        if not fault:
            return candidate
        faults.append(f"{candidate.description}: {fault}")
    raise SandboxError(
        "Reward code cannot be confined on this machine. Tried " + "; ".join(faults) + ".",
        remedy="Install bubblewrap (Debian: apt-get install bubblewrap), or, if you trust the "
        'reward and it runs no code of the model, set sandbox = "none".',
    )


def _system_files(*, network: bool) -> list[str]:
    paths = (*_SYSTEM, *_SETTINGS, *(_NETWORK if network else ()))
    return [path for path in paths if Path(path).exists()]


def _bubblewrap(files: Sequence[str], *, network: bool, file_mib: int) -> list[str]:
    program = shutil.which("bwrap")
    if program is None:
        raise FileNotFoundError("the program bwrap is not installed")
    command = [program, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    command += [] if network else ["--unshare-net"]
    command += ["--as-pid-1", "--cap-drop", "ALL", "--hostname", "sandbox"]
    # Parents before children: a later mount would hide an earlier one below it.
    for path in sorted(set(files)):
        command += ["--ro-bind", path, path]
    command += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    command += ["--size", str(file_mib << 20), "--tmpfs", _SCRATCH, "--remount-ro", "/"]
    return [*command, "--chdir", _SCRATCH, "--"]
