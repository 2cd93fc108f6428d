"""Driving the engine's scheduler step by step, without processes and pipes."""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from tunestone.core.model import load_base
from tunestone.engine.scheduler import Scheduler
from tunestone.engine.shelf import Shelf
from tunestone.generation import Delta, Ended, Failed, GenerationRequest, ModelRef, Started


@dataclass
class Told:
    """Everything that was told about one request."""

    started: Started | None = None
    texts: dict[int, str] = field(default_factory=lambda: defaultdict(str))
    logprobs: dict[int, list] = field(default_factory=lambda: defaultdict(list))
    deltas: dict[int, list] = field(default_factory=lambda: defaultdict(list))
    ended: dict[int, Ended] = field(default_factory=dict)
    failed: Failed | None = None

    def take(self, event) -> None:
        if isinstance(event, Started):
            self.started = event
        elif isinstance(event, Delta):
            assert self.started is not None
            assert event.index not in self.ended
            self.texts[event.index] += event.text
            self.logprobs[event.index] += event.logprobs
            self.deltas[event.index].append(event)
        elif isinstance(event, Ended):
            self.ended[event.index] = event
        else:
            self.failed = event


class Engine:
    """A scheduler with everything it ever told."""

    def __init__(
        self, *, models: int = 2, adapters: int = 16, rows: int = 64, cache_bytes: int = 2**30
    ) -> None:
        self.shelf = Shelf(models=models, adapters=adapters)
        self.scheduler = Scheduler(self.shelf, rows=rows, cache_bytes=cache_bytes)
        self.told: dict[str, Told] = defaultdict(Told)

    def submit(self, **fields) -> str:
        """Ask; gives the request's id."""
        request = GenerationRequest(**fields)
        self._take(self.scheduler.submit(request))
        return request.id

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self._take(self.scheduler.step())

    def finish(self) -> dict[str, Told]:
        """Step until nobody waits."""
        while any(self.scheduler.stats()[name] for name in ("running", "waiting")):
            self.step()
            if not self.scheduler.has_work:
                time.sleep(0.005)  # a base is being loaded
        return self.told

    def ask(self, **fields) -> Told:
        """One request alone."""
        name = self.submit(**{"id": f"asked-{len(self.told)}", **fields})
        return self.finish()[name]

    def ask_beside(self, **fields) -> Told:
        """One request while others go on."""
        name = self.submit(**{"id": f"asked-{len(self.told)}", **fields})
        while not self.told[name].ended:
            self.step()
        return self.told[name]

    def _take(self, events) -> None:
        for event in events:
            self.told[event.id].take(event)


def tiny(folder: Path, adapter: Path | None = None) -> ModelRef:
    return ModelRef(str(folder), str(adapter) if adapter else "")


def write_adapter(base_folder: Path, folder: Path, *, seed: int, **settings) -> Path:
    """A PEFT adapter with random weights, both A and B, so that it changes what is said."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings}
        network = get_peft_model(
            load_base(str(base_folder)).network, LoraConfig(task_type="CAUSAL_LM", **config)
        )
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0.0, 0.2)
        network.save_pretrained(folder, save_embedding_layers=False)
    return folder
