"""llama.cpp decoding many rows at once, through the low-level functions of llama-cpp-python.

Each row is a sequence with its own stretch of the cache; a prompt is computed once and its keys and
values are copied to the other rows of its group. The next token is the likeliest one; finding it is
timed apart from decoding.
"""

import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from to_gguf import Precision, embedded_gguf

_F32 = 0  # ggml's number of the type; the cache is fp16 by default
_PROMPT_BATCH = 512
_SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)
"""Takes what llama.cpp would print."""


class LlamaCpp:
    """The embedded model in llama.cpp, with room for `rows` sequences of `length` tokens."""

    def __init__(self, precision: Precision, *, rows: int, length: int, threads: int) -> None:
        llama_cpp.llama_log_set(_SILENT, None)
        path = str(embedded_gguf(precision)).encode()
        self._model = llama_cpp.llama_model_load_from_file(
            path, llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = rows * length
        settings.n_seq_max = rows
        settings.n_batch = settings.n_ubatch = _PROMPT_BATCH
        settings.n_threads = settings.n_threads_batch = threads
        if precision == "f32":
            settings.type_k = settings.type_v = _F32
        self._context: Any = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._model or not self._context:
            raise RuntimeError(f"llama.cpp could not load {path.decode()}.")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self._model)
        )

    def generate(
        self, prompts_PT: Sequence[Sequence[int]], group_size: int, tokens: int
    ) -> tuple[list[list[int]], dict[str, float]]:
        """Greedy tokens of every row, and seconds: `prefill`, `decode` and `argmax`.

        The first token comes from the prompt, so `decode` is that of `tokens - 1` steps.
        """
        llama_cpp.llama_memory_clear(self._memory, True)
        start = time.perf_counter()
        first_P = [self._prefill(p * group_size, row) for p, row in enumerate(prompts_PT)]
        self._share_prompts(len(prompts_PT), group_size)
        seconds = {"prefill": time.perf_counter() - start, "decode": 0.0, "argmax": 0.0}
        newest_B = np.repeat(np.array(first_P, dtype=np.int32), group_size)
        positions_B = np.repeat([len(row) for row in prompts_PT], group_size)
        drawn_TB = [newest_B]
        for step in range(tokens - 1):
            begun = time.perf_counter()
            logits_BV = self._decode(newest_B, positions_B + step, np.arange(len(newest_B)))
            decoded = time.perf_counter()
            newest_B = logits_BV.argmax(axis=1).astype(np.int32)
            seconds["decode"] += decoded - begun
            seconds["argmax"] += time.perf_counter() - decoded
            drawn_TB.append(newest_B)
        return np.stack(drawn_TB, axis=1).tolist(), seconds

    def _prefill(self, sequence: int, prompt_T: Sequence[int]) -> int:
        """Compute a prompt and return the likeliest next token."""
        for start in range(0, len(prompt_T), _PROMPT_BATCH):
            part = np.array(prompt_T[start : start + _PROMPT_BATCH], dtype=np.int32)
            positions = np.arange(start, start + len(part))
            logits = self._decode(part, positions, np.full(len(part), sequence), last_only=True)
        return int(logits[0].argmax())

    def _share_prompts(self, prompts: int, group_size: int) -> None:
        for row in range(prompts * group_size):
            owner = row - row % group_size
            if row != owner:
                llama_cpp.llama_memory_seq_cp(self._memory, owner, row, -1, -1)

    def _decode(
        self,
        tokens_N: np.ndarray,
        positions_N: np.ndarray,
        sequences_N: np.ndarray,
        *,
        last_only: bool = False,
    ) -> np.ndarray:
        """Logits [N, V] of the tokens, or [1, V] of the last one."""
        count = len(tokens_N)
        batch = llama_cpp.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for i in range(count):
            batch.token[i] = tokens_N[i]
            batch.pos[i] = positions_N[i]
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequences_N[i]
            batch.logits[i] = not last_only or i == count - 1
        failed = llama_cpp.llama_decode(self._context, batch)
        llama_cpp.llama_synchronize(self._context)
        llama_cpp.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama.cpp could not decode: {failed}.")
        shape = (1 if last_only else count, self._vocabulary)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), shape=shape)
