"""Checkpoints others can use: the best three and the last, each a model, with what it answered."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from test_resume import assert_same_weights
from toy import run_to_end, silent, toy_run, without_times
from tunestone.config import resolve
from tunestone.core.model import load_base, with_adapter
from tunestone.core.prepare import load_heldout, open_sampler
from tunestone.core.records import reasoning_length
from tunestone.core.run import execute, run_config
from tunestone.core.sampler import SamplingParams
from tunestone.errors import ConfigError, ModelError
from tunestone.runlog import (
    CHECKPOINT_RESULT,
    RunFolder,
    checkpoint_path,
    checkpoint_steps,
    read_lines,
)
from tunestone.types import Completion

SETTINGS = {"lora_rank": 4, "max_steps": 9, "eval_every": 1, "patience": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> RunFolder:
    run = toy_run(tmp_path_factory.mktemp("trained"), tiny_folder, **SETTINGS)
    run_to_end(run)
    return run


def test_the_best_three_and_the_last_are_kept(trained: RunFolder) -> None:
    steps = read_lines(trained.metrics)
    ranked = sorted(steps, key=lambda record: -record["validation_reward"])  # ties: the earlier
    wanted = {record["step"] for record in ranked[:3]} | {9, trained.report()["best_step"]}
    assert set(checkpoint_steps(trained.checkpoints)) == wanted


def test_every_answer_to_a_validation_prompt_is_kept(trained: RunFolder) -> None:
    rewards = defaultdict(list)
    for answer in read_lines(trained.validation):
        rewards[answer["step"]].append(answer["reward"])
    assert sorted(rewards) == list(range(10))  # the base, then every step
    for record in read_lines(trained.metrics):
        own = rewards[record["step"]]
        assert len(own) == 4
        assert record["validation_reward"] == pytest.approx(sum(own) / 4)
        assert record["validation"]["completions"] == 4


def test_a_checkpoint_answers_as_it_did_in_training(trained: RunFolder) -> None:
    config = run_config(trained)
    said = {(a["step"], a["prompt_id"]): a["text"] for a in read_lines(trained.validation)}
    for step in checkpoint_steps(trained.checkpoints):
        if step == 0:
            continue
        folder = checkpoint_path(trained.checkpoints, step) / CHECKPOINT_RESULT
        model = with_adapter(load_base(config.model), folder)
        examples = load_heldout(model, Path(config.validation), config, print)
        params = SamplingParams(config.max_completion_tokens, temperature=0.0)
        sampler = open_sampler(model, longest=64)
        groups = sampler.sample([example.tokens for example in examples], 1, params)
        for example, (completion,) in zip(examples, groups, strict=True):
            assert completion.text == said[step, example.prompt.id]


def test_a_run_that_is_left_goes_on_with_the_same_bits(
    tmp_path: Path, tiny_folder: Path, trained: RunFolder
) -> None:
    run = toy_run(tmp_path, tiny_folder, **SETTINGS)
    base_only = replace(silent(stop_requested=lambda: True), leave_on_request=True)
    assert execute(run, base_only) is None
    assert read_lines(run.metrics) == []
    after_four = replace(
        silent(stop_requested=lambda: len(read_lines(run.metrics)) == 3), leave_on_request=True
    )
    assert execute(run, after_four) is None
    assert len(read_lines(run.metrics)) == 4
    assert not run.adapter.exists()
    assert run.report() is None

    assert run_to_end(run)["steps"] == 9
    theirs = list(map(without_times, read_lines(trained.metrics)))
    assert list(map(without_times, read_lines(run.metrics))) == theirs
    assert run.validation.read_bytes() == trained.validation.read_bytes()
    assert_same_weights(run.adapter, trained.adapter)


def test_training_goes_on_from_an_adapter(
    tmp_path: Path, tiny_folder: Path, trained: RunFolder
) -> None:
    values = {**SETTINGS, "max_steps": 1, "start_adapter": str(trained.adapter)}
    run = toy_run(tmp_path / "fits", tiny_folder, **values)
    report = run_to_end(run)
    assert report["base"]["accuracy"] == trained.report()["tuned"]["accuracy"]
    other = toy_run(tmp_path / "rank", tiny_folder, **{**values, "lora_rank": 8})
    with pytest.raises(ModelError, match=r"has rank 4, lora_rank is 8"):
        run_to_end(other)
    nothing = toy_run(tmp_path / "none", tiny_folder, **{**values, "start_adapter": str(tmp_path)})
    with pytest.raises(ModelError, match="is no PEFT adapter"):
        run_to_end(nothing)
    with pytest.raises(ConfigError, match="with lora_rank = 0 every weight is trained"):
        resolve(layers=[("test", {"start_adapter": "x", "lora_rank": 0})])


def test_reasoning_is_counted_by_its_share_of_the_text() -> None:
    def completion(text: str) -> Completion:
        return Completion(tuple(range(20)), (0.0,) * 20, (0.0,) * 20, text, "stop")

    assert reasoning_length(completion("no thoughts")) == 0
    assert reasoning_length(completion("<think>aa</think> 42")) == 20 * 17 / 20
