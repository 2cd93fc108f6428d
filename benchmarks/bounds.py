"""What the machine allows: how fast memory is read, and how fast matrices are multiplied.

A token cannot be decoded faster than the weights are read, nor faster than their products with the
rows are computed. Attention, drawing and everything else are left out, so the bounds cannot be
reached; the better of two libraries counts for every shape.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from measuring import timed
from torch import Tensor, nn
from torch.nn.functional import linear

DECODE_ROWS = (8, 16, 32, 64)
TRAIN_ROWS = 2048
_BLOCK = 128
"""Rows of a block: a long product is also tried in such blocks, whose output stays in the cache."""
_LEAST_FLOP = 1e9
"""Smaller products are repeated until they took as many operations."""
_FLOATS = 2**28  # 1 GiB


def bandwidth() -> dict[str, float]:
    """Bytes per second of reading 1 GiB of fp32 numbers, and of copying them."""
    numbers = torch.ones(_FLOATS)
    copy = torch.zeros(_FLOATS)
    size = 4 * _FLOATS
    return {
        "read": size / timed(numbers.sum),
        "copy": 2 * size / timed(lambda: copy.copy_(numbers)),
    }


@dataclass(frozen=True)
class Shape:
    """A linear layer: `outer` numbers out of `inner` ones."""

    outer: int
    inner: int

    @property
    def backward(self) -> "Shape":
        """The product that takes the gradient back to the layer's input."""
        return Shape(self.inner, self.outer)


class Products:
    """The products of a network with its own linear shapes, on weights made for the purpose.

    Under LoRA the base is frozen: a node costs one product forward and one backward to the input.
    (That the first layer's input needs no gradient is neglected, as are the adapters' products.)
    """

    def __init__(self, network: Any) -> None:
        head = network.get_output_embeddings()
        layers = [m for m in network.modules() if isinstance(m, nn.Linear) and m is not head]
        self._body = Counter(Shape(m.out_features, m.in_features) for m in layers)
        self._head = Counter([Shape(head.out_features, head.in_features)])
        shapes = [*self._body, *self._head]
        shapes += [shape.backward for shape in shapes]
        self._weights = {shape: torch.randn(shape.outer, shape.inner) for shape in shapes}
        self._numbers = torch.randn(TRAIN_ROWS * max(shape.inner for shape in shapes))
        self._ways: dict[tuple[Shape, int], dict[str, list[Callable[[], object]]]] = {}

    @property
    def body_size(self) -> int:
        """Weights of all linear layers but the head."""
        return _size(self._body)

    @property
    def head_size(self) -> int:
        """Weights of the output head."""
        return _size(self._head)

    def measure(self) -> dict[str, float]:
        """Seconds: `decode 64` of all products at 64 rows, by the better library and by each;
        `body` and `head` of the products of 2048 nodes, forward and backward."""
        whole = self._body + self._head
        seconds = {}
        for rows in DECODE_ROWS:
            best, each = self._all(whole, rows)
            seconds[f"decode {rows}"] = best
            seconds |= {f"decode {rows} {library}": value for library, value in each.items()}
        for name, shapes in (("body", self._body), ("head", self._head)):
            back = Counter({shape.backward: count for shape, count in shapes.items()})
            both = [self._all(some, TRAIN_ROWS) for some in (shapes, back)]
            seconds[name] = sum(best for best, _ in both)
            for library in both[0][1]:
                seconds[f"{name} {library}"] = sum(each[library] for _, each in both)
        return seconds

    @torch.inference_mode()
    def _all(self, shapes: Counter[Shape], rows: int) -> tuple[float, dict[str, float]]:
        """Seconds of all the products with the better library each, and with each for all."""
        times = {
            shape: {
                library: min(_seconds(way, 2 * rows * shape.outer * shape.inner) for way in ways)
                for library, ways in self._ways_of(shape, rows).items()
            }
            for shape in shapes
        }
        best = sum(count * min(times[shape].values()) for shape, count in shapes.items())
        libraries = next(iter(times.values()))
        each = {
            library: sum(count * times[shape][library] for shape, count in shapes.items())
            for library in libraries
        }
        return best, each

    def _ways_of(self, shape: Shape, rows: int) -> dict[str, list[Callable[[], object]]]:
        if (shape, rows) not in self._ways:
            weight = self._weights[shape]
            inputs = self._numbers[: rows * shape.inner].view(rows, shape.inner)
            blocks = {rows, min(rows, _BLOCK)}
            ways = {"mkl": [_mkl(inputs, weight, block) for block in blocks]}
            if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
                ways["onednn"] = [_onednn(inputs, weight, block) for block in blocks]
            self._ways[shape, rows] = ways
        return self._ways[shape, rows]


def _mkl(inputs: Tensor, weight: Tensor, block: int) -> Callable[[], object]:
    parts = torch.split(inputs, block)

    def run() -> None:
        for part in parts:
            linear(part, weight)

    return run


def _onednn(inputs: Tensor, weight: Tensor, block: int) -> Callable[[], object]:
    parts = torch.split(inputs, block)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, block)

    def run() -> None:
        for part in parts:
            torch.ops.mkldnn._linear_pointwise(part, packed, None, "none", [], "")

    return run


def _seconds(way: Callable[[], object], operations: int) -> float:
    """Seconds of one call, the mean of as many as make it measurable."""
    times = math.ceil(_LEAST_FLOP / operations)
    if times > 1:
        way()  # brings the weights into the cache

    def repeat() -> None:
        for _ in range(times):
            way()

    return timed(repeat) / times


def _size(shapes: Counter[Shape]) -> int:
    return sum(count * shape.outer * shape.inner for shape, count in shapes.items())
