"""A solution a model wrote, in a process of its own: `python code_solution.py run` or `serve FD`.

Standard input starts with the length of the source in bytes, a line end, and the source. `run`
executes it as a program, which reads the rest of standard input. `serve` executes it as a module
and then answers one request a line on FD: `{"do": "call", "args": [...], "kwargs": {...}}`, by
`{"value": ...}` or `{"raised": [names of the exception's classes], "message": ...}`.

The judge (`code_program.py`) keeps the tests and the right answers to itself, so nothing here has
to be trusted: a solution that takes this process apart can only change what it answers. Values
cross as plain data. An object that is none stays here, and the judge gets a number for it.

It imports the standard library only, and nothing of ours: every solution pays for its start.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any, NoReturn

_PLAIN_BITS = 64
_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}

Keep = Callable[[Any], dict[str, int]]
Find = Callable[[int], Any]


def encode(value: Any, keep: Keep) -> Any:
    """The value as JSON. What is no plain data is handed to `keep`, which names or refuses it.

    Subclasses become their plain base: a `Counter` a dict, an `IntEnum` an int, and so do numpy's
    arrays (lists) and numbers. Raises RecursionError for what contains itself.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        # Digits in a text take quadratic time, hexadecimal ones do not.
        return int(value) if value.bit_length() <= _PLAIN_BITS else {"int": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list):
        return [encode(entry, keep) for entry in value]
    if isinstance(value, dict):
        return {"dict": [[encode(k, keep), encode(v, keep)] for k, v in value.items()]}
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [encode(entry, keep) for entry in value]}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), keep)
    return _encode_rare(value, keep)


def _encode_rare(value: Any, keep: Keep) -> Any:
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: value.decode("latin-1")}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, Decimal):
        return {"Decimal": str(value)}
    if isinstance(value, Fraction):
        return {"Fraction": [encode(value.numerator, keep), encode(value.denominator, keep)]}
    return keep(value)


def decode(data: Any, find: Find) -> Any:
    """The value of `encode`; `find` gives what a number stands for.

    Raises ValueError, TypeError or KeyError for what `encode` does not write.
    """
    if isinstance(data, list):
        return [decode(entry, find) for entry in data]
    if not isinstance(data, dict):
        return data
    [(name, content)] = data.items()
    if name == "ref":
        return find(content)
    if name == "dict":
        return {decode(k, find): decode(v, find) for k, v in content}
    if name in _SEQUENCES:
        return _SEQUENCES[name](decode(entry, find) for entry in content)
    if name in ("range", "Fraction"):
        kind = range if name == "range" else Fraction
        return kind(*(decode(entry, find) for entry in content))
    return _DECODERS[name](content)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "bytes": lambda text: text.encode("latin-1"),
    "bytearray": lambda text: bytearray(text, "latin-1"),
    "complex": lambda parts: complex(*parts),
    "Decimal": Decimal,
}


def run(source: bytes) -> None:
    """Execute the source as a program. Whatever it raises ends the process with status 1."""
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["solution.py"]
    exec(compile(source, "solution.py", "exec", dont_inherit=True), vars(module))


def serve(source: bytes, answers: int) -> None:
    """Execute the source as a module, then answer requests until there are no more."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    module = ModuleType("solution")
    sys.modules["solution"] = module
    kept: list[Any] = []

    def keep(value: Any) -> dict[str, int]:
        kept.append(value)
        return {"ref": len(kept) - 1}

    def load() -> None:
        exec(compile(source, "solution.py", "exec", dont_inherit=True), vars(module))

    def act(line: str) -> Any:
        request = json.loads(line)
        args = decode(request["args"], kept.__getitem__)
        kwargs = {k: decode(v, kept.__getitem__) for k, v in request["kwargs"].items()}
        if request["do"] == "find":
            return _find(module, *args)
        return _ACTIONS[request["do"]](*args, **kwargs)

    _write(answers, _attempt(load, keep))
    for line in requests:
        _write(answers, _attempt(lambda line=line: act(line), keep))  # type: ignore[misc]


def _find(module: ModuleType, name: str) -> Any:
    """What the solution calls so: at its top level, or a method of its class `Solution`."""
    if hasattr(module, name):
        return getattr(module, name)
    if hasattr(module, "Solution"):
        return getattr(module.Solution(), name)
    raise NameError(f"name {name!r} is not defined")


_ACTIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "attribute": getattr,
    "entries": list,
    "length": len,
    "entry": lambda container, key: container[key],
    "text": str,
}


def _attempt(act: Callable[[], Any], keep: Keep) -> bytes:
    """What comes of it, as a line of JSON."""
    try:
        return json.dumps({"value": encode(act(), keep)}).encode()
    # The model's code may raise anything, SystemExit too; the judge hears of it.
    except BaseException as raised:  # noqa: BLE001
        names = [kind.__name__ for kind in type(raised).__mro__]
        message = ""
        with contextlib.suppress(Exception):
            message = str(raised)[:1000]
        return json.dumps({"raised": names, "message": message}).encode()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data + b"\n")
    while view:
        view = view[os.write(descriptor, view) :]


def _read_source() -> bytes:
    """The source, and not a byte more: what follows is for the solution."""
    digits = b""
    while (digit := os.read(0, 1)) != b"\n":
        if not digit:
            raise EOFError
        digits += digit
    parts: list[bytes] = []
    missing = int(digits)
    while missing:
        parts.append(os.read(0, missing) or _end())
        missing -= len(parts[-1])
    return b"".join(parts)


def _end() -> NoReturn:
    raise EOFError


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(_read_source())
    else:
        serve(_read_source(), int(sys.argv[2]))
