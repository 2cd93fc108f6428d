"""Messages between trainer and worker: four bytes of length, then JSON."""

import json
import os
from collections.abc import Callable
from typing import Any

_LENGTH_BYTES = 4
_READ_BYTES = 1 << 16


def encode(message: Any) -> bytes:
    """The message as bytes. Raises TypeError or ValueError when it is not JSON."""
    text = json.dumps(message, default=_plain).encode()
    return len(text).to_bytes(_LENGTH_BYTES, "big") + text


def write(descriptor: int, data: bytes) -> None:
    """Write all of it; blocks. Raises OSError when the other side is gone."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Reader:
    """Reads messages from a descriptor; what comes after the first is kept for the next."""

    def __init__(self, descriptor: int, *, largest: int) -> None:
        """`largest`: most bytes of one message."""
        self._descriptor, self._largest = descriptor, largest
        self._data = bytearray()

    def read(self, wait: Callable[[], bool] = lambda: True) -> Any:
        """The next message. `wait` is asked before each read and gives up by returning False.

        Raises EOFError when the other side is gone, TimeoutError when `wait` gave up, and
        ValueError when the message is too long or is not JSON.
        """
        self._fill(_LENGTH_BYTES, wait)
        end = _LENGTH_BYTES + int.from_bytes(self._data[:_LENGTH_BYTES], "big")
        if end - _LENGTH_BYTES > self._largest:
            raise ValueError(f"a message of {end} bytes, more than the {self._largest} allowed")
        self._fill(end, wait)
        text = self._data[_LENGTH_BYTES:end]
        del self._data[:end]
        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError("a message that is nested too deeply") from None

    def _fill(self, count: int, wait: Callable[[], bool]) -> None:
        while len(self._data) < count:
            if not wait():
                raise TimeoutError
            part = os.read(self._descriptor, _READ_BYTES)
            if not part:
                raise EOFError
            self._data += part


def _plain(value: Any) -> Any:
    """numpy's and torch's numbers as Python's, without importing either."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a value of type {type(value).__qualname__} is not JSON")
