"""The whole check: data, reward, signal and plan of a training that has not begun.

It loads the model, draws completions of a few prompts as the first step would, grades them, tries
the reward on texts of its own, and forecasts with the settings it recommends. Nothing is trained.
"""

import json
import time
import tokenize
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tunestone
from tunestone.check.findings import CheckReport, Json, Section, counted
from tunestone.check.memory import available_mib, find_gpu, peak_mib
from tunestone.check.plan import Recommendation, Setup, config_toml, recommend
from tunestone.check.plan_section import Cost, Estimates, Prices, check_plan
from tunestone.check.reward_numbers import judge_tokens
from tunestone.check.reward_section import RewardTask, check_reward
from tunestone.check.rows import load_rows, look_at_rows
from tunestone.check.signal_section import Drawn, check_signal
from tunestone.check.trial import Graded
from tunestone.config import TrainConfig
from tunestone.core.forecast import forecast
from tunestone.core.model import BaseModel, load_base
from tunestone.core.prepare import available_threads, prepare
from tunestone.core.train import Trainer, sampling_params
from tunestone.data import load_prompts
from tunestone.errors import SandboxError
from tunestone.rewards.function import is_file
from tunestone.rewards.grader import read_spec
from tunestone.rewards.spec import Context, Spec
from tunestone.runlog import RunFolder
from tunestone.types import Grader, Sample


@dataclass(frozen=True, slots=True)
class CheckTask:
    """What is to be checked, and how thoroughly."""

    config: TrainConfig
    given: Mapping[str, Any]
    """The settings the user gave; only these are kept in the plan as they are."""
    prompts: int = 32
    """Prompts to draw completions of."""
    completions: int = 8
    """Completions of each."""
    prices: Prices | None = None


def run_check(task: CheckTask, say: Callable[[str], None]) -> tuple[CheckReport, str]:
    """The report, and a config with the recommended settings; empty when training cannot begin.

    What rules training out before anything is drawn (a leak, say) ends the check there, with the
    sections so far. Raises DataError, ModelError or RewardError when something cannot even be
    looked at.
    """
    start = time.perf_counter()
    config = task.config.model_copy(update={"threads": task.config.threads or available_threads()})
    torch.set_num_threads(config.threads)
    context = Context(folder=Path.cwd(), sandbox=config.sandbox)
    look = _Look(task, config, context, read_spec(config.reward, context), say)
    sections, plan = _check(look)
    context.tell_sandbox(say)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    subject: dict[str, Json] = {
        "data": config.data,
        "reward": config.reward,
        "model": config.model,
        **_sandbox(context),
        "version": tunestone.__version__,
        "time": now,
        "seconds": round(time.perf_counter() - start, 1),
    }
    title = f"Recommended by tunestone check on {now}."
    toml = config_toml(plan, given=task.given, title=title) if plan else ""
    return CheckReport(subject, sections), toml


@dataclass(frozen=True, slots=True)
class _Look:
    """What all parts of a check need."""

    task: CheckTask
    config: TrainConfig
    """The task's, with the threads filled in."""
    context: Context
    spec: Spec
    say: Callable[[str], None]


def _check(look: _Look) -> tuple[tuple[Section, ...], Recommendation | None]:
    """The sections, and the plan; only those up to what rules training out, and then no plan."""
    config, spec = look.config, look.spec
    rows = load_rows(config)  # before the model: what is wrong with a file is told at once
    base = load_base(config.model, full_precision=config.lora_rank == 0)
    first = look_at_rows(
        rows,
        config,
        (base.tokenizer, base.network.config),
        given=look.task.given,
        reward_source="" if spec.calls_models else _source_of(spec, look.context),
        say=look.say,
    )
    if first.setup is None or first.plan is None:
        look.say("The data rules training out: no completions are drawn.")
        return first.sections, None
    if first.is_fatal:
        look.say("The prompts do not fit: no completions are drawn.")
        return first.sections, None
    with ExitStack() as stack:
        grader, again = (spec.open(look.context, stack) for _ in range(2))
        # Its lengths are needed to draw; the rest of the plan follows from what is drawn.
        trainer = _trainer(first.plan.config, base, grader)
        sections, plan = _check_with_model(look, first.setup, trainer, again)
    return (first.sections[0], *sections), plan


def _check_with_model(
    look: _Look, setup: Setup, trainer: Trainer, again: Grader
) -> tuple[tuple[Section, ...], Recommendation]:
    """The sections reward, signal and plan. `again`: a second grader of the same reward."""
    task, calls_models = look.task, look.spec.calls_models
    prompts = counted(min(task.prompts, len(trainer.training)), "prompt")
    look.say(f"Drawing {task.completions} completions of each of {prompts} ...")
    drawn, graded = _draw(trainer, task)
    signal, facts = check_signal(drawn)
    setup = replace(setup, signal=facts)
    plan = recommend(setup)
    look.say("Trying the reward ...")
    reward = check_reward(
        trainer.grader,
        [example.prompt for example in trainer.training],
        RewardTask(plan.config.batch_size, plan.config.group_size, calls_models),
        completions=graded,
        again=again,
    )
    estimates = Estimates(
        cost=_forecast(trainer, plan),
        memory_available_mib=available_mib(find_gpu()),
        judge_tokens=judge_tokens([grade for _, grade in graded]) if calls_models else None,
        prices=task.prices,
        validation_rows=len(trainer.validation),
    )
    return (reward, signal, check_plan(setup, plan, estimates)), plan


def _sandbox(context: Context) -> dict[str, Json]:
    """What confines reward code here; nothing where nothing can, for then the reward needs none."""
    with suppress(SandboxError):
        return {"sandbox": context.mechanism.description}
    return {}


def _trainer(config: TrainConfig, base: BaseModel, grader: Grader) -> Trainer:
    """A trainer that will not train: it has no run folder on disk."""
    nowhere = RunFolder(Path())
    config = config.model_copy(update={"threads": config.threads or available_threads()})
    return prepare(nowhere, config, grader, lambda message: None, base=base)


def _draw(trainer: Trainer, task: CheckTask) -> tuple[list[Drawn], list[Graded]]:
    """Graded completions of prompts from the whole length of the data, drawn as in training."""
    config = trainer.config
    order = np.random.default_rng([config.seed, 0]).permutation(len(trainer.training))
    examples = [trainer.training[i] for i in sorted(order[: task.prompts])]
    groups = trainer.sampler.sample(
        [example.tokens for example in examples],
        task.completions,
        sampling_params(config),
        seed=(config.seed, 0),
    )
    samples_P = [
        [Sample(example.prompt, c.text, c.finish_reason == "length") for c in group]
        for example, group in zip(examples, groups, strict=True)
    ]
    samples = [sample for samples_G in samples_P for sample in samples_G]
    grades = trainer.grader.grade(samples)
    drawn = []
    for p, (example, group) in enumerate(zip(examples, groups, strict=True)):
        own = grades[p * task.completions : (p + 1) * task.completions]
        drawn.append(
            Drawn(
                example.prompt,
                texts_G=tuple(completion.text for completion in group),
                rewards_G=tuple(grade.reward for grade in own if grade.reward is not None),
                lengths_G=tuple(len(completion.tokens) for completion in group),
                truncated=sum(completion.finish_reason == "length" for completion in group),
            )
        )
    return drawn, list(zip(samples, grades, strict=True))


def _forecast(trainer: Trainer, plan: Recommendation) -> Cost:
    """Time by a calibration with the plan's settings; memory by the peak it reached."""
    config = plan.config.model_copy(update={"threads": trainer.config.threads})
    planned = replace(trainer, config=config, steps=plan.steps)
    heldout = len(load_prompts(Path(config.test))) if config.test else len(trainer.validation)
    cost = forecast(planned, heldout)
    peak = peak_mib(find_gpu())
    return Cost(
        seconds_low=cost.low,
        seconds=cost.total,
        seconds_high=cost.high,
        memory_mib_low=peak,
        memory_mib=1.15 * peak,
        memory_mib_high=1.5 * peak,
    )


def _source_of(spec: Spec, context: Context) -> str:
    """What shows which markers the reward looks for: its source when it is code, else its spec."""
    files = [file for file in spec.files(context) if is_file(str(file)) and file.is_file()]
    sources = [_read_python(file) for file in files if file.suffix == ".py"]
    return "\n".join(sources) or json.dumps(spec.model_dump(mode="json"))


def _read_python(file: Path) -> str:
    """In the encoding that it declares; empty when it is no Python, which opening it will tell."""
    try:
        with tokenize.open(file) as source:
            return source.read()
    except (SyntaxError, UnicodeDecodeError):
        return ""
