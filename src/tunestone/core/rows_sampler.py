"""Generation with transformers' own `generate`, for models the shared-prefix sampler cannot serve.

Slower (every row recomputes its prompt, and runs until the longest one ends), but it works for any
causal model: sliding windows, recurrent layers, attention of its own.
"""

from collections.abc import Sequence
from typing import Any

import torch

from tunestone.core.constraint import GrammarProcessor, LazyGrammars
from tunestone.core.logprobs import padded_logits
from tunestone.core.model import BaseModel
from tunestone.core.sampler import SamplingParams, cut_at_stop, distribution
from tunestone.types import Completion


class RowsSampler:
    """Same promises as `Sampler`, from padded rows."""

    def __init__(self, network: Any, base: BaseModel) -> None:
        self._network = network
        self._base = base
        self._grammars = LazyGrammars(base)

    @torch.inference_mode()
    def sample(
        self,
        prompts_PT: Sequence[Sequence[int]],
        group_size: int,
        params: SamplingParams,
        *,
        seed: Sequence[int] = (0,),
    ) -> list[list[Completion]]:
        """See `CompletionSampler.sample`; one prompt's group is one batch."""
        groups = []
        for index, prompt_T in enumerate(prompts_PT):
            with torch.random.fork_rng():
                torch.manual_seed(hash((*seed, index)) % 2**63)
                groups.append(self._group(list(prompt_T), group_size, params))
        return groups

    def _group(
        self, prompt_T: list[int], group_size: int, params: SamplingParams
    ) -> list[Completion]:
        greedy = params.temperature == 0.0
        settings = (
            {}
            if greedy
            else {
                "temperature": params.temperature,
                "top_p": params.top_p,
                "top_k": params.top_k,
            }
        )
        constraint = self._grammars.constrain(params.grammar, group_size)
        output_BT = self._network.generate(
            torch.tensor([prompt_T] * group_size, device=self._base.device),
            max_new_tokens=params.max_tokens,
            do_sample=not greedy,
            eos_token_id=sorted(self._base.end_tokens),
            pad_token_id=self._base.pad_token,
            repetition_penalty=1.0,  # or the model's own default would bend the distribution
            stop_strings=list(params.stop) or None,
            tokenizer=self._base.tokenizer,
            logits_processor=[GrammarProcessor(constraint, len(prompt_T), self._base.end_tokens)],
            **settings,
        )
        drawn = [self._until_end(row[len(prompt_T) :], params) for row in output_BT.tolist()]
        rows = [[*prompt_T, *tokens] for tokens, _ in drawn]
        logits_BTV = padded_logits(self._network, rows, pad_token=self._base.pad_token)
        start = len(prompt_T) - 1
        return [
            self._completion(tokens, ended, logits_BTV[b, start : start + len(tokens)], params)
            for b, (tokens, ended) in enumerate(drawn)
        ]

    def _until_end(self, row_T: list[int], params: SamplingParams) -> tuple[list[int], bool]:
        """The tokens up to the one that ended the row, and whether one did."""
        for t, token in enumerate(row_T):
            if token in self._base.end_tokens:
                return row_T[: t + 1], True
            if params.stop:
                text = self._base.tokenizer.decode(row_T[: t + 1])
                if cut_at_stop(text, params.stop) != text:
                    return row_T[: t + 1], True
        return row_T, False

    def _completion(
        self, tokens: list[int], ended: bool, logits_TV: torch.Tensor, params: SamplingParams
    ) -> Completion:
        logprobs_TV, _, entropies_T = distribution(logits_TV, params.temperature)
        picked_T = logprobs_TV.gather(-1, torch.tensor(tokens, device=logprobs_TV.device)[:, None])
        text = self._base.tokenizer.decode(tokens, skip_special_tokens=True)
        return Completion(
            tokens=tuple(tokens),
            logprobs=tuple(picked_T[:, 0].tolist()),
            entropies=tuple(entropies_T.tolist()),
            text=cut_at_stop(text, params.stop),
            finish_reason="stop" if ended else "length",
        )
