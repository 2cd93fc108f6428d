"""From a config to a trainer: load data, model and reward, and choose how to compute.

Everything that can be refused is refused here, before the first completion is drawn.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tunestone.config import TrainConfig
from tunestone.core.attention import TreeUnsupportedError
from tunestone.core.evaluate import Example, encode_prompts
from tunestone.core.learner import Group, Learner
from tunestone.core.model import BaseModel, Policy, load_base
from tunestone.core.rows_sampler import RowsSampler
from tunestone.core.sampler import CompletionSampler, Sampler, SamplingParams
from tunestone.core.train import Trainer
from tunestone.data import find_overlap, load_prompts
from tunestone.errors import DataError
from tunestone.runlog import RunFolder
from tunestone.types import Grader, Prompt

_VALIDATION_ROWS = 64
_HELLO = Prompt(id="hello", messages=({"role": "user", "content": "Hello"},))


def available_threads() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(
    run: RunFolder, config: TrainConfig, grader: Grader, say: Callable[[str], None]
) -> Trainer:
    """Build the trainer of a run. Raises DataError or ModelError when something cannot work."""
    torch.set_num_threads(config.threads or available_threads())
    training_prompts, validation_prompts = _split(config)
    base = load_base(config.model)
    training = _encode(base, training_prompts, config, say, name="training")
    validation = _encode(base, validation_prompts, config, say, name="validation")
    policy = Policy(
        base,
        lora_rank=config.lora_rank,
        seed=config.seed,
        with_reference=config.kl_coefficient > 0,
    )
    learner = Learner(policy, config)
    steps = config.max_steps or math.ceil(config.epochs * len(training) / config.batch_size)
    return Trainer(
        run=run,
        config=config,
        policy=policy,
        learner=learner,
        sampler=_choose_sampler(
            policy,
            learner,
            validation[0],
            say,
            longest=config.max_prompt_tokens + config.max_completion_tokens,
        ),
        grader=grader,
        training=training,
        validation=validation,
        steps=steps,
        eval_every=config.eval_every or max(1, min(10, len(training) // config.batch_size)),
    )


def load_heldout(
    base: BaseModel, path: Path, config: TrainConfig, say: Callable[[str], None]
) -> list[Example]:
    """Held-out prompts of a file, encoded. Raises DataError when some were trained on."""
    prompts = load_prompts(path)
    _refuse_overlap(load_prompts(Path(config.data)), prompts, str(path))
    return _encode(base, prompts, config, say, name=path.name)


def open_sampler(base: BaseModel) -> CompletionSampler:
    """A sampler for inference with a plain model: shared prefixes where the model allows them."""
    sampler = Sampler(base.network, base)
    try:
        sampler.sample([base.encode(_HELLO)], 1, SamplingParams(max_tokens=2, temperature=0.0))
    except (TreeUnsupportedError, TypeError):  # TypeError: its forward takes no `plan`
        return RowsSampler(base.network, base)
    return sampler


def _split(config: TrainConfig) -> tuple[list[Prompt], list[Prompt]]:
    """Training and validation prompts, with nothing in both."""
    prompts = load_prompts(Path(config.data))
    if config.validation:
        heldout = load_prompts(Path(config.validation))
        _refuse_overlap(prompts, heldout, config.validation)
        return prompts, heldout
    if len(prompts) < 2:
        raise DataError(
            "one row cannot be split into training and validation.",
            path=config.data,
            remedy="Add rows, or name a validation file.",
        )
    count = max(1, min(_VALIDATION_ROWS, len(prompts) // 10))
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(config.seed))
    chosen = set(order[:count].tolist())
    heldout = [prompt for i, prompt in enumerate(prompts) if i in chosen]
    seen = {id_ for _, id_ in find_overlap(heldout, prompts)}
    training = [p for i, p in enumerate(prompts) if i not in chosen and p.id not in seen]
    return training, heldout


def _refuse_overlap(training: Sequence[Prompt], heldout: Sequence[Prompt], path: str) -> None:
    pairs = find_overlap(training, heldout)
    if pairs:
        raise DataError(
            f"{len(pairs)} prompts are also in the training data, '{pairs[0][1]}' (there "
            f"'{pairs[0][0]}') among them: a gain on them would prove nothing.",
            path=path,
            remedy="Remove them from one of the two files.",
        )


def _encode(
    base: BaseModel,
    prompts: Sequence[Prompt],
    config: TrainConfig,
    say: Callable[[str], None],
    *,
    name: str,
) -> list[Example]:
    examples, dropped = encode_prompts(base, prompts, longest=config.max_prompt_tokens)
    if dropped:
        say(
            f"{dropped} of {len(prompts)} {name} prompts are longer than max_prompt_tokens = "
            f"{config.max_prompt_tokens} and are left out."
        )
    if not examples:
        raise DataError(
            f"no {name} prompt is left: all exceed max_prompt_tokens = {config.max_prompt_tokens}.",
            remedy="Raise max_prompt_tokens.",
        )
    return examples


def _choose_sampler(
    policy: Policy,
    learner: Learner,
    example: Example,
    say: Callable[[str], None],
    *,
    longest: int,
) -> CompletionSampler:
    """The shared-prefix sampler if it and the tree agree with plain rows on one group.

    Decided once, before the first step: a change in the middle of a run would change its bits.
    """
    prompt_T = list(example.tokens)
    sampler: CompletionSampler = Sampler(policy.sampling_network, policy.base)
    params = SamplingParams(max_tokens=8, temperature=learner.temperature)
    try:
        _refuse_short_window(policy.base, longest)
        (completions_G,) = sampler.sample([prompt_T], 2, params)
    except (TreeUnsupportedError, TypeError) as error:  # TypeError: its forward takes no `plan`
        learner.uses_tree = False
        say(f"This model cannot share prefixes ({error}); using padded rows, which is slower.")
        return RowsSampler(policy.sampling_network, policy.base)
    difference = learner.check_tree(Group(prompt_T, completions_G, [0.0, 0.0]))
    if learner.uses_tree:
        return sampler
    say(
        f"Token tree and padded rows differ by {difference:.2g} nats on this model; using padded "
        "rows, which is slower."
    )
    return RowsSampler(policy.sampling_network, policy.base)


def _refuse_short_window(base: BaseModel, longest: int) -> None:
    """Raise TreeUnsupportedError when some layer cannot see `longest` tokens back."""
    settings = base.network.config
    window = getattr(settings, "sliding_window", None)
    if window is not None and getattr(settings, "use_sliding_window", True) and longest > window:
        raise TreeUnsupportedError(
            f"its attention window is {window} tokens, max_prompt_tokens + max_completion_tokens "
            f"are {longest}"
        )
