"""How the newest token of every living row attends while completions are drawn."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tunestone.core.attention import TreePlan
from tunestone.core.tree import TokenTree

_SHORT_TRUNKS = 4096  # tokens; of this many the copies are cheaper to read than to share
_FIRST_CAPACITY = 128  # tokens of an answer in a cache of fixed size


class DecodePlan:
    """One new token for every living row: attends to trunk, own prompt, own answer so far.

    Rows of a prompt stand together; `prompt_B` says which prompt a row belongs to. Keys and values
    are [H_kv, trunk, D] for the trunk, [P, H_kv, T, D] for prompts (padded, masked) and
    [B, H_kv, capacity, D] for answers.
    """

    def __init__(self, prefill: TreePlan, tree: TokenTree, group_size: int) -> None:
        self.longest = prefill.longest
        device = self.device = prefill.keys_values[0][0].device
        trunk = min(tree.trunk_length(), *map(len, tree.paths_BT))
        if trunk * len(tree.paths_BT) <= _SHORT_TRUNKS:
            trunk = 0  # a copy for each prompt costs less than another product
        paths_PT = [path_T[trunk:] for path_T in tree.paths_BT]
        widest = max(map(len, paths_PT))
        nodes = [path + [0] * (widest - len(path)) for path in paths_PT]
        nodes_PT = torch.tensor(nodes, dtype=torch.long, device=device).reshape(len(nodes), widest)
        lengths_P = torch.tensor([len(path) for path in paths_PT], device=device)
        hidden_PT = torch.arange(widest, device=device)[None, :] >= lengths_P[:, None]
        self._bias_PT = torch.zeros(hidden_PT.shape, device=device).masked_fill(
            hidden_PT, float("-inf")
        )
        self._trunk: dict[int, tuple[Tensor, Tensor]] = {}
        self._prompts: dict[int, tuple[Tensor, Tensor]] = {}
        self._answers: dict[int, tuple[Tensor, Tensor]] = {}
        for layer, (key, value) in prefill.keys_values.items():
            # A copy, so that keys and values of the whole prefill can be freed.
            if trunk:
                self._trunk[layer] = (key[0, :, :trunk].clone(), value[0, :, :trunk].clone())
            self._prompts[layer] = (
                key[0][:, nodes_PT].transpose(0, 1).contiguous(),
                value[0][:, nodes_PT].transpose(0, 1).contiguous(),
            )
        self._prompt_B = torch.arange(len(nodes), device=device).repeat_interleave(group_size)
        self._filled = 0
        self._place_rows()

    def advance(self) -> None:
        """Make room for the next token of every row."""
        self._filled += 1
        self.longest += 1

    def keep(self, rows_B: Tensor) -> None:
        """Drop all rows but these (ascending indices), and prompts without a row."""
        self._answers = {
            layer: (key[rows_B], value[rows_B]) for layer, (key, value) in self._answers.items()
        }
        living_P, self._prompt_B = torch.unique(self._prompt_B[rows_B], return_inverse=True)
        if len(living_P) < len(self._bias_PT):
            self._bias_PT = self._bias_PT[living_P]
            self._prompts = {
                layer: (key[living_P], value[living_P])
                for layer, (key, value) in self._prompts.items()
            }
        self._place_rows()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Query [B, H, 1, D], key and value [B, H_kv, 1, D] of the new tokens."""
        keys, values = self._append(layer, key, value)
        rows, heads, _, width = query.shape
        kv_heads = key.shape[1]
        query = (query * scale).reshape(rows, kv_heads, heads // kv_heads, width)
        prompt_keys, prompt_values = self._prompts[layer]
        by_prompt = self._to_prompts(query, prompt_keys.transpose(-1, -2))
        if self._bias_B is not None:
            by_prompt = by_prompt + self._bias_B
        scores = [by_prompt, self._to_own(query, keys)]
        if self._trunk:
            scores.append(self._to_trunk(query, self._trunk[layer][0].transpose(-1, -2)))
        weights = torch.cat(scores, dim=-1).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        to_prompt, to_own, *to_trunk = weights.split([s.shape[-1] for s in scores], dim=-1)
        output = (to_own @ values).add_(self._to_prompts(to_prompt, prompt_values))
        if self._trunk:
            output = output.add_(self._to_trunk(to_trunk[0], self._trunk[layer][1]))
        return output.reshape(rows, heads, 1, width)

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values; the cache doubles when it is full."""
        at = self._filled - 1
        held = self._answers.get(layer)
        if held is None or at >= held[0].shape[2]:
            shape = (*key.shape[:2], max(16, 2 * at), key.shape[3])
            grown = (key.new_empty(shape), value.new_empty(shape))
            for new, old in zip(grown, held or (), strict=False):
                new[:, :, :at] = old[:, :, :at]
            held = self._answers[layer] = grown
        held[0][:, :, at] = key[:, :, 0]
        held[1][:, :, at] = value[:, :, 0]
        return held[0][:, :, : at + 1], held[1][:, :, : at + 1]

    def _to_own(self, query: Tensor, keys: Tensor) -> Tensor:
        return query @ keys.transpose(-1, -2)

    def _to_trunk(self, left_BHGX: Tensor, right_HXY: Tensor) -> Tensor:
        """[B, H, G, X] by the trunk's [H, X, Y], shared by all rows -> [B, H, G, Y]."""
        rows, kv_heads, per_head, inner = left_BHGX.shape
        folded = left_BHGX.transpose(0, 1).reshape(kv_heads, rows * per_head, inner)
        product = folded @ right_HXY
        return product.reshape(kv_heads, rows, per_head, -1).transpose(0, 1)

    def _to_prompts(self, left_BHGX: Tensor, right_PHXY: Tensor) -> Tensor:
        """[B, H, G, X] by each row's own prompt [P, H, X, Y] -> [B, H, G, Y], read in place."""
        rows, kv_heads, per_head, inner = left_BHGX.shape
        prompts, widest = len(right_PHXY), self._rows_per_prompt
        padded = left_BHGX
        if rows < prompts * widest:
            padded = left_BHGX.new_zeros(prompts * widest, kv_heads, per_head, inner)
            padded[self._slot_B] = left_BHGX
        folded = padded.reshape(prompts, widest, kv_heads, per_head, inner).transpose(1, 2)
        product = folded.reshape(prompts, kv_heads, widest * per_head, inner) @ right_PHXY
        outer = product.shape[-1]
        spread = product.reshape(prompts, kv_heads, widest, per_head, outer).transpose(1, 2)
        spread = spread.reshape(prompts * widest, kv_heads, per_head, outer)
        return spread[self._slot_B] if rows < len(spread) else spread

    def _place_rows(self) -> None:
        """Give each row a slot in the [P x most rows of a prompt] layout of `_to_prompts`."""
        counts_P = torch.bincount(self._prompt_B, minlength=len(self._bias_PT))
        self._rows_per_prompt = int(counts_P.max())
        first_P = counts_P.cumsum(0) - counts_P
        rank_B = torch.arange(len(self._prompt_B), device=counts_P.device) - first_P[self._prompt_B]
        self._slot_B = self._prompt_B * self._rows_per_prompt + rank_B
        bias_B = self._bias_PT[self._prompt_B][:, None, None, :]
        self._bias_B = bias_B if bool(bias_B.any()) else None


class FixedDecodePlan(DecodePlan):
    """The same in tensors that keep shape and address over many steps, so one can be replayed.

    The cache of answers has `capacity` places, those not yet written masked; it doubles when full.
    """

    def __init__(self, prefill: TreePlan, tree: TokenTree, group_size: int) -> None:
        super().__init__(prefill, tree, group_size)
        self.capacity = 0
        self._at = torch.zeros(1, dtype=torch.long, device=self.device)
        self._bias_T = torch.zeros(0, device=self.device)

    def advance(self) -> None:
        """See `DecodePlan.advance`."""
        super().advance()
        if self._filled > self.capacity:
            self._grow(max(_FIRST_CAPACITY, self.capacity))
        self._at.fill_(self._filled - 1)
        self._bias_T[self._filled - 1] = 0.0

    def _grow(self, more: int) -> None:
        self.capacity += more
        self._bias_T = pad(self._bias_T, (0, more), value=float("-inf"))
        self._answers = {
            layer: (pad(key, (0, 0, 0, more)), pad(value, (0, 0, 0, more)))
            for layer, (key, value) in self._answers.items()
        }

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values; all places of the cache come back."""
        if layer not in self._answers:
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            # Zeros: what is masked is still multiplied, and a NaN would stay one.
            self._answers[layer] = (key.new_zeros(shape), value.new_zeros(shape))
        keys, values = self._answers[layer]
        return keys.index_copy_(2, self._at, key), values.index_copy_(2, self._at, value)

    def _to_own(self, query: Tensor, keys: Tensor) -> Tensor:
        return super()._to_own(query, keys) + self._bias_T
