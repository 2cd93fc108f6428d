"""How much one caller may ask: requests per minute, and bytes of a body while it is read."""

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import final

import anyio
from starlette.types import Message, Receive

from tunestone.api.refusals import Refusal

_MOST_CALLERS = 10_000
_LINGER_SECONDS, _LINGER_BYTES = 2.0, 64 * 2**20


@final
class RateLimit:
    """A bucket of requests per caller: full at first, refilled evenly over a minute."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` is also the size of the bucket; 0 is no limit. `clock` is in seconds."""
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """One request of `caller`. Raises Refusal when the bucket is empty."""
        if not self._per_minute:
            return
        moment = self._clock()
        left, seen = self._buckets.pop(caller, (float(self._per_minute), moment))
        left = min(self._per_minute, left + (moment - seen) * self._per_minute / 60)
        enough = left >= 1
        self._buckets[caller] = (left - 1 if enough else left, moment)
        if len(self._buckets) > _MOST_CALLERS:  # the one that asked longest ago has a full bucket
            self._buckets.popitem(last=False)
        if not enough:
            wait = math.ceil((1 - left) * 60 / self._per_minute)
            raise Refusal(
                "throttled",
                f"Rate limit of {self._per_minute} requests per minute reached. "
                f"Try again in {wait} s.",
                headers={"Retry-After": str(wait)},
            )


def limited(
    receive: Receive, most: int, *, sha256: str = "", count: Callable[[int], None]
) -> Receive:
    """`receive` that refuses what exceeds `most` bytes, while it comes in.

    With `sha256`, the whole body must have that hash: the last piece is held back when it does not,
    so that a handler that reads to the end never takes what was not signed.
    """
    total = 0
    seen = hashlib.sha256()

    async def receiving() -> Message:
        nonlocal total
        message = await receive()
        if message["type"] != "http.request":
            return message
        piece = message.get("body", b"")
        total += len(piece)
        count(len(piece))
        if total > most:
            raise too_large(most)
        if sha256:
            seen.update(piece)
            whole = not message.get("more_body", False)
            if whole and not hmac.compare_digest(seen.hexdigest(), sha256):
                raise Refusal("bad_body_hash", "The body is not the one that was signed.")
        return message

    return receiving


async def swallow(receive: Receive) -> None:
    """Take in some of what is refused: a client that is sending does not look for an answer, and
    never sees the one it has when the connection is closed before it is done."""
    taken = 0
    with anyio.move_on_after(_LINGER_SECONDS):
        while taken < _LINGER_BYTES:
            message = await receive()
            taken += len(message.get("body", b""))
            if not message.get("more_body", False):
                return


def too_large(most: int) -> Refusal:
    """A body beyond the limit."""
    return Refusal(
        "too_large",
        f"The request is larger than {most} bytes, the limit of this server.",
        headers={"Connection": "close"},
    )
