"""What both sides train on: sizes, prompts and rewards.

Fixed lengths measure mechanics: both sides do the same work to the token. Natural lengths measure
what a user feels: each completion ends where the model ends it.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tunestone.recipes import load_recipe
from tunestone.recipes.word_problems.reward import lenient, strict
from tunestone.runlog import read_lines

Row = dict[str, Any]
VALIDATION_ROWS = 2  # ours wants some; they are answered once, before the measured steps
_GSM8K_ROWS = 400
_FILLERS = (" a", "a", ".", " I")
LORA, FULL = "lora r16", "full"


@dataclass(frozen=True, slots=True)
class Workload:
    """One line of the table. `prompts` x `group` completions are drawn and trained on per step."""

    name: str
    kind: Literal["fixed", "word_problems", "gsm8k"]
    prompts: int
    group: int
    completion_tokens: int
    """Exactly so many when `kind` is fixed, else at most."""
    threads: int
    prompt_tokens: int = 0
    """Exactly so many when `kind` is fixed; 0: as the prompts are."""
    adapter: str = LORA
    trl_defaults: bool = False
    """TRL out of the box: bf16 autocast and gradient checkpointing on."""
    learning_rate: float = 1e-5

    @property
    def lora_rank(self) -> int:
        """Rank of the adapter; 0 trains all weights."""
        return 0 if self.adapter == FULL else 16

    @property
    def trl_micro_batch(self) -> int:
        """Completions that TRL trains on at a time: its default of 8, or a group."""
        return max(8, self.group)


def default_set(threads: int) -> list[Workload]:
    """Those that `make bench` measures: about an hour on two cores."""
    small = fixed(64, 32, 8, threads)
    one = f"{small.name}, 1 thread"
    return [
        small,
        fixed(512, 32, 8, threads),
        Workload("word_problems", "word_problems", 8, 8, 40, threads),
        Workload("gsm8k", "gsm8k", 4, 8, 128, threads),
        replace(small, name=f"{small.name}, full", adapter=FULL),
        replace(small, name=f"{small.name}, TRL's defaults", trl_defaults=True),
        *([replace(small, name=one, threads=1)] if threads > 1 else []),
    ]


def full_set(threads: int) -> list[Workload]:
    """The default set, then the rest of the grid: many hours."""
    grid = [
        fixed(prompt, completion, group, threads)
        for prompt in (64, 256, 512)
        for completion in (32, 128)
        for group in (4, 8, 16)
    ]
    long = fixed(512, 32, 8, threads)
    more = [
        replace(long, name=f"{long.name}, full", adapter=FULL),
        *([replace(long, name=f"{long.name}, 1 thread", threads=1)] if threads > 1 else []),
    ]
    return list({each.name: each for each in [*default_set(threads), *grid, *more]}.values())


def fixed(prompt_tokens: int, completion_tokens: int, group: int, threads: int) -> Workload:
    """Four prompts of exactly so many tokens, completions of exactly so many."""
    name = f"fixed p{prompt_tokens} c{completion_tokens} g{group}"
    return Workload(name, "fixed", 4, group, completion_tokens, threads, prompt_tokens)


def make_rows(workload: Workload, tokenizer: Any, *, seed: int, gsm8k: Path) -> list[Row]:
    """Rows with `id`, `messages` and `reference_answer`. Raises FileNotFoundError for GSM8K."""
    if workload.kind == "word_problems":
        rows = [dict(row) for row in load_recipe("word_problems").generate(seed)["train"]]
    elif workload.kind == "gsm8k":
        rows = [_gsm8k_row(row) for row in read_lines(gsm8k)[:_GSM8K_ROWS]]
    else:
        rows = _fixed_rows(workload, tokenizer, random.Random(seed))
    return [{"id": str(i), **row} for i, row in enumerate(rows)]


def reward(workload: Workload) -> Callable[[Mapping[str, Any], str], float]:
    """(row, completion's text) -> reward: a plain call in the process of either side."""
    if workload.kind == "word_problems":
        return lambda row, text: strict((), text, row)
    if workload.kind == "gsm8k":
        return lambda row, text: lenient((), text, row)  # the last number is the answer
    return lambda row, text: _pseudo_random(text)


def _pseudo_random(text: str) -> float:
    """In [0, 1), from the text alone: every group has signal, on both sides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32


def _gsm8k_row(row: Row) -> Row:
    answer = row["answer"].rpartition("####")[2].strip().replace(",", "")
    return {
        "messages": [{"role": "user", "content": row["question"]}],
        "reference_answer": answer,
    }


def _fixed_rows(workload: Workload, tokenizer: Any, rng: random.Random) -> list[Row]:
    problems = load_recipe("word_problems").generate(0)["train"]
    words = sorted({w for row in problems for w in row["messages"][-1]["content"].split()})
    texts = [_text_of(workload.prompt_tokens, tokenizer, words, rng) for _ in range(64)]
    return [
        {"messages": [{"role": "user", "content": text}], "reference_answer": ""} for text in texts
    ]


def _text_of(tokens: int, tokenizer: Any, words: list[str], rng: random.Random) -> str:
    """Random words that take exactly `tokens` tokens together with the chat template."""
    text = rng.choice(words)
    while _count(longer := f"{text} {rng.choice(words)}", tokenizer) <= tokens:
        text = longer
    while (count := _count(text, tokenizer)) < tokens:
        text = next(text + f for f in _FILLERS if _count(text + f, tokenizer) == count + 1)
    return text


def _count(text: str, tokenizer: Any) -> int:
    chat = [{"role": "user", "content": text}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
