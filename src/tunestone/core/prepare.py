"""From a config to a trainer: load data, model and reward, and choose how to compute.

Everything that can be refused is refused here, before the first step.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tunestone.config import TrainConfig
from tunestone.core.attention import TreeUnsupportedError
from tunestone.core.constraint import answer_grammar
from tunestone.core.evaluate import Example, encode_prompts
from tunestone.core.learner import Group, Learner
from tunestone.core.logprobs import rows_logprobs, tolerance
from tunestone.core.memory import keep_freed_memory
from tunestone.core.model import BaseModel, Policy, fast_view, load_base
from tunestone.core.rows_sampler import RowsSampler
from tunestone.core.sampler import CompletionSampler, Sampler, SamplingParams
from tunestone.core.train import Trainer
from tunestone.core.vllm_sampler import VllmSampler, import_vllm
from tunestone.data import find_overlap, load_prompts
from tunestone.errors import ConfigError, DataError
from tunestone.runlog import RunFolder
from tunestone.types import Grader, Prompt

_VALIDATION_ROWS = 64
_HELLO = Prompt(id="hello", messages=({"role": "user", "content": "Hello"},))


def available_threads() -> int:
    """Cores this process may run on; fewer where the environment's OMP_NUM_THREADS says so."""
    bound = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if bound else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(asked))) if asked.isdecimal() else cores


def prepare(
    run: RunFolder,
    config: TrainConfig,
    grader: Grader,
    say: Callable[[str], None],
    *,
    reward_sha256: str = "",
    base: BaseModel | None = None,
) -> Trainer:
    """Build the trainer of a run. Raises DataError or ModelError when something cannot work.

    `base`: the config's model, when it is loaded already.
    """
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    if config.sampler == "vllm":
        import_vllm()  # refused before anything is loaded
    training_prompts, validation_prompts = split(config, say)
    base = base or load_base(config.model, full_precision=config.lora_rank == 0)
    training = _encode(base, training_prompts, config, say, name="training")
    validation = _encode(base, validation_prompts, config, say, name="validation")
    _refuse_too_long(base, [*training, *validation], config)
    policy = Policy(
        base,
        lora_rank=config.lora_rank,
        seed=config.seed,
        with_reference=config.kl_coefficient > 0,
    )
    if config.start_adapter:
        policy.start_from(Path(config.start_adapter))
    learner = Learner(policy, config)
    sampler, why = _choose_for_training(policy, learner, validation[0], config)
    if why:
        say(f"This model cannot share prefixes ({why}); using padded rows, which is slower.")
    steps = config.max_steps or math.ceil(config.epochs * len(training) / config.batch_size)
    return Trainer(
        run=run,
        config=config,
        policy=policy,
        learner=learner,
        sampler=sampler,
        grader=grader,
        reward_sha256=reward_sha256,
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
    _refuse_overlap(load_prompts(Path(config.data)), prompts, str(path), "training")
    if config.validation and Path(config.validation) != path:
        _refuse_overlap(load_prompts(Path(config.validation)), prompts, str(path), "validation")
    return _encode(base, prompts, config, say, name=path.name)


def template_variables(config: TrainConfig) -> dict[str, Any]:
    """What the chat template is told beside the messages; an enforced form leaves no room for
    reasoning."""
    if config.reasoning_effort == "default":
        return {"enable_thinking": False} if answer_grammar(config.response_format) else {}
    thinks = answer_grammar(config.response_format) is None
    return {"reasoning_effort": config.reasoning_effort, "enable_thinking": thinks}


def open_sampler(base: BaseModel, *, longest: int) -> CompletionSampler:
    """A sampler for inference with a plain model, for texts of at most `longest` tokens."""
    view, _ = fast_view(base.network)
    return choose_sampler(base, view, base.encode(_HELLO), longest=longest)[0]


def choose_sampler(
    base: BaseModel, network: Any, prompt_T: Sequence[int], *, longest: int
) -> tuple[CompletionSampler, str]:
    """The shared-prefix sampler when it agrees with plain rows on one group; else the plain one.

    The second value says why it had to be the plain one, and is empty otherwise.
    """
    sampler = Sampler(network, base)
    plain = RowsSampler(network, base)
    try:
        _refuse_short_window(base, longest)
        (completions_G,) = sampler.sample([prompt_T], 2, SamplingParams(max_tokens=8))
    except (TreeUnsupportedError, TypeError) as error:  # TypeError: its forward takes no `plan`
        return plain, str(error)
    rows = [[*prompt_T, *completion.tokens] for completion in completions_G]
    with torch.inference_mode():
        plain_R = rows_logprobs(
            base.network, rows, [len(prompt_T)] * len(rows), 1.0, pad_token=base.pad_token
        )
    drawn_R = torch.tensor([x for completion in completions_G for x in completion.logprobs])
    difference = float((drawn_R - plain_R.cpu()).abs().max())
    if difference > tolerance(network):
        return plain, f"its log-probabilities would be {difference:.2g} nats off"
    return sampler, ""


def split(config: TrainConfig, say: Callable[[str], None]) -> tuple[list[Prompt], list[Prompt]]:
    """Training and validation prompts, with nothing in both."""
    prompts = load_prompts(Path(config.data))
    if config.validation:
        heldout = load_prompts(Path(config.validation))
        _refuse_overlap(prompts, heldout, config.validation, "training")
        return prompts, heldout[: config.validation_rows]
    if len(prompts) < 2:
        raise DataError(
            "one row cannot be split into training and validation.",
            path=config.data,
            remedy="Add rows, or name a validation file.",
        )
    count = max(1, min(config.validation_rows or _VALIDATION_ROWS, len(prompts) // 10))
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(config.seed))
    chosen = set(order[:count].tolist())
    heldout = [prompt for i, prompt in enumerate(prompts) if i in chosen]
    seen = {id_ for _, id_ in find_overlap(heldout, prompts)}
    training = [p for i, p in enumerate(prompts) if i not in chosen and p.id not in seen]
    if len(training) + len(heldout) < len(prompts):
        repeated = len(prompts) - len(training) - len(heldout)
        say(f"{repeated} training prompts repeat a validation prompt and are left out.")
    if not training:
        raise DataError(
            "its prompts are all equal; nothing is left to validate on.",
            path=config.data,
            remedy="Name a validation file.",
        )
    return training, heldout


def _refuse_overlap(
    used: Sequence[Prompt], heldout: Sequence[Prompt], path: str, name: str
) -> None:
    pairs = find_overlap(used, heldout)
    if pairs:
        raise DataError(
            f"{len(pairs)} prompts are also in the {name} data, '{pairs[0][1]}' (there "
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
    examples, dropped = encode_prompts(
        base, prompts, longest=config.max_prompt_tokens, template=template_variables(config)
    )
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


def _choose_for_training(
    policy: Policy, learner: Learner, example: Example, config: TrainConfig
) -> tuple[CompletionSampler, str]:
    """Sampler and tree, or plain rows for both, and why.

    Decided once, before the first step: a change in the middle of a run would change its bits.
    """
    base, prompt_T = policy.base, list(example.tokens)
    longest = config.max_prompt_tokens + config.max_completion_tokens
    sampler, why = choose_sampler(base, policy.view, prompt_T, longest=longest)
    learner.uses_tree = not why
    if learner.uses_tree:
        params = SamplingParams(max_tokens=8, temperature=config.temperature)
        (completions_G,) = sampler.sample([prompt_T], 2, params)
        difference = learner.check_tree(Group(prompt_T, completions_G, [0.0, 0.0]))
        if not learner.uses_tree:
            why = f"tree and rows differ by {difference:.2g} nats"
            sampler = RowsSampler(policy.view, base)
    if config.sampler == "vllm":
        limit = getattr(base.network.config, "max_position_embeddings", None) or longest
        sampler = VllmSampler(
            policy, import_vllm(), longest=min(longest, limit), uses_tree=learner.uses_tree
        )
    return sampler, why


def _refuse_too_long(base: BaseModel, examples: Sequence[Example], config: TrainConfig) -> None:
    """Raise ConfigError when a text could outgrow the model's positions."""
    limit = getattr(base.network.config, "max_position_embeddings", None)
    longest = max(len(example.tokens) for example in examples) + config.max_completion_tokens
    if limit is not None and longest > limit:
        raise ConfigError(
            f"A prompt with its completion may take {longest} tokens; '{config.model}' has "
            f"positions for {limit}.",
            remedy="Lower max_prompt_tokens or max_completion_tokens.",
        )


def _refuse_short_window(base: BaseModel, longest: int) -> None:
    """Raise TreeUnsupportedError when some layer cannot see `longest` tokens back."""
    settings = base.network.config
    window = getattr(settings, "sliding_window", None)
    if window is not None and getattr(settings, "use_sliding_window", True) and longest > window:
        raise TreeUnsupportedError(
            f"its attention window is {window} tokens, max_prompt_tokens + max_completion_tokens "
            f"are {longest}"
        )
