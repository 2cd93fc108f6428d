"""What is settled before the first step: data that may not be used, and how to compute."""

import json
from pathlib import Path

import pytest

from tiny import WINDOW, write_tiny_model
from toy import ConstantGrader, run_to_end, toy_run
from tunestone.config import TrainConfig
from tunestone.core.model import Policy, load_base
from tunestone.core.prepare import available_threads, open_sampler, prepare
from tunestone.core.rows_sampler import RowsSampler
from tunestone.core.sampler import Sampler, SamplingParams
from tunestone.errors import ConfigError, DataError
from tunestone.runlog import read_lines
from tunestone.types import Prompt


def test_a_short_window_means_rows_from_the_start(tmp_path: Path) -> None:
    """A model that sees WINDOW tokens back is trained on padded rows, says so, and learns."""
    model = write_tiny_model(tmp_path / "windowed", architecture="mistral")
    run = toy_run(tmp_path, model, max_steps=4, lora_rank=0)
    said: list[str] = []
    report = run_to_end(run, say=said.append)
    assert any(f"its attention window is {WINDOW} tokens" in message for message in said)
    assert report["steps"] == 4
    for record in read_lines(run.metrics):
        assert record["tree_nodes"] == 0
        assert record["padded_positions"] > 0
        assert record["kl_sampling"] < 1e-6


def test_a_full_model_uses_the_tree(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder)
    said: list[str] = []
    grader = ConstantGrader()
    config = TrainConfig.model_validate(run.config()["config"])
    trainer = prepare(run, config, grader, said.append)
    assert isinstance(trainer.sampler, Sampler)
    assert trainer.learner.uses_tree
    assert said == []


def test_rows_sampler_keeps_the_promises_of_the_sampler(tiny_folder: Path) -> None:
    """Greedy tokens equal the shared-prefix sampler's; draws repeat with their seed."""
    base = load_base(str(tiny_folder))
    network = Policy(base, lora_rank=0).view
    prompts = [base.encode(Prompt("", ({"role": "user", "content": t},))) for t in ("ab", "abcde")]
    rows, shared = RowsSampler(network, base), Sampler(network, base)
    greedy = SamplingParams(max_tokens=12, temperature=0.0)
    for (ours,), (plain,) in zip(
        shared.sample(prompts, 1, greedy), rows.sample(prompts, 1, greedy), strict=True
    ):
        assert ours.tokens == plain.tokens
        assert ours.finish_reason == plain.finish_reason
        assert ours.logprobs == pytest.approx(plain.logprobs, abs=1e-4)
        assert ours.entropies == pytest.approx(plain.entropies, abs=1e-4)
    warm = SamplingParams(max_tokens=6, temperature=1.5, top_k=20)
    once, again = (rows.sample(prompts, 3, warm, seed=(4,)) for _ in range(2))
    assert once == again
    assert once != rows.sample(prompts, 3, warm, seed=(5,))
    assert isinstance(open_sampler(base, longest=40), Sampler)


def test_inference_falls_back_to_rows_as_training_does(tmp_path: Path) -> None:
    base = load_base(str(write_tiny_model(tmp_path / "windowed", architecture="mistral")))
    assert isinstance(open_sampler(base, longest=WINDOW + 1), RowsSampler)


def test_texts_beyond_the_positions_of_the_model_are_refused(
    tmp_path: Path, tiny_folder: Path
) -> None:
    run = toy_run(tmp_path, tiny_folder, max_completion_tokens=1020)
    with pytest.raises(ConfigError, match=r"may take 1029 tokens; .* has positions for 1024"):
        run_to_end(run)


def test_a_prompt_the_template_refuses_is_named(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "strict")
    template = model / "chat_template.jinja"
    template.write_text("{{ raise_exception('roles must alternate') }}" + template.read_text())
    run = toy_run(tmp_path, model)
    with pytest.raises(DataError, match=r"train.jsonl:1: .*refuses this prompt: roles must alt"):
        run_to_end(run)


def test_test_prompts_may_not_choose_the_checkpoint(tmp_path: Path, tiny_folder: Path) -> None:
    leaked = tmp_path / "leaked.jsonl"
    row = {"id": "seen", "messages": [{"role": "user", "content": "Say 13"}]}
    leaked.write_text(json.dumps(row) + "\n")
    run = toy_run(tmp_path, tiny_folder, test=str(leaked))
    with pytest.raises(DataError, match=r"1 prompts are also in the validation data, 'seen'"):
        run_to_end(run)


def test_long_prompts_are_left_out_counted_and_shown(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(
        tmp_path, tiny_folder, max_prompt_tokens=8, max_steps=1, validation="", test="", seed=1
    )
    data = Path(run.config()["config"]["data"])
    said: list[str] = []
    run_to_end(run, say=said.append)
    # <|user|> S a y space d <|end|> <|assistant|> are 8 tokens; "Say 10" and "Say 11" have 9.
    assert len(data.read_text().splitlines()) == 12
    assert any(message.startswith("2 of 11 training prompts are longer") for message in said)
    notes = [event for event in read_lines(run.events) if event["kind"] == "note"]
    assert [event["message"] for event in notes] == said


def test_no_prompt_left_is_an_error(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_prompt_tokens=2)
    with pytest.raises(DataError, match="no training prompt is left"):
        run_to_end(run)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_heldout_prompts_may_not_be_trained_on(
    tmp_path: Path, tiny_folder: Path, name: str
) -> None:
    leaked = tmp_path / "leaked.jsonl"
    row = {"id": "leak", "messages": [{"role": "user", "content": "Say 3"}]}
    leaked.write_text(json.dumps(row) + "\n")
    run = toy_run(tmp_path, tiny_folder, **{name: str(leaked)})
    with pytest.raises(DataError, match=r"1 prompts are also in the training data, 'leak'"):
        run_to_end(run)


def test_without_validation_a_tenth_is_split_off(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, validation="", test="", max_steps=2)
    report = run_to_end(run)
    assert report["n"] == 1
    assert report["heldout"].startswith("validation (it chose the checkpoint too")
    drawn = {sample["prompt_id"] for sample in read_lines(run.samples)}
    assert len(drawn) <= 11


@pytest.mark.parametrize(
    ("asked", "expected"), [("1", 1), ("0", 1), ("100000", None), ("4,2", None)]
)
def test_omp_num_threads_takes_fewer_cores(
    monkeypatch: pytest.MonkeyPatch, asked: str, expected: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    every = available_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert available_threads() == (expected or every)
