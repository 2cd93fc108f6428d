"""`tunestone eval`: two models that are there already, set against each other.

Either the two ends of a run, or any two models on any data. Both answer the same prompts with the
same settings, each through its own tokenizer.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tunestone.config import TrainConfig, resolve
from tunestone.core.comparison import compare
from tunestone.core.evaluate import Example, encode_prompts
from tunestone.core.measure import measure
from tunestone.core.model import BaseModel, load_base, with_adapter
from tunestone.core.prepare import (
    available_threads,
    load_heldout,
    open_sampler,
    template_variables,
)
from tunestone.core.run import load_tuned, open_rewards, run_config, versions
from tunestone.data import fingerprint, load_prompts
from tunestone.errors import ConfigError, DataError, ModelError, RunError
from tunestone.rewards.grader import open_grader
from tunestone.rewards.spec import Context
from tunestone.runlog import RunFolder
from tunestone.slices import refuse_unknown_keys
from tunestone.types import Grader, Prompt

_ADAPTER_CONFIG = "adapter_config.json"  # what makes a folder a PEFT adapter


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for, over what a run says. Empty: as the run has it."""

    data: str = ""
    reward: str = ""
    samples: int | None = None
    """Answers drawn to a prompt for avg@k and pass@k."""
    slices: Sequence[str] = ()
    """Fields of the rows to tell apart; empty: those with few values."""
    assignments: Sequence[str] = ()
    """Further settings as `key=value`."""


def evaluate_run(run: RunFolder, wishes: Wishes, say: Callable[[str], None]) -> dict[str, Any]:
    """Base against tuned on `data` (default: the run's test file, else its validation file).

    Raises DataError when some of its prompts were trained on.
    """
    config = _settings(run, wishes)
    path = wishes.data or config.test or config.validation
    if not path:
        raise RunError("This run names no held-out file.", remedy="Give one with --data.")
    refuse_unknown_keys([prompt.row for prompt in load_prompts(Path(path))], wishes.slices)
    torch.set_num_threads(config.threads)
    tuned = load_tuned(run)
    heldout = load_heldout(tuned, Path(path), config, say)
    base = load_base(config.model)
    if config.start_adapter:  # what the run began with is what it has to beat
        base = with_adapter(base, Path(config.start_adapter))
    numbers = _compare(run, config, (base, tuned), (heldout, heldout), wishes=wishes, say=say)
    task = run.config()["task"]
    return {"task": task, **numbers, "heldout": path, "model": config.model}


def evaluate_pair(
    base: str, tuned: str, wishes: Wishes, say: Callable[[str], None]
) -> dict[str, Any]:
    """Any two models on `data`: run folders, PEFT adapters, model folders, or hub ids.

    When `tuned` is a run, its reward and settings hold unless others are wished for, and prompts it
    was trained on are counted and named. Raises ConfigError without a reward, and what loading the
    data and the models raises.
    """
    run = RunFolder.find(Path(tuned).expanduser())
    config = _settings(run, wishes)
    if not config.reward:
        raise ConfigError("There is no reward to grade with.", remedy="Name it with --reward.")
    prompts = load_prompts(Path(wishes.data))
    refuse_unknown_keys([prompt.row for prompt in prompts], wishes.slices)
    torch.set_num_threads(config.threads or available_threads())
    models = (open_model(base), open_model(tuned))
    examples = _encode_for_both(models, prompts, config, say)
    numbers = _compare(run, config, models, examples, wishes=wishes, say=say)
    return {
        "task": Path(wishes.data).stem,
        **numbers,
        "heldout": wishes.data,
        "base_model": base,
        "tuned_model": tuned,
        "seed": config.seed,
        "versions": versions(),
    }


def open_model(source: str) -> BaseModel:
    """The model of a run folder, a PEFT adapter's folder, a model folder or a hub id.

    Raises RunError for a run without a result, ModelError for what cannot be loaded.
    """
    folder = Path(source).expanduser()
    run = RunFolder.find(folder)
    if run is not None:
        return load_tuned(run)
    return _open_adapter(folder) if (folder / _ADAPTER_CONFIG).is_file() else load_base(source)


def _open_adapter(folder: Path) -> BaseModel:
    try:
        settings = json.loads((folder / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
        name = settings.get("base_model_name_or_path")
        if not name:
            raise ModelError(
                f"The adapter '{folder}' does not say what it sits on.",
                remedy=f"Put `base_model_name_or_path` into its {_ADAPTER_CONFIG}.",
            )
        return with_adapter(load_base(name), folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"The adapter '{folder}' could not be loaded: {error}",
            remedy="Give the folder of a PEFT adapter of that model, such as a run's `adapter`.",
        ) from error


def _settings(run: RunFolder | None, wishes: Wishes) -> TrainConfig:
    """Those of the run, if there is one, under what was wished for."""
    layers = [("the run", run_config(run).model_dump())] if run is not None else []
    wished: dict[str, Any] = {"shadow_reward": ""}  # that is for training
    if wishes.reward:
        wished |= {"reward": wishes.reward, "lenient_reward": ""}
    if wishes.samples is not None:
        wished["test_samples"] = wishes.samples
    config, _ = resolve(layers=[*layers, ("command line", wished)], assignments=wishes.assignments)
    return config


def _encode_for_both(
    models: tuple[BaseModel, BaseModel],
    prompts: Sequence[Prompt],
    config: TrainConfig,
    say: Callable[[str], None],
) -> tuple[list[Example], list[Example]]:
    """The prompts that are short enough for both, as each model reads them."""
    encoded = []
    for model in models:
        limit = getattr(model.network.config, "max_position_embeddings", None)
        room = config.max_prompt_tokens if limit is None else limit - config.max_completion_tokens
        longest = min(config.max_prompt_tokens, room)
        template = template_variables(config)
        encoded.append(encode_prompts(model, prompts, longest=longest, template=template)[0])
    both = {e.prompt.id for e in encoded[0]} & {e.prompt.id for e in encoded[1]}
    if len(both) < len(prompts):
        say(
            f"{len(prompts) - len(both)} of {len(prompts)} prompts are left out: longer than "
            f"max_prompt_tokens = {config.max_prompt_tokens}, or than a model has positions for."
        )
    if not both:
        raise DataError(
            "no prompt is short enough for both models.",
            remedy="Raise it with --set max_prompt_tokens=N, or use shorter prompts.",
        )
    base, tuned = ([e for e in examples if e.prompt.id in both] for examples in encoded)
    return base, tuned


def _compare(
    run: RunFolder | None,
    config: TrainConfig,
    models: tuple[BaseModel, BaseModel],
    examples: tuple[list[Example], list[Example]],
    *,
    wishes: Wishes,
    say: Callable[[str], None],
) -> dict[str, Any]:
    longest = config.max_prompt_tokens + config.max_completion_tokens
    training = _training_prompts(run, say)
    with ExitStack() as stack:
        grader, lenient = _open_graders(run, config, wishes, stack, say)
        base, tuned = (
            measure(
                open_sampler(model, longest=longest), own, grader, config, lenient_grader=lenient
            )
            for model, own in zip(models, examples, strict=True)
        )
    return compare(
        examples[0],
        base,
        tuned,
        slices=wishes.slices or None,
        training=training,
    )


def _training_prompts(run: RunFolder | None, say: Callable[[str], None]) -> list[Prompt] | None:
    """What the run was trained on. None without a run, or when its file is gone or another one."""
    if run is None:
        return None
    record = run.config()["files"]["data"]
    path = Path(record["path"])
    if path.is_file() and fingerprint(path) == record["sha256"]:
        return load_prompts(path)
    say(f"The training file '{path}' is gone or has changed: no leak can be looked for.")
    return None


def _open_graders(
    run: RunFolder | None,
    config: TrainConfig,
    wishes: Wishes,
    stack: ExitStack,
    say: Callable[[str], None],
) -> tuple[Grader, Grader | None]:
    """Strict and lenient: the run's, found where it was created, or those wished for, from here."""
    if run is not None and not wishes.reward:
        rewards = open_rewards(run, config, stack, say)
        return rewards.grader, rewards.lenient
    context = Context(folder=Path.cwd(), sandbox=config.sandbox)
    strict = open_grader(config.reward, context, stack)
    lenient = open_grader(config.lenient_reward, context, stack) if config.lenient_reward else None
    context.tell_sandbox(say)
    return strict, lenient
