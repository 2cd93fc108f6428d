"""Decoding steps that are recorded and replayed, as on a GPU, against the plain ones.

A CUDA graph does the same again on the same memory. The recorder here does so too: it lets a step
be computed only through the function it was given when it recorded, and gives one fixed tensor.
"""

import contextlib
import dataclasses
import types

import pytest
import torch

from steps import moved_policy
from tunestone.core import decode_plan, decode_steps
from tunestone.core.sampler import Sampler, SamplingParams

TRUNK = list(range(30, 50))
PROMPTS = {
    "shared trunk, unequal lengths": [[*TRUNK, 1], [*TRUNK, 2, 3, 4], [*TRUNK, 5, 6]],
    "nothing shared": [[1, 2, 3], [60], [7, 8, 9, 10, 11, 12]],
    "a trunk that stays shared": [[*range(20, 240), *range(20, 240), p] for p in range(12)],
    "a single one": [TRUNK],
}
each_set = pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
WARM = SamplingParams(max_tokens=24, temperature=0.8)


class Recorder:
    """Replays as a CUDA graph does: the same tensors are read, and one is written."""

    def __init__(self) -> None:
        self.recordings = 0
        self.replays = 0

    def __call__(self, run):
        self.recordings += 1
        run()  # as before a recording on a GPU: twice the same must do no harm
        output = run()

        def replay():
            self.replays += 1
            return output.copy_(run())

        return replay


def both(network, base, prompts, params=WARM, *, record, group=3):
    plain = Sampler(network, base).sample(prompts, group, params, seed=(3,))
    replayed = Sampler(network, base, record=record).sample(prompts, group, params, seed=(3,))
    return plain, replayed


def assert_same(plain, replayed):
    for expected, found in zip(plain, replayed, strict=True):
        assert [c.tokens for c in found] == [c.tokens for c in expected]
        assert [c.finish_reason for c in found] == [c.finish_reason for c in expected]
        for one, other in zip(expected, found, strict=True):
            assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)


@each_set
def test_replayed_steps_draw_what_plain_steps_draw(tiny_base, prompts):
    policy = moved_policy(tiny_base)
    for params in (WARM, dataclasses.replace(WARM, temperature=0.0)):
        record = Recorder()
        assert_same(*both(policy.view, tiny_base, prompts, params, record=record))
        # The first token comes from the prefill, so 24 tokens are at most 23 steps.
        assert 0 < record.replays <= 23


def test_the_trunk_of_one_set_is_shared(tiny_base, monkeypatch):
    """Or the case above would not test what it says: 12 prompts x 440 tokens is above the limit."""
    seen = []
    kept = decode_plan.DecodePlan._to_trunk
    monkeypatch.setattr(
        decode_plan.DecodePlan, "_to_trunk", lambda *args: seen.append(1) or kept(*args)
    )
    both(tiny_base.network, tiny_base, PROMPTS["a trunk that stays shared"], record=Recorder())
    assert seen


def test_a_cache_that_grows_is_recorded_anew(tiny_base, monkeypatch):
    monkeypatch.setattr(decode_plan, "_FIRST_CAPACITY", 4)
    endless = dataclasses.replace(tiny_base, end_tokens=frozenset({10_000}))
    record = Recorder()
    assert_same(*both(tiny_base.network, endless, PROMPTS["nothing shared"], record=record))
    # 23 steps in caches of 4, 8, 16 and 32 places.
    assert (record.recordings, record.replays) == (4, 23)


def test_rows_that_ended_leave_when_they_are_half(tiny_base):
    prompts = PROMPTS["shared trunk, unequal lengths"]
    endless = dataclasses.replace(tiny_base, end_tokens=frozenset({10_000}))
    free = Sampler(tiny_base.network, endless).sample(prompts, 4, WARM, seed=(3,))
    ends = frozenset(free[p][g].tokens[t] for p, g, t in ((0, 0, 3), (1, 2, 7), (2, 1, 12)))
    base = dataclasses.replace(tiny_base, end_tokens=ends)
    record = Recorder()
    plain, replayed = both(tiny_base.network, base, prompts, record=record, group=4)
    assert_same(plain, replayed)
    lengths = sorted(len(c.tokens) for group in plain for c in group)
    assert len(set(lengths)) > 3  # they end at different times
    # Never below half of the rows: 12, then at most 6, 3, 1.
    assert 1 < record.recordings <= 4


# --- the recorder for GPUs, on a stand-in for torch.cuda --------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """What `record_cuda_graph` asks of torch.cuda; `gpu.refuses` makes recording fail."""
    told = types.SimpleNamespace(refuses=False, replays=0)
    stream = types.SimpleNamespace(wait_stream=lambda other: None)

    class Graph:
        def replay(self):
            told.replays += 1

    @contextlib.contextmanager
    def recording(graph):
        yield
        if told.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")

    fake = types.SimpleNamespace(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda s: contextlib.nullcontext(),
        CUDAGraph=Graph,
        graph=recording,
    )
    monkeypatch.setattr(decode_steps.torch, "cuda", fake)
    return told


def test_a_recorded_step_is_replayed_and_not_run_again(gpu):
    runs = []

    def run():
        runs.append(1)
        return torch.tensor(7.0)

    step = decode_steps.record_cuda_graph(run)
    before = len(runs)
    first, second = step(), step()
    assert (gpu.replays, len(runs)) == (2, before)
    assert first is second


def test_what_cannot_be_recorded_goes_on_plainly_and_says_so(gpu):
    gpu.refuses = True
    runs = []

    def run():
        runs.append(1)
        return torch.tensor(7.0)

    with pytest.warns(UserWarning, match="not permitted when stream is capturing"):
        step = decode_steps.record_cuda_graph(run)
    before = len(runs)
    assert float(step()) == 7.0
    assert (len(runs), gpu.replays) == (before + 1, 0)
