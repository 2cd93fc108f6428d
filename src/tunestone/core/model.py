"""Models: where they come from, and the policy that is trained on top of one.

A source is the embedded model's name, a local Hugging Face folder, or a hub id. The policy is the
base with LoRA adapters (or the whole model). Sampling uses a second view of the same network in
which the adapters are merged into the weights: no extra modules per token, and everything that LoRA
does not touch is shared in memory. Weights are fp32 on CPU; on a GPU frozen weights are bf16 and
trained ones fp32.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, load_peft_weights
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tunestone.core import embedded
from tunestone.core.attention import IMPLEMENTATION
from tunestone.core.blocks import FastBlock, is_served
from tunestone.core.linear import FastLinear
from tunestone.core.turns import plain_turn
from tunestone.errors import DataError, DownloadError, ModelError
from tunestone.types import Prompt


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A loaded model with its tokenizer."""

    network: Any
    """A transformers causal language model."""
    tokenizer: Any
    end_tokens: frozenset[int]
    pad_token: int
    location: str
    """Folder or hub id it was loaded from, so that others can load it too."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.network.parameters()).device
        return device

    def encode(self, prompt: Prompt, template: Mapping[str, Any] | None = None) -> list[int]:
        """Token ids of a prompt; see `encode_prompt`."""
        return encode_prompt(self.tokenizer, prompt, template)


def encode_prompt(
    tokenizer: Any, prompt: Prompt, template: Mapping[str, Any] | None = None
) -> list[int]:
    """Token ids of a prompt under the chat template, ready for the assistant's turn.

    `template`: further variables of the template, such as `reasoning_effort`.
    Raises DataError with file and line when the template refuses the roles or their order.
    """
    try:
        text = tokenizer.apply_chat_template(
            [plain_turn(message) for message in prompt.messages],
            tools=[dict(tool) for tool in prompt.tools] or None,
            add_generation_prompt=True,
            tokenize=False,
            **(template or {}),
        )
    except TemplateError as error:
        raise DataError(
            f"{prompt.source or prompt.id}: the model's chat template refuses this prompt: "
            f"{error}.",
            remedy="Change its roles or their order, or use another model.",
        ) from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def load_base(source: str, *, full_precision: bool = False) -> BaseModel:
    """Load a model. Raises ModelError saying what is missing and what to do.

    `full_precision` keeps fp32 on a GPU too, as training all weights needs: bf16 cannot hold the
    small changes of a step.
    """
    cuda = torch.cuda.is_available()
    with _located(source) as location:
        tokenizer = _load_tokenizer(location, source)
        network = AutoModelForCausalLM.from_pretrained(
            location,
            dtype=torch.bfloat16 if cuda and not full_precision else torch.float32,
            attn_implementation="sdpa",
        )
    network.to("cuda" if cuda else "cpu")
    ends = _end_tokens(network, tokenizer, source)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends)
    return BaseModel(network, tokenizer, ends, pad, location)


def load_reader(source: str) -> tuple[Any, Any]:
    """Tokenizer and configuration of a model, without its weights. Raises ModelError."""
    with _located(source) as location:
        return _load_tokenizer(location, source), AutoConfig.from_pretrained(location)


@contextmanager
def _located(source: str) -> Iterator[str]:
    """Folder or hub id to load `source` from; what goes wrong in that is told as a ModelError."""
    transformers_logging.disable_progress_bar()
    source = str(Path(source).expanduser()) if source.startswith("~") else source
    if source.startswith((".", "/")) and not Path(source).is_dir():
        raise ModelError(f"There is no model folder '{source}'.", remedy="Check the path.")
    location = str(embedded.fetch_embedded()) if source == embedded.NAME else source
    try:
        yield location
    except (OSError, ValueError, KeyError) as error:
        if "connect" in str(error).lower() and not Path(location).exists():
            raise DownloadError(
                f"The model '{source}' is no folder here, and the model hub cannot be reached.",
                remedy="Check the name and the network, or give a local folder.",
            ) from error
        kind = "folder" if Path(location).exists() else "hub id"
        raise ModelError(
            f"The model '{source}' (read as a {kind}) could not be loaded: {error}",
            remedy=f"Give a Hugging Face folder with a causal model, a hub id, or '{embedded.NAME}'"
            " for the embedded model.",
        ) from error


def _load_tokenizer(location: str, source: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(location)
    if tokenizer.chat_template is None:
        raise ModelError(
            f"The tokenizer of '{source}' has no chat template.",
            remedy="Use the model's instruct version, or save a template with "
            "`tokenizer.chat_template = ...; tokenizer.save_pretrained(FOLDER)`.",
        )
    return tokenizer


def _end_tokens(network: Any, tokenizer: Any, source: str) -> frozenset[int]:
    named = network.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    ends = frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)
    if not ends:
        raise ModelError(
            f"The model '{source}' names no end token, so no completion could ever end.",
            remedy="Set `eos_token_id` in its generation_config.json.",
        )
    return ends


@contextmanager
def tree_attention(network: nn.Module) -> Iterator[None]:
    """Run `network` with our attention function, which asks a plan."""
    config: Any = network.config
    before = config._attn_implementation
    config._attn_implementation = IMPLEMENTATION
    try:
        yield
    finally:
        config._attn_implementation = before


class Policy:
    """The model being trained, and the view of it that computes.

    `lora_rank` 0 trains all weights. LoRA sits on all linear layers except the output head, with
    alpha = 2 x rank, so that the learning rate keeps its meaning across ranks.
    """

    def __init__(
        self, base: BaseModel, *, lora_rank: int, seed: int = 0, with_reference: bool = False
    ) -> None:
        self.base = base
        self.lora_rank = lora_rank
        self._reference: Any = None
        if lora_rank == 0:
            if with_reference:
                frozen = copy.deepcopy(base.network).requires_grad_(False).eval()
                self._reference, _ = fast_view(frozen)
            self.network: Any = base.network.requires_grad_(True)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)  # LoRA's A is random; B is zero, so the policy is the base
                self.network = _with_lora(base, lora_rank)
        self.network.eval()  # no dropout: sampling and training must see the same model
        self.view, self._layers = fast_view(self.network)
        """The plain model with the same weights and gradients, which samples and learns."""

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything the optimizer moves."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def refresh(self) -> None:
        """Bring the view up to date; call after every change of the weights."""
        for layer in self._layers:
            if layer.is_trained:
                layer.refresh()

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """A network that computes the base model, for the KL term."""
        if self._reference is not None:
            yield self._reference
        elif not self.lora_rank:
            raise RuntimeError("This policy was made without a reference.")
        else:
            for layer in self._layers:
                layer.is_base = True
            try:
                with self.network.disable_adapter():
                    yield self.view if self._layers else self.network
            finally:
                for layer in self._layers:
                    layer.is_base = False

    def weights(self) -> dict[str, Tensor]:
        """Detached trainable weights by name."""
        return {name: parameter.detach() for name, parameter in self.trainable.items()}

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Put back what `weights` gave."""
        own = self.trainable
        if own.keys() != weights.keys():
            raise ModelError("The saved weights belong to another model or LoRA rank.")
        for name, parameter in own.items():
            parameter.copy_(weights[name])
        self.refresh()

    @torch.no_grad()
    def start_from(self, folder: Path) -> None:
        """Take the weights of a saved PEFT adapter of the same base, rank and layers.

        Raises ModelError when they do not fit.
        """
        try:
            rank = PeftConfig.from_pretrained(str(folder)).r
            weights = load_peft_weights(str(folder), device="cpu")
        except (OSError, ValueError) as error:
            raise ModelError(f"'{folder}' is no PEFT adapter: {error}") from error
        if rank != self.lora_rank:
            raise ModelError(
                f"The adapter '{folder}' has rank {rank}, lora_rank is {self.lora_rank}.",
                remedy=f"Set lora_rank = {rank}, so that training can go on from it.",
            )
        shapes = {name.replace(".default", ""): p for name, p in self.trainable.items()}
        if {n: p.shape for n, p in shapes.items()} != {n: w.shape for n, w in weights.items()}:
            raise ModelError(
                f"The adapter '{folder}' sits on other layers than those of '{self.base.location}'."
            )
        for name, parameter in shapes.items():
            parameter.copy_(weights[name])
        self.refresh()

    def save(self, folder: Path) -> None:
        """Write the result: a standard PEFT adapter, or the whole model when all of it trained."""
        # LoRA leaves the embeddings alone; peft would look for them on the hub to make sure.
        extra = {"save_embedding_layers": False} if self.lora_rank else {}
        self.network.save_pretrained(folder, **extra)
        self.base.tokenizer.save_pretrained(folder)


def with_adapter(base: BaseModel, folder: Path) -> BaseModel:
    """The base with a saved PEFT adapter: merged in fp32, beside the weights in bf16."""
    with _quiet_peft():
        network = PeftModel.from_pretrained(base.network, folder).eval()
    exact = next(base.network.parameters()).dtype == torch.float32
    return replace(base, network=network.merge_and_unload() if exact else network.get_base_model())


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """peft 0.21 reads a flag that transformers 5.23 has renamed; nobody can act on that here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        yield


def _with_lora(base: BaseModel, rank: int) -> PeftModel:
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    with _quiet_peft():
        network = get_peft_model(base.network, config)
    network.peft_config["default"].base_model_name_or_path = base.location
    return network


def fast_view(network: Any) -> tuple[Any, list[FastLinear]]:
    """The plain model over the same parameters with fast layers, and its linear ones.

    In bf16 the network itself and no layers: small changes of an adapter would be lost in the
    rounding of merged weights.
    """
    if next(network.parameters()).dtype != torch.float32:
        return network, []
    plain = network.get_base_model() if isinstance(network, PeftModel) else network
    parts = (*plain.parameters(), *plain.buffers(), plain.config)
    shared = {id(part): part for part in parts}
    view = copy.deepcopy(plain, shared)
    layers: list[FastLinear] = []
    done: tuple[str, ...] = ()  # inside of what was replaced
    for name, module in plain.named_modules():
        if done and name.startswith(done):
            continue
        fast: FastBlock | FastLinear
        if is_served(module):
            fast = FastBlock(module)
            layers += fast.layers
        elif isinstance(module, LoraLayer) or type(module) is nn.Linear:
            fast = FastLinear(module)
            layers.append(fast)
        else:
            continue
        done = (*done, f"{name}.")
        view.set_submodule(name, fast)
    return view, layers
