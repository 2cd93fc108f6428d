"""How the seconds of a step grow: one quantity varies at a time, the others stay at their base.

A step samples completions of a fixed length from random prompts that share nothing, and learns
from all of them. Models of other sizes than the given one have random weights.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import workload
from matplotlib import pyplot
from measuring import interleaved, summary, timed

from tunestone.config import TrainConfig
from tunestone.core.learner import Learner
from tunestone.core.model import BaseModel, Policy, load_base
from tunestone.core.sampler import Sampler, SamplingParams
from tunestone.types import Completion

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "scale.png"
NEW_TOKENS = 16
SIZES = {
    "30M": workload.LlamaShape(320, 864, 12, 5, 5),
    "135M": workload.LlamaShape(576, 1536, 30, 9, 3),
    "360M": workload.LlamaShape(960, 2560, 32, 15, 5),
}


@dataclass(frozen=True)
class Point:
    """What a step is made of."""

    model: str = ""
    """A key of SIZES; empty is the given model."""
    group_size: int = 8
    prompt_tokens: int = 64
    prompts: int = 2


BASE = Point()
SWEEPS = {
    "group_size": [replace(BASE, group_size=n) for n in (4, 8, 16)],
    "prompt_tokens": [replace(BASE, prompt_tokens=n) for n in (64, 128, 256, 512, 1024)],
    "prompts": [replace(BASE, prompts=n) for n in (1, 2, 4, 8)],
    "model": [replace(BASE, model=name) for name in SIZES],
}
LABELS = {
    "group_size": "completions of a prompt",
    "prompt_tokens": "tokens of a prompt",
    "prompts": "prompts of a step",
    "model": "millions of parameters",
}

LINES = (
    ("seconds", "step", "#1f6feb"),
    ("sample_seconds", "sample", "#2b8a3e"),
    ("learn_seconds", "learn", "#d9480f"),
)


def measure(options: Namespace) -> dict[str, Any]:
    """Seconds at every point of every sweep, and the picture."""
    setting = workload.setting(options)
    base = load_base(options.model)
    bases = {name: workload.random_llama(base, shape) for name, shape in SIZES.items()}
    parameters = {name: model.network.num_parameters() for name, model in bases.items()}
    policies = {
        name: Policy(model, lora_rank=workload.LORA_RANK)
        for name, model in {"": base, **bases}.items()
    }
    points = dict.fromkeys(point for sweep in SWEEPS.values() for point in sweep)
    steps = [_Step(policies[point.model], point) for point in points]
    series = interleaved([step.measure for step in steps], options.repeats)
    results = {
        name: [_describe(point, parameters, series) for point in sweep]
        for name, sweep in SWEEPS.items()
    }
    _draw(results, options)
    return {"setting": setting, "new_tokens": NEW_TOKENS, **results}


class _Step:
    """Sampling and learning at one point."""

    def __init__(self, policy: Policy, point: Point) -> None:
        self._point = point
        self._base: BaseModel = policy.base
        self._sampler = Sampler(policy.view, workload.endless(policy.base))
        config = TrainConfig(max_completion_tokens=NEW_TOKENS, lora_rank=policy.lora_rank)
        self._learner = Learner(policy, config)

    def measure(self) -> dict[str, float]:
        """Seconds of the two halves of a step."""
        point = self._point
        prompts_PT = workload.prompts(self._base, point.prompts, point.prompt_tokens)
        drawn: list[list[Completion]] = []

        def sample() -> None:
            params = SamplingParams(max_tokens=NEW_TOKENS)
            drawn.extend(self._sampler.sample(prompts_PT, point.group_size, params))

        def learn() -> None:
            groups = [workload.with_signal(*pair) for pair in zip(prompts_PT, drawn, strict=True)]
            self._learner.update(groups, learning_rate=workload.LEARNING_RATE)

        return {f"sample {point}": timed(sample), f"learn {point}": timed(learn)}


def _describe(
    point: Point, parameters: Mapping[str, int], series: Mapping[str, list[float]]
) -> dict[str, Any]:
    sample, learn = series[f"sample {point}"], series[f"learn {point}"]
    return {
        **asdict(point),
        **({"parameters": parameters[point.model]} if point.model else {}),
        "sample_seconds": summary(sample),
        "learn_seconds": summary(learn),
        "seconds": summary(a + b for a, b in zip(sample, learn, strict=True)),
    }


def _draw(results: Mapping[str, list[dict[str, Any]]], options: Namespace) -> None:
    """One panel a sweep: the step and its two halves, with their ranges."""
    pyplot.switch_backend("agg")
    figure, panels = pyplot.subplots(1, len(results), figsize=(12, 3.2), layout="constrained")
    for axes, (name, points) in zip(panels, results.items(), strict=True):
        across = [point["parameters"] / 1e6 if name == "model" else point[name] for point in points]
        for part, label, colour in LINES:
            middle = [point[part]["median"] for point in points]
            below = [point[part]["median"] - point[part]["low"] for point in points]
            above = [point[part]["high"] - point[part]["median"] for point in points]
            axes.errorbar(
                across, middle, yerr=(below, above), marker="o", color=colour, label=label
            )
        axes.set(xlabel=LABELS[name], ylim=(0, None), xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds a step")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    threads = "1 thread" if options.threads == 1 else f"{options.threads} threads"
    step = f"{BASE.prompts} prompts of {BASE.prompt_tokens} tokens x {BASE.group_size} completions"
    title = f"{Path(options.model).name}, {threads}, {step} of {NEW_TOKENS} tokens; one is varied"
    figure.suptitle(title, fontsize=10)
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGE, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
