"""Where the time of a training step goes, by torch.profiler: one table of shares.

An update is profiled after two that are not; the profiler itself costs a few percent, so the shares
are those of the profiled update. What lies outside of PyTorch's operations is Python and waiting.
"""

from argparse import Namespace
from typing import Any

import workload
from against_limits import Training
from torch.profiler import ProfilerActivity, profile

from tunestone.core.model import Policy, load_base

_KINDS = {
    "products": ("_linear_pointwise", "aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("_flash_attention_for_cpu",),
    "packing weights": ("_reorder_linear_weight",),
    "optimizer": ("Optimizer", "_foreach_", "_fused_adam"),
}
"""What is counted as what, by a part of the operation's name; the rest is element-wise."""
_WARM = 2


def measure(options: Namespace) -> dict[str, Any]:
    """Seconds of an update, and the share of each kind of operation."""
    setting = workload.setting(options)
    policy = Policy(load_base(options.model), lora_rank=workload.LORA_RANK)
    training = Training(policy)
    for _ in range(_WARM):
        training.measure()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        seconds = training.measure()["train"]
    spent = dict.fromkeys([*_KINDS, "element-wise and copies"], 0.0)
    for event in profiler.key_averages():
        spent[_kind(event.key)] += event.self_cpu_time_total / 1e6
    spent["Python"] = seconds - sum(spent.values())
    shares = {kind: round(value / seconds, 3) for kind, value in spent.items()}
    return {"setting": setting, "seconds": round(seconds, 2), "shares": shares}


def _kind(operation: str) -> str:
    found = [kind for kind, names in _KINDS.items() if any(name in operation for name in names)]
    return found[0] if found else "element-wise and copies"
