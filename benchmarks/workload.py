"""Made-up prompts, completions and models of a known size, for limits.py and scale.py."""

import dataclasses
import math
import random
from argparse import Namespace
from dataclasses import dataclass

import torch
from measuring import commit, is_dirty, machine, versions
from transformers import LlamaConfig, LlamaForCausalLM

from tunestone.core.learner import Group
from tunestone.core.model import BaseModel
from tunestone.types import Completion

LORA_RANK = 16
LEARNING_RATE = 1e-6  # the work is the same at any rate; the model stays as it was


@dataclass(frozen=True)
class LlamaShape:
    """What decides the number of a Llama's parameters, besides its vocabulary."""

    width: int
    inner: int
    layers: int
    query_heads: int
    key_heads: int


def endless(base: BaseModel) -> BaseModel:
    """The same model without end tokens, so that every completion has its full length."""
    return dataclasses.replace(base, end_tokens=frozenset())


def prompts(base: BaseModel, count: int, length: int) -> list[list[int]]:
    """`count` rows of `length` random tokens; the same call gives the same rows."""
    return [_tokens(base, length, seed=p) for p in range(count)]


def groups(base: BaseModel, *, count: int, size: int, prompt: int, answer: int) -> list[Group]:
    """Groups of `size` random completions of `answer` tokens, all with signal."""
    return [
        with_signal(prompt_T, [_completion(base, answer, seed=(p, g)) for g in range(size)])
        for p, prompt_T in enumerate(prompts(base, count, prompt))
    ]


def with_signal(prompt_T: list[int], completions_G: list[Completion]) -> Group:
    """A group in which every other completion is better than average, the rest worse."""
    advantages = [1.0 if g % 2 else -1.0 for g in range(len(completions_G))]
    return Group(list(prompt_T), completions_G, list(advantages))


def random_llama(base: BaseModel, shape: LlamaShape) -> BaseModel:
    """A Llama with random weights, and the tokenizer and vocabulary of `base`."""
    config = LlamaConfig(
        vocab_size=base.network.config.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.query_heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return dataclasses.replace(base, network=LlamaForCausalLM(config).eval())


def setting(options: Namespace) -> dict[str, object]:
    """What was measured on what; also makes torch keep to the threads."""
    torch.set_num_threads(options.threads)
    return {
        "model": options.model,
        "threads": options.threads,
        "repeats": options.repeats,
        **machine(),
        **versions(),
        "commit": commit() + ("+" if is_dirty() else ""),
    }


def _tokens(base: BaseModel, length: int, *, seed: object) -> list[int]:
    vocabulary = base.network.config.vocab_size
    return random.Random(str(seed)).choices(range(vocabulary), k=length)


def _completion(base: BaseModel, length: int, *, seed: object) -> Completion:
    uniform = (-math.log(base.network.config.vocab_size),) * length
    tokens = tuple(_tokens(base, length, seed=seed))
    return Completion(tokens, uniform, (0.0,) * length, "", "stop")
