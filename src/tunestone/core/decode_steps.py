"""One decoding step after another: plainly, or recorded once and replayed.

On a GPU a token of a small model takes less time than launching its kernels one by one from
Python, so the launches are recorded as a CUDA graph and replayed as one. A recording holds for one
number of rows and one size of the cache; both change seldom. On a CPU nothing is gained by it.
"""

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from tunestone.core.attention import AttentionPlan
from tunestone.core.decode_plan import DecodePlan, FixedDecodePlan
from tunestone.core.model import tree_attention

Run = Callable[[], Tensor]
Recorder = Callable[[Run], Run]
"""Makes of a function over fixed tensors one that does the same again into the same tensor."""


class DecodeSteps(Protocol):
    """The rows that are still drawn, and their logits after each new token."""

    def keep(self, going_B: Tensor) -> None:
        """Go on with these of the present rows only (ascending indices)."""
        ...

    def next_logits(self, tokens_B: Tensor, positions_B: Tensor) -> Tensor:
        """Newest token of every row and its position -> logits [B, V] in fp32."""
        ...


class PlainSteps:
    """Each step called anew; a row that ended leaves at once."""

    def __init__(self, network: Any, plan: DecodePlan) -> None:
        self._network = network
        self._plan = plan

    def keep(self, going_B: Tensor) -> None:
        """See `DecodeSteps.keep`."""
        self._plan.keep(going_B)

    def next_logits(self, tokens_B: Tensor, positions_B: Tensor) -> Tensor:
        """See `DecodeSteps.next_logits`."""
        self._plan.advance()
        return _forward(self._network, self._plan, tokens_B, positions_B)


class RecordedSteps:
    """A step recorded once and replayed, until the cache grows or half of the rows have ended.

    Rows that ended are computed along till then, which costs less than recording anew.
    """

    def __init__(self, network: Any, plan: FixedDecodePlan, rows: int, record: Recorder) -> None:
        self._network = network
        self._plan = plan
        self._record = record
        self._replay: Run | None = None
        self._recorded_for = 0  # capacity of the cache
        self._begin(rows, plan.device)

    def _begin(self, rows: int, device: torch.device) -> None:
        """R rows are computed from now on, the B living ones among them."""
        self._slot_B = torch.arange(rows, device=device)
        self._tokens_R = torch.zeros(rows, dtype=torch.long, device=device)
        self._positions_R = torch.zeros(rows, dtype=torch.long, device=device)
        self._replay = None

    def keep(self, going_B: Tensor) -> None:
        """See `DecodeSteps.keep`."""
        self._slot_B = self._slot_B[going_B]
        if 2 * len(self._slot_B) <= len(self._tokens_R):
            self._plan.keep(self._slot_B)
            self._begin(len(self._slot_B), self._slot_B.device)

    def next_logits(self, tokens_B: Tensor, positions_B: Tensor) -> Tensor:
        """See `DecodeSteps.next_logits`."""
        self._plan.advance()
        self._tokens_R[self._slot_B] = tokens_B
        self._positions_R[self._slot_B] = positions_B
        if self._replay is None or self._recorded_for != self._plan.capacity:
            self._recorded_for = self._plan.capacity
            self._replay = self._record(self._run)
        return self._replay()[self._slot_B]

    def _run(self) -> Tensor:
        return _forward(self._network, self._plan, self._tokens_R, self._positions_R)


def record_cuda_graph(run: Run) -> Run:
    """`run` as a CUDA graph over the tensors it uses now; `run` itself where that cannot be.

    It is run before it is recorded: the first calls of many kernels set up what a graph may not.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        run()
        run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            output = run()
    except RuntimeError as error:
        warnings.warn(
            f"This model's decoding cannot be recorded as a CUDA graph ({error}); it goes on "
            "without, and slower.",
            stacklevel=2,
        )
        return run

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def _forward(network: Any, plan: AttentionPlan, tokens_B: Tensor, positions_B: Tensor) -> Tensor:
    with tree_attention(network):
        output = network(
            input_ids=tokens_B[:, None],
            position_ids=positions_B[:, None],
            plan=plan,
            use_cache=False,
        )
    logits_BV: Tensor = output.logits[:, -1].float()
    return logits_BV
