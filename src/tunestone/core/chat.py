"""Asking a base or tuned model, turn by turn."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunestone.core.model import load_base
from tunestone.core.prepare import open_sampler
from tunestone.core.run import load_tuned, run_config
from tunestone.core.sampler import SamplingParams
from tunestone.data import load_prompts
from tunestone.runlog import RunFolder
from tunestone.types import Prompt


class Chat:
    """A dialog with the model of a run folder, a model folder, or a hub id.

    With a run, the turns that all its training prompts share (a system text, worked examples) open
    every question, as in training: a model tuned with them expects them.
    """

    def __init__(
        self, model: str, *, with_context: bool, temperature: float, max_tokens: int
    ) -> None:
        self._context: list[Mapping[str, Any]] = []
        stop: tuple[str, ...] = ()
        run = RunFolder.find(Path(model))
        if run is not None:
            self._base = load_tuned(run)
            stop = run_config(run).stop
            if with_context:
                self._context = shared_turns(run)
        else:
            self._base = load_base(model)
        limit = self._base.network.config.max_position_embeddings
        self._sampler = open_sampler(self._base, longest=limit)
        self._params = SamplingParams(max_tokens=max_tokens, temperature=temperature, stop=stop)
        self._turns: list[Mapping[str, Any]] = []

    def ask(self, text: str) -> str:
        """The answer to `text`; a dialog without shared turns remembers what was said."""
        self._turns.append({"role": "user", "content": text})
        messages = (*self._context, *self._turns)
        tokens = self._base.encode(Prompt(id="chat", messages=messages))
        seed = int.from_bytes(os.urandom(4), "big")
        ((completion,),) = self._sampler.sample([tokens], 1, self._params, seed=(seed,))
        if self._context:
            self._turns = []
        else:
            self._turns.append({"role": "assistant", "content": completion.text})
        return completion.text


def shared_turns(run: RunFolder) -> list[Mapping[str, Any]]:
    """Leading turns that every training prompt of the run begins with, up to an answer."""
    prompts = load_prompts(Path(run_config(run).data))
    shared = list(prompts[0].messages[:-1])
    for prompt in prompts:
        while shared and list(prompt.messages[: len(shared)]) != shared:
            shared.pop()
    while shared and shared[-1]["role"] == "user":  # our own question comes next
        shared.pop()
    return shared
