"""The worker: load a program once, then answer each call from a fresh fork of the loaded process.

The trainer starts it as `python main.py FD` and speaks with it over the socket FD: first one
message that says what to load and how to be confined, then one message per call. The fork has
nothing but a pipe for its own result, so it can neither read nor answer another call; when it is
done, or out of time, it is killed with all it started and the scratch folder is emptied.

A module that a call imports for the first time is imported by the worker afterwards (by its name
only), or every call of a reward with an `import` inside would pay for it again.

A fork costs by the memory of its parent, about 0.1 ms per 600 pages, so what is needed only when
something fails is imported only then, and `os.path` stands in for pathlib.
"""

import contextlib
import fcntl
import gc
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, os.path.abspath(__file__).rsplit(os.sep, 4)[0])

from tunestone.rewards.worker import channel, confine, folders

_REQUEST_BYTES = 1 << 30
_FRAME_BYTES = 1 << 16  # what a result has besides its value
_POLL_MILLISECONDS = 50
_TEXT_CHARACTERS = 4_000
_LEARNED_MODULES = 200
_OPEN_FILES = 256
_MOST_MODULES = 20_000
_NAME_CHARACTERS = 100
_KINDS = ("raised", "row", "memory", "output")

Message = dict[str, Any]


def main() -> None:
    """Load and serve until the trainer closes the socket."""
    control = int(sys.argv[1])
    os.set_inheritable(control, False)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 can ignore only what has no handler
    requests = channel.Reader(control, largest=_REQUEST_BYTES)
    printed = _redirect_output()
    try:
        setup = requests.read()
        worker = Worker(setup, control, printed)
    # The user's import may raise anything; it is told, and this process ends.
    except BaseException as error:  # noqa: BLE001
        channel.write(control, channel.encode({"failed": _load_failure(error, printed)}))
        return
    channel.write(control, channel.encode({"ready": True}))
    try:
        while True:
            channel.write(control, worker.answer(requests.read()))
    except (EOFError, BrokenPipeError):
        return  # the trainer is gone, and so are we


class Worker:
    """A loaded program that answers calls one after the other."""

    def __init__(self, setup: Message, control: int, printed: int) -> None:
        """Confines this process and loads the program, in that order."""
        self._control, self._printed = control, printed
        self._limits, self._asked = setup["limits"], setup["confine"]
        self._scratch = setup["scratch"]
        self._statm = _confine(setup)
        self._is_first = os.getpid() == 1  # of its own process namespace
        self._call = _load(setup)
        self._modules = set(sys.modules)
        self._settle()

    def answer(self, payload: Any) -> bytes:
        """The answer to one call. Raises EOFError when nobody waits for it any more."""
        result, sink = os.pipe()
        start = time.perf_counter()
        child = os.fork()
        if child == 0:
            self._run(payload, result, sink)
        os.close(sink)
        try:
            message = self._wait(child, result, start + self._limits["seconds"])
        finally:
            os.close(result)
            self._end(child)
        message["seconds"] = time.perf_counter() - start
        if "value" not in message:
            message["printed"] = _tail(self._printed)
        self._clean()
        self._learn(message.pop("modules", ()))
        self._forget_printed()
        return channel.encode(message)

    def _forget_printed(self) -> None:
        """Leave nothing in the file that all calls print into, whatever its size claims to be:
        a call may have moved the position, locked it, or allocated pages beyond its end."""
        os.ftruncate(self._printed, 0)
        os.lseek(self._printed, 0, os.SEEK_SET)
        fcntl.fcntl(self._printed, fcntl.F_SETFL, 0)
        fcntl.flock(self._printed, fcntl.LOCK_UN)

    def _run(self, payload: Any, result: int, sink: int) -> None:
        """In the fork: call the program and write what came of it. Never returns."""
        os.close(result)
        os.close(self._control)
        try:
            self._confine_fork()
            data = self._encode(self._call(payload))
        except MemoryError:
            error = f"it needed more memory than the limit of {self._limits['memory_mib']} MiB"
            data = channel.encode({"kind": "memory", "error": error})
        # The program is the user's or the model's and may raise anything, SystemExit too.
        except BaseException as raised:  # noqa: BLE001
            is_row_fault = getattr(raised, "is_row_fault", False)
            data = channel.encode(
                {"kind": "row", "error": str(raised)}
                if is_row_fault
                else {"kind": "raised", "error": _describe(raised)}
            )
        try:
            for stream in (sys.stdout, sys.stderr):
                # The program may have put anything in their place.
                with contextlib.suppress(Exception):
                    stream.flush()
            channel.write(sink, data)
        finally:
            os._exit(0)

    def _encode(self, value: Any) -> bytes:
        """The message with a result, and with what the call had to import."""
        message: Message = {"value": value}
        if len(sys.modules) > len(self._modules):
            new = [name for name in sys.modules if name not in self._modules]
            message["modules"] = new[:_LEARNED_MODULES]
        try:
            data = channel.encode(message)
        except (TypeError, ValueError, RecursionError) as error:
            return channel.encode({"kind": "raised", "error": f"the result is not JSON: {error}"})
        limit = self._limits["output_kib"]
        if len(data) <= limit * 1024:
            return data
        error_ = f"the result takes {len(data)} bytes, more than the limit of {limit} KiB"
        return channel.encode({"kind": "output", "error": error_})

    def _confine_fork(self) -> None:
        """Limits of its own; where the worker has no namespace, a group it cannot leave."""
        for kind, values in self._resources:
            resource.setrlimit(kind, values)
        if not self._is_first:
            os.setpgid(0, 0)
            if self._asked["system_calls"]:
                confine.restrict_signals()
                confine.keep_in_group()
        gc.enable()

    def _settle(self) -> None:
        """Keep what is loaded shared with all forks, and set their limits on top of it."""
        gc.enable()
        gc.collect()
        gc.freeze()  # a collection in a fork would copy what it looks at
        gc.disable()
        pages = int(os.pread(self._statm, 64, 0).split()[0]) if self._statm else 0
        space = pages * resource.getpagesize() + (self._limits["memory_mib"] << 20)
        seconds = int(self._limits["seconds"]) + 2
        size = self._limits["file_mib"] << 20
        for kind, value in (  # these bind the worker too, and do not trouble it
            (resource.RLIMIT_FSIZE, size),
            (resource.RLIMIT_NOFILE, _OPEN_FILES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(kind, (value, value))
        self._resources = (
            (resource.RLIMIT_AS, (space, space)),
            (resource.RLIMIT_CPU, (seconds, seconds)),
        )

    def _wait(self, child: int, result: int, deadline: float) -> Message:
        """The fork's message, or why there is none."""
        fault: Message = {}
        poller = select.poll()
        poller.register(result, select.POLLIN)
        largest = self._limits["output_kib"] * 1024 + _FRAME_BYTES

        def wait() -> bool:
            # Who sends a byte at a time is out of time, too.
            while not poller.poll(_POLL_MILLISECONDS) or time.perf_counter() > deadline:
                self._refuse_abandoned()
                fault.update(self._overrun(deadline))
                if fault:
                    return False
            return True

        try:
            message = _understood(channel.Reader(result, largest=largest).read(wait))
        except TimeoutError:
            return fault
        except (EOFError, ValueError):
            message = None
        if message is None:
            return _ended(child)
        return self._overrun(float("inf")) or message

    def _overrun(self, deadline: float) -> Message:
        """Which limit the call has passed, if any."""
        if time.perf_counter() > deadline:
            seconds = self._limits["seconds"]
            return {"kind": "timeout", "error": f"no result within the limit of {seconds:g} s"}
        size, limit = os.fstat(self._printed).st_size, self._limits["output_kib"]
        if size > limit * 1024:
            error = f"it printed {size} bytes, more than the limit of {limit} KiB"
            return {"kind": "output", "error": error}
        return {}

    def _refuse_abandoned(self) -> None:
        poller = select.poll()
        gone = select.POLLHUP | getattr(select, "POLLRDHUP", 0)
        poller.register(self._control, gone)
        if any(event & gone for _, event in poller.poll(0)):
            raise EOFError

    def _end(self, child: int) -> None:
        """Kill the fork and all it started, and collect what has ended."""
        if self._is_first:
            _kill(os.kill, -1)  # everybody in this namespace but us
        else:
            _kill(os.killpg, child)
            _kill(os.kill, child)  # if it had no group of its own yet
        # All of them, or the next call would be blamed for what is still on its way out. Orphans
        # become ours before they can be collected, so who has no child left has nobody left.
        for target in (child, -1 if self._is_first else -child):
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(target, 0)

    def _clean(self) -> None:
        """Empty the scratch folder. An OSError ends this worker, and another takes its place."""
        folders.empty(self._scratch)

    def _learn(self, names: Sequence[Any]) -> None:
        """Import what the call had to import, so that the next fork has it already."""
        if not names or len(self._modules) > _MOST_MODULES:
            return
        import importlib

        for name in names:
            # Importing may raise anything, an exit too; the call that needs it will do so itself.
            with contextlib.suppress(BaseException):
                importlib.import_module(name)
        self._modules.update(names, sys.modules)
        self._settle()


def _kill(kill: Callable[[int, int], None], target: int) -> None:
    try:
        kill(target, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended by itself


def _redirect_output() -> int:
    """Let whatever is printed go into a file in memory, and nothing be read; the file."""
    if hasattr(os, "memfd_create"):
        printed = os.memfd_create("printed")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            printed = os.dup(file.fileno())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    return printed


def _confine(setup: Message) -> int | None:
    """As the trainer asked; what it could not do from outside is done here.

    Returns a descriptor of this process's memory statistics, which cannot be opened later on.
    """
    asked, network = setup["confine"], setup["limits"]["network"]
    if asked["namespaces"]:
        confine.enter_namespaces(network=network)
    statm = "/proc/self/statm"
    descriptor = os.open(statm, os.O_RDONLY) if os.path.exists(statm) else None
    if asked["system_calls"]:
        confine.drop_privileges()
    if asked["files"]:
        confine.restrict_files(
            readable=asked["readable"],
            listable=asked["listable"],
            devices=asked["devices"],
            writable=[setup["scratch"]],
        )
    if asked["system_calls"]:
        confine.restrict_system_calls(network=network)
        if os.getpid() != 1:
            confine.keep_in_session()
    os.chdir(setup["scratch"])
    return descriptor


def _load(setup: Message) -> Callable[[Any], Any]:
    sys.path += [entry for entry in setup["sys_path"] if entry not in sys.path]
    module, _, name = setup["loader"].partition(":")
    __import__(module)
    call: Callable[[Any], Any] = getattr(sys.modules[module], name)(setup["setup"])
    return call


def _load_failure(error: BaseException, printed: int) -> Message:
    """What the trainer turns into a RewardError; our own errors keep their remedy."""
    message = getattr(error, "message", None)
    if isinstance(message, str):
        return {"message": message, "remedy": str(getattr(error, "remedy", ""))}
    return {"message": f"{_describe(error)}\n{_tail(printed)}".strip(), "remedy": ""}


def _describe(error: BaseException) -> str:
    """The traceback from the program on, without the frames of ours and of `import` above it."""
    import traceback

    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    own = (ours, os.path.join(os.path.dirname(os.__file__), "importlib"), "<frozen importlib")
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(own):
        trace = trace.tb_next
    trace = trace or error.__traceback__  # a fault of ours is shown whole
    text = "".join(traceback.format_exception(type(error), error, trace)).strip()
    return text if len(text) <= _TEXT_CHARACTERS else "[...] " + text[-_TEXT_CHARACTERS:]


def _tail(printed: int) -> str:
    """The end of what was printed."""
    size = os.fstat(printed).st_size
    start = max(0, size - _TEXT_CHARACTERS)
    return os.pread(printed, _TEXT_CHARACTERS, start).decode(errors="replace")


def _understood(message: Any) -> Message | None:
    """What a fork said, if it has the form that `_run` gives it; the fork may say anything."""
    if not isinstance(message, dict):
        return None
    if "value" in message:
        names = message.get("modules", [])
        names = names[:_LEARNED_MODULES] if isinstance(names, list) else []
        names = [name for name in names if isinstance(name, str) and name.isascii()]
        short = [name for name in names if 0 < len(name) <= _NAME_CHARACTERS]
        return {"value": message["value"], "modules": short}
    kind, error = message.get("kind"), message.get("error")
    if kind in _KINDS and isinstance(error, str):
        return {"kind": kind, "error": error}
    return None


def _ended(child: int) -> Message:
    """What is said of a fork that ended before it gave a result."""
    deadline = time.perf_counter() + 0.05
    while (state := os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None:
        if time.perf_counter() > deadline:  # it has closed its pipe and goes on
            return {"kind": "killed", "error": "its process gave up its result"}
        time.sleep(0.001)
    if state.si_code == os.CLD_EXITED:
        how = f"with exit status {state.si_status}"
    elif state.si_status == signal.SIGXCPU:
        return {"kind": "timeout", "error": "it used up its CPU time"}
    else:
        names = {known.value: known.name for known in signal.Signals}
        how = f"by signal {names.get(state.si_status, state.si_status)}"
    return {"kind": "killed", "error": f"its process ended {how} before giving a result"}


if __name__ == "__main__":
    main()
