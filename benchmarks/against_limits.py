"""Our sampling and training beside the bounds of the machine and llama.cpp, round by round.

A decoding figure is that of the steps after the first token: the time of 64 tokens less that of
one, which is the prompts' share. Ours draws from the whole softmax and keeps log-probability and
entropy of each token; llama.cpp takes the likeliest token, which is stated apart.
"""

import functools
from argparse import Namespace
from typing import Any, Literal

import bounds
import workload
from measuring import NOT_MEASURED, Series, interleaved, rates, ratios, summary, timed

from tunestone.config import TrainConfig
from tunestone.core import embedded
from tunestone.core.learner import Learner
from tunestone.core.model import BaseModel, Policy, load_base
from tunestone.core.sampler import Sampler, SamplingParams
from tunestone.core.tree import TokenTree, build_tree
from tunestone.types import Prompt

try:
    from llama_batched import LlamaCpp
except ImportError:
    LlamaCpp = None  # type: ignore[assignment, misc]

GROUP, PROMPT, NEW_TOKENS = 8, 64, 64
TRAIN_GROUPS, ANSWER = 8, 32
GREEDY_TOKENS = 24
QUESTION = Prompt(id="", messages=({"role": "user", "content": "Name three rivers of France."},))
PRECISIONS: tuple[Literal["f32", "f16"], ...] = ("f32", "f16")


def measure(options: Namespace) -> dict[str, Any]:
    """All rounds, and what they come to."""
    setting = workload.setting(options)
    base = load_base(options.model)
    products = bounds.Products(base.network)  # before LoRA takes the layers' places
    llamas = _llamas(options)
    greedy = {name: _same_greedy_tokens(base, llama) for name, llama in llamas.items()}
    policy = Policy(base, lora_rank=workload.LORA_RANK)
    trainer = Training(policy)
    sampler = Sampler(policy.view, workload.endless(base))
    ways = [bounds.bandwidth, products.measure, trainer.measure]
    ways += [functools.partial(_decode, sampler, base, rows) for rows in bounds.DECODE_ROWS]
    ways += [functools.partial(_llama, name, llama, base) for name, llama in llamas.items()]
    series = interleaved(ways, options.repeats)
    return {
        "setting": setting,
        "bandwidth": _bandwidth(products, series),
        "matrix_products": _products(products, series),
        "sampling": {str(rows): _sampling(products, rows, series) for rows in bounds.DECODE_ROWS},
        "training": _training(trainer.tree, series),
        "llama_cpp": {name: _against_llama(name, greedy[name], series) for name in llamas}
        or NOT_MEASURED,
    }


class Training:
    """Updates on the same groups, again and again."""

    def __init__(self, policy: Policy) -> None:
        config = TrainConfig(max_completion_tokens=ANSWER, lora_rank=policy.lora_rank)
        self._learner = Learner(policy, config)
        self._groups = workload.groups(
            policy.base, count=TRAIN_GROUPS, size=GROUP, prompt=PROMPT, answer=ANSWER
        )
        rows = [[*g.prompt_T, *c.tokens] for g in self._groups for c in g.completions_G]
        self.tree: TokenTree = build_tree(rows, [PROMPT] * len(rows))

    def measure(self) -> dict[str, float]:
        """Seconds of one update."""
        update = self._learner.update
        return {"train": timed(lambda: update(self._groups, learning_rate=workload.LEARNING_RATE))}


def _decode(sampler: Sampler, base: BaseModel, rows: int) -> dict[str, float]:
    """Seconds of the prompts with the first token, and of the steps after it."""
    prompts_PT = workload.prompts(base, rows // GROUP, PROMPT)

    def sample(tokens: int) -> None:
        sampler.sample(prompts_PT, GROUP, SamplingParams(max_tokens=tokens))

    first = timed(lambda: sample(1))
    return {
        f"ours prefill {rows}": first,
        f"ours {rows}": timed(lambda: sample(NEW_TOKENS)) - first,
    }


def _llamas(options: Namespace) -> "dict[str, LlamaCpp]":
    """llama.cpp by precision; none where it is not installed or the model is not the embedded."""
    if LlamaCpp is None or options.model != embedded.NAME:
        return {}
    rows, length = max(bounds.DECODE_ROWS), PROMPT + NEW_TOKENS
    return {
        name: LlamaCpp(name, rows=rows, length=length, threads=options.threads)
        for name in PRECISIONS
    }


def _llama(name: str, llama: "LlamaCpp", base: BaseModel) -> dict[str, float]:
    prompts_PT = workload.prompts(base, max(bounds.DECODE_ROWS) // GROUP, PROMPT)
    _, seconds = llama.generate(prompts_PT, GROUP, NEW_TOKENS)
    return {f"llama {name} {phase}": value for phase, value in seconds.items()}


def _same_greedy_tokens(base: BaseModel, llama: "LlamaCpp") -> int:
    """How many first tokens of a greedy answer are the same as ours."""
    prompt_T = base.encode(QUESTION)
    params = SamplingParams(max_tokens=GREEDY_TOKENS, temperature=0)
    ((ours,),) = Sampler(base.network, workload.endless(base)).sample([prompt_T], 1, params)
    (theirs_T,), _ = llama.generate([prompt_T], 1, GREEDY_TOKENS)
    pairs = enumerate(zip(ours.tokens, theirs_T, strict=True))
    return next((t for t, (own, other) in pairs if own != other), GREEDY_TOKENS)


def _bandwidth(products: bounds.Products, series: Series) -> dict[str, Any]:
    weights = 4 * (products.body_size + products.head_size)
    return {
        "read_gb_per_second": summary(value / 1e9 for value in series["read"]),
        "copy_gb_per_second": summary(value / 1e9 for value in series["copy"]),
        "weights_mib": round(weights / 2**20, 1),
        "seconds_per_decode_step": summary(_reading(products, series)),
    }


def _products(products: bounds.Products, series: Series) -> dict[str, Any]:
    """Rates of the linear layers together, by the better library for each shape and by one."""
    operations = 2 * (products.body_size + products.head_size)
    train = [body + head for body, head in zip(series["body"], series["head"], strict=True)]
    rows = {
        f"decode_{n}_rows": {
            "seconds": summary(series[f"decode {n}"]),
            "gflops": rates(n * operations / 1e9, series[f"decode {n}"]),
            **_by_library(f"decode {n}", n * operations, series),
        }
        for n in bounds.DECODE_ROWS
    }
    nodes = bounds.TRAIN_ROWS
    return rows | {
        "train_2048_nodes": {
            "seconds": summary(train),
            "gflops": rates(2 * nodes * operations / 1e9, train),
            "nodes_per_second_head_on_all": rates(nodes, train),
            "body_gflops": rates(4 * nodes * products.body_size / 1e9, series["body"]),
            **_by_library("body", 4 * nodes * products.body_size, series),
        }
    }


def _by_library(name: str, operations: float, series: Series) -> dict[str, Any]:
    return {
        f"{library}_gflops": rates(operations / 1e9, series[f"{name} {library}"])
        for library in ("mkl", "onednn")
        if f"{name} {library}" in series
    }


def _sampling(products: bounds.Products, rows: int, series: Series) -> dict[str, Any]:
    """Ours against the larger of the bounds of one step."""
    steps = NEW_TOKENS - 1
    step = [value / steps for value in series[f"ours {rows}"]]
    reading, computing = _reading(products, series), series[f"decode {rows}"]
    bound = [max(pair) for pair in zip(reading, computing, strict=True)]
    larger = "memory" if summary(reading)["median"] > summary(computing)["median"] else "products"
    return {
        "tokens_per_second": rates(rows, step),
        "seconds_per_step": summary(step),
        "prefill_seconds": summary(series[f"ours prefill {rows}"]),
        "larger_bound": larger,
        "bound_tokens_per_second": rates(rows, bound),
        "share_of_bound": ratios(bound, step),
    }


def _training(tree: TokenTree, series: Series) -> dict[str, Any]:
    """Ours against the products of all nodes, and of the head on those that predict."""
    heads = len(tree.head_nodes_K)
    bound = [
        (tree.size * body + heads * head) / bounds.TRAIN_ROWS
        for body, head in zip(series["body"], series["head"], strict=True)
    ]
    return {
        "nodes": tree.size,
        "head_nodes": heads,
        "lora_rank": workload.LORA_RANK,
        "seconds": summary(series["train"]),
        "nodes_per_second": rates(tree.size, series["train"]),
        "bound_nodes_per_second": rates(tree.size, bound),
        "share_of_bound": ratios(bound, series["train"]),
    }


def _against_llama(name: str, greedy: int, series: Series) -> dict[str, Any]:
    """llama.cpp at the largest number of rows, and how many times as fast ours is."""
    rows = max(bounds.DECODE_ROWS)
    tokens = rows * (NEW_TOKENS - 1)
    decode, argmax = series[f"llama {name} decode"], series[f"llama {name} argmax"]
    both = [a + b for a, b in zip(decode, argmax, strict=True)]
    return {
        "rows": rows,
        "equal_greedy_tokens": f"{greedy} of {GREEDY_TOKENS}",
        "tokens_per_second": rates(tokens, decode),
        "tokens_per_second_with_argmax": rates(tokens, both),
        "prefill_seconds": summary(series[f"llama {name} prefill"]),
        "ours_over_llama": ratios(decode, series[f"ours {rows}"]),
    }


def _reading(products: bounds.Products, series: Series) -> list[float]:
    """Seconds to read all weights once, at the faster of the two rates."""
    size = 4 * (products.body_size + products.head_size)
    return [size / max(pair) for pair in zip(series["read"], series["copy"], strict=True)]
