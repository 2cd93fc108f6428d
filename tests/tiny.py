"""A complete Hugging Face folder, small enough to be built and trained in a blink.

The model has random weights, large enough that its distributions are far from uniform; the
tokenizer knows every byte, so any text can be encoded. Nothing is downloaded.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIALS = ("<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 264  # a little more than the tokenizer knows, as in many real models
WINDOW = 8  # of "mistral": a sliding window shorter than most texts
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
}
_GPT2_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}
ARCHITECTURES = {
    "llama": (LlamaForCausalLM, LlamaConfig, _SIZES),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, _SIZES),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, _SIZES),
    "gpt2": (GPT2LMHeadModel, GPT2Config, _GPT2_SIZES),
    "mistral": (MistralForCausalLM, MistralConfig, {**_SIZES, "sliding_window": WINDOW}),
}


def write_tiny_model(folder: Path, *, seed: int = 0, architecture: str = "llama") -> Path:
    """Write weights (fp32), configs and tokenizer to `folder`; the same seed, the same weights."""
    tokenizer = tiny_tokenizer()
    tiny_network(tokenizer, seed=seed, architecture=architecture).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and five special ones."""
    vocabulary = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(vocabulary)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        eos_token=SPECIALS[0],
        pad_token=SPECIALS[1],
        additional_special_tokens=list(SPECIALS[2:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_network(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, architecture: str
) -> PreTrainedModel:
    """Random weights from `seed`; the caller's random state is left as it was."""
    model_class, config_class, sizes = ARCHITECTURES[architecture]
    config = config_class(
        **sizes,
        vocab_size=VOCABULARY,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = model_class(config)
        for parameter in network.parameters():
            if parameter.dim() == 1:  # norms start at one and biases at zero: too tame a test
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()
