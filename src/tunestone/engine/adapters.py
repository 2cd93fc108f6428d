"""LoRA adapters swapped in per token: one copy of the base serves all of them in one forward.

A forward's tokens stand in stretches, one adapter (or none) each. A hook on every linear layer that
some adapter changes adds, stretch by stretch, scale * B(A(x)) to what the layer gave. Adapters are
read from standard PEFT folders; what cannot be computed this way (DoRA, adapted embeddings, trained
biases ...) is refused by name, never left out.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tunestone.errors import ModelError

_PREFIX = "base_model.model."
_REFUSED = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "alpha_pattern", "modules_to_save"),
    *("layer_replication", "trainable_token_indices", "target_parameters"),
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config"),
)
"""Settings of PEFT that ask for more than scale * B(A(x)); they must be unset."""
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Values of PEFT's `init_lora_weights` that leave the base as it was."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """The weights of one adapter, ready to be multiplied."""

    folder: str
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    """Module of the base -> A transposed [in, r], B transposed [r, out] with the scale in it."""


def read_adapter(folder: Path, network: nn.Module) -> Adapter:
    """An adapter for `network`. Raises ModelError that names the folder and what is wrong."""
    config = _read_config(folder)
    weights = _read_weights(folder)
    modules = dict(network.named_modules())
    device = next(network.parameters()).device
    pairs = {}
    for key in sorted(key for key in weights if key.endswith(".lora_A.weight")):
        name = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        down_RI = weights.pop(key)
        up_OR = weights.pop(key.replace(".lora_A.", ".lora_B."), None)
        _check_fit(folder, name, modules.get(name), down_RI, up_OR)
        assert up_OR is not None
        scale = _scale(config, rank=len(down_RI))
        pairs[name] = (
            down_RI.T.contiguous().to(device),
            (up_OR.T * scale).contiguous().to(device),
        )
    if weights or not pairs:
        what = f"weights '{next(iter(weights))}'" if weights else "no LoRA weights"
        raise ModelError(f"The adapter in {folder} holds {what}; only LoRA's A and B can be used.")
    return Adapter(str(folder), pairs)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"There is no adapter in {folder}: {path.name} is missing.") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ModelError(f"{path} does not describe a LoRA adapter.")
    if not isinstance(config.get("lora_alpha"), int | float):
        raise ModelError(f"{path} has no lora_alpha.")
    unusable = [name for name in _REFUSED if config.get(name)]
    if config.get("bias", "none") != "none":
        unusable.append("bias")
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        unusable.append(f"init_lora_weights = {config['init_lora_weights']!r}")
    if unusable:
        raise ModelError(
            f"The adapter in {folder} uses {', '.join(unusable)}, which cannot be swapped in.",
            remedy="Merge it into its base (`merge_and_unload`) and use the whole model.",
        )
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "adapter_model.safetensors"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The adapter's weights in {path} cannot be read: {error}") from error
    return {key: tensor.to(torch.float32) for key, tensor in weights.items()}


def _scale(config: Mapping[str, Any], *, rank: int) -> float:
    """PEFT's scaling: alpha / r, or alpha / sqrt(r) with rslora."""
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_fit(
    folder: Path, name: str, module: nn.Module | None, down_RI: Tensor, up_OR: Tensor | None
) -> None:
    if module is None:
        raise ModelError(
            f"The adapter in {folder} belongs to another model: there is no layer '{name}'."
        )
    weight = getattr(module, "weight", None)
    if up_OR is None or weight is None or weight.dim() != 2:
        raise ModelError(f"The adapter in {folder} has no whole pair of weights for '{name}'.")
    # Linear layers hold [out, in], GPT-2's Conv1D [in, out].
    given, own = (up_OR.shape[0], down_RI.shape[1]), tuple(weight.shape)
    own = own if isinstance(module, nn.Linear) else own[::-1]
    if given != own or up_OR.shape[1] != down_RI.shape[0]:
        raise ModelError(
            f"The adapter in {folder} belongs to another model: its '{name}' maps {given[1]} "
            f"numbers to {given[0]}, the model's {own[1]} to {own[0]}."
        )


Stretch = tuple[int, int, Adapter]
"""Tokens [start, stop) of a forward, counted over all its rows, that an adapter applies to."""


class AdapterHooks:
    """Adds adapters to one network; outside `applied` the network is the plain base."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._hooked: set[str] = set()
        self._stretches: Sequence[Stretch] = ()

    @contextmanager
    def applied(self, stretches: Sequence[Stretch]) -> Iterator[None]:
        """Run forwards with these adapters."""
        for _, _, adapter in stretches:
            for name in adapter.pairs.keys() - self._hooked:
                self._hook(name)
        self._stretches = stretches
        try:
            yield
        finally:
            self._stretches = ()

    def _hook(self, name: str) -> None:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not self._stretches:
                return
            inputs_NI = inputs[0].reshape(-1, inputs[0].shape[-1])
            outputs_NO = output.view(-1, output.shape[-1])
            for start, stop, adapter in self._stretches:
                pair = adapter.pairs.get(name)
                if pair is not None:
                    _add_pair(inputs_NI[start:stop], outputs_NO[start:stop], *pair)

        self._network.get_submodule(name).register_forward_hook(add)
        self._hooked.add(name)


def _add_pair(inputs_NI: Tensor, outputs_NO: Tensor, down_IR: Tensor, up_RO: Tensor) -> None:
    """outputs += inputs @ down @ up, in place; in the adapter's precision where the base's is less.

    In bf16 the sum is rounded once, as in PEFT.
    """
    if inputs_NI.dtype == down_IR.dtype:
        outputs_NO.addmm_(inputs_NI @ down_IR, up_RO)
    else:
        change_NO = (inputs_NI.to(down_IR.dtype) @ down_IR) @ up_RO
        outputs_NO.copy_(outputs_NO.to(change_NO.dtype) + change_NO)
