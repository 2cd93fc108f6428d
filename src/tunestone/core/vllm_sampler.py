"""Generation with vLLM on a GPU, behind the same seam as our own sampler.

vLLM keeps its own copy of the base, in bf16, and is given the policy's weights before it draws: as
a PEFT adapter in a folder, or in memory when all weights are trained. It runs in this process, so
that weights need not be sent to another.

What it draws from is not quite our policy: its kernels round differently, and it holds adapters in
bf16. So our own network computes the log-probabilities and entropies of what was drawn once more.
The completion keeps the log-probability it was drawn with, raised where the first ratio would
exceed `_LARGEST_RATIO`: the loss's ratio then starts as a truncated importance weight instead of 1
(docs/decisions/0018-vllm-sampler.md). Checked with vLLM 0.33's code, not measured on a GPU.
"""

import importlib
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunestone.core.attention import TreePlan
from tunestone.core.logprobs import padded_logits, tree_logits
from tunestone.core.model import Policy
from tunestone.core.sampler import SamplingParams, cut_at_stop, distribution
from tunestone.core.tree import build_tree
from tunestone.errors import ConfigError, WorldError
from tunestone.types import Completion, FinishReason

_LARGEST_RATIO = 2.0
"""Cap of the importance weight a token begins with, as in truncated importance sampling (Yao et
al. 2025, TRL's and verl's usual value)."""
_MEMORY_SHARE = 0.3  # of the GPU, weights and cache together; training needs the rest (TRL's value)
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as max_lora_rank
_SCORED_AT_ONCE = 1024  # tokens; bounds the logits (tokens x vocabulary)
_CHUNK = 128  # head rows handled at once; bounds the temporary copies of the logits
_INSTEAD = 'Or set sampler = "shared".'


def import_vllm() -> Any:
    """The module `vllm`. Raises ConfigError when there is no GPU or it cannot be imported."""
    if not torch.cuda.is_available():
        raise ConfigError('sampler = "vllm" needs a GPU that CUDA can use.', remedy=_INSTEAD)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process: see the module's text
    os.environ.setdefault("VLLM_DO_NOT_TRACK", "1")  # it reports its use to its makers otherwise
    try:
        vllm = importlib.import_module("vllm")
        importlib.import_module("vllm.lora.request")
    except ImportError as error:
        raise ConfigError(
            f'sampler = "vllm" needs vLLM, which cannot be imported: {error}.',
            remedy=f"Install it with `pip install 'tunestone[gpu]'`. {_INSTEAD}",
        ) from error
    return vllm


class VllmSampler:
    """Draws completions of a policy with vLLM. `vllm` is what `import_vllm` gave.

    `longest`: tokens of prompt and completion together. `uses_tree`: whether our own network can
    compute over a token tree. Raises ConfigError when vLLM cannot serve the model here.
    """

    def __init__(self, policy: Policy, vllm: Any, *, longest: int, uses_tree: bool) -> None:
        self._policy = policy
        self._vllm = vllm
        self._uses_tree = uses_tree
        self._folder = TemporaryDirectory(prefix="tunestone-vllm-")
        self._version = 0
        self._adapter: Any = None
        self._engine = self._open(longest)

    def sample(
        self,
        prompts_PT: Sequence[Sequence[int]],
        group_size: int,
        params: SamplingParams,
        *,
        seed: Sequence[int] = (0,),
    ) -> list[list[Completion]]:
        """See `CompletionSampler.sample`. Raises ConfigError for what vLLM would draw otherwise.

        Each prompt has a seed of its own, but rounding in vLLM may depend on what shares a batch.
        """
        if params.grammar is not None or params.top_k or params.top_p < 1.0:
            raise ConfigError(
                "vLLM draws from the whole distribution here: no top_k, top_p or response_format.",
                remedy=_INSTEAD,
            )
        self._hand_over()
        answers_P = self._engine.generate(
            [{"prompt_token_ids": list(prompt_T)} for prompt_T in prompts_PT],
            [self._wanted(group_size, params, (*seed, p)) for p in range(len(prompts_PT))],
            use_tqdm=False,
            lora_request=self._adapter,
        )
        drawn_B = [output for answer in answers_P for output in answer.outputs]
        prompts_BT = [prompt_T for prompt_T in prompts_PT for _ in range(group_size)]
        scores = self._score(prompts_BT, drawn_B, params.temperature)
        completions_B = [
            self._completion(drawn, logprobs_T, entropies_T, params)
            for drawn, (logprobs_T, entropies_T) in zip(drawn_B, scores, strict=True)
        ]
        starts = range(0, len(completions_B), group_size)
        return [completions_B[start : start + group_size] for start in starts]

    def _open(self, longest: int) -> Any:
        rank = self._policy.lora_rank
        lora = {
            "enable_lora": True,
            "max_lora_rank": next(size for size in _RANKS if size >= rank),
            "max_loras": 1,
        }
        try:
            return self._vllm.LLM(
                model=self._policy.base.location,
                dtype="bfloat16",
                max_model_len=longest,
                gpu_memory_utilization=_MEMORY_SHARE,
                enable_prefix_caching=True,
                generation_config="vllm",  # or the model's own defaults would bend the distribution
                logprobs_mode="processed_logprobs",  # at the temperature
                **(lora if rank else {}),
            )
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"vLLM cannot serve '{self._policy.base.location}' here: {error}", remedy=_INSTEAD
            ) from error

    def _wanted(self, group_size: int, params: SamplingParams, seed: Sequence[int]) -> Any:
        """vLLM's SamplingParams of one prompt."""
        ends = sorted(self._policy.base.end_tokens)
        return self._vllm.SamplingParams(
            n=group_size,
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            seed=int(np.random.SeedSequence(list(seed)).generate_state(1)[0]),
            stop=list(params.stop) or None,
            stop_token_ids=ends or None,
            ignore_eos=not ends,
            detokenize=bool(params.stop),  # only stop strings need it
            skip_special_tokens=False,  # a stop string may be a special token
            logprobs=0,  # of the drawn token only
        )

    def _hand_over(self) -> None:
        """Give vLLM the policy's weights.

        At every call, though a validation finds them unchanged: nothing tells for sure (PyTorch's
        fused optimizers do not count as a write), and old weights would go unnoticed.
        """
        self._version += 1
        if self._policy.lora_rank:
            self._write_adapter()
        else:
            weights = self._policy.weights()
            self._engine.apply_model(lambda model: model.load_weights(weights.items()))
            self._engine.reset_prefix_cache()

    def _write_adapter(self) -> None:
        # A new name and a new number each time: vLLM knows adapters, and the prefixes that it has
        # cached for them, by these alone.
        name = f"policy-{self._version}"
        folder = Path(self._folder.name) / name
        self._policy.network.save_pretrained(folder, save_embedding_layers=False)
        self._adapter = self._vllm.lora.request.LoRARequest(name, self._version, str(folder))
        shutil.rmtree(folder.with_name(f"policy-{self._version - 1}"), ignore_errors=True)

    @torch.no_grad()
    def _score(
        self, prompts_BT: Sequence[Sequence[int]], drawn_B: Sequence[Any], temperature: float
    ) -> Iterator[tuple[list[float], list[float]]]:
        """Log-probabilities and entropies of each row's drawn tokens, under our own network."""
        rows = [
            [*prompt_T, *drawn.token_ids]
            for prompt_T, drawn in zip(prompts_BT, drawn_B, strict=True)
        ]
        counts = [len(drawn.token_ids) for drawn in drawn_B]
        for some in _slices(counts, _SCORED_AT_ONCE):
            lengths = [len(prompt_T) for prompt_T in prompts_BT[some]]
            logits_XV, heads_R, targets_R = self._logits(rows[some], lengths)
            logprobs_R, entropies_R = _pick(logits_XV, heads_R, targets_R, temperature)
            yield from zip(
                _by_row(logprobs_R, counts[some]), _by_row(entropies_R, counts[some]), strict=True
            )

    def _logits(
        self, rows: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [X, V]; for each of R scored tokens its row in them; the tokens themselves."""
        network, device = self._policy.network, self._policy.base.device
        if not self._uses_tree:
            pad = self._policy.base.pad_token
            logits_BTV = padded_logits(network, rows, pad_token=pad)
            pairs = list(zip(rows, lengths, strict=True))
            parts = [logits_BTV[b, n - 1 : len(row) - 1] for b, (row, n) in enumerate(pairs)]
            targets = [token for row, n in pairs for token in row[n:]]
            heads_R = torch.arange(len(targets), device=device)
            return torch.cat(parts), heads_R, torch.tensor(targets, device=device)
        tree = build_tree(rows, lengths)
        heads_R = torch.tensor(tree.head_R, device=device)
        logits_KV = tree_logits(network, tree, tree.head_nodes_K, TreePlan(tree, device))
        return logits_KV, heads_R, torch.tensor(tree.targets_R, device=device)

    def _completion(
        self,
        drawn: Any,
        logprobs_T: Sequence[float],
        entropies_T: Sequence[float],
        params: SamplingParams,
    ) -> Completion:
        tokens = tuple(drawn.token_ids)
        if params.temperature:
            theirs = [
                by_token[t].logprob for t, by_token in zip(tokens, drawn.logprobs, strict=True)
            ]
            logprobs_T = truncated(theirs, logprobs_T)
        text = self._policy.base.tokenizer.decode(tokens, skip_special_tokens=True)
        return Completion(
            tokens=tokens,
            logprobs=tuple(logprobs_T),
            entropies=tuple(entropies_T),
            text=cut_at_stop(text, params.stop),
            finish_reason=_finish_reason(drawn),
        )


def truncated(drawn_T: Sequence[float], ours_T: Sequence[float]) -> list[float]:
    """The log-probabilities drawn with, raised so that exp(ours - drawn) stays within the cap."""
    least = math.log(_LARGEST_RATIO)
    return [max(drawn, ours - least) for drawn, ours in zip(drawn_T, ours_T, strict=True)]


def _pick(
    logits_XV: Tensor, heads_R: Tensor, targets_R: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (nats) of each scored token, [R] both."""
    logprobs_R = torch.empty(len(heads_R), device=logits_XV.device)
    entropies = []
    for start in range(0, len(logits_XV), _CHUNK):
        chunk = logits_XV[start : start + _CHUNK].float()
        logprobs_CV, _, entropies_C = distribution(chunk, temperature)
        here_R = ((heads_R >= start) & (heads_R < start + len(chunk))).nonzero()[:, 0]
        logprobs_R[here_R] = logprobs_CV[heads_R[here_R] - start, targets_R[here_R]]
        entropies.append(entropies_C)
    return logprobs_R, torch.cat(entropies)[heads_R]


def _slices(counts: Sequence[int], limit: int) -> Iterator[slice]:
    """Ranges of rows with at most `limit` tokens together, or of one row that has more."""
    start = used = 0
    for b, count in enumerate(counts):
        if b > start and used + count > limit:
            yield slice(start, b)
            start, used = b, 0
        used += count
    yield slice(start, len(counts))


def _by_row(numbers_R: Tensor, counts: Sequence[int]) -> list[list[float]]:
    return [part.tolist() for part in numbers_R.cpu().split(list(counts))]


def _finish_reason(drawn: Any) -> FinishReason:
    reason = drawn.finish_reason
    if reason not in ("stop", "length"):
        raise WorldError(f"vLLM ended a completion with '{reason}'.", remedy="Resume the run.")
    named: FinishReason = reason
    return named
