"""The loop on a toy: it learns, it watches itself, and bad rewards are data, not crashes."""

import json
import math
from pathlib import Path

import pytest

from toy import REWARD, ConstantGrader, run_to_end, toy_run, train_with, without_times
from tunestone.config import TrainConfig
from tunestone.core.learner import Group
from tunestone.core.prepare import prepare
from tunestone.core.train import sampling_params
from tunestone.errors import DivergedError, RewardError
from tunestone.runlog import read_lines

MOTIVES = ("reward_mean", "signal_share", "entropy", "clip_share", "kl_sampling", "gradient_norm")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_random_model_learns_a_bandit(tmp_path: Path, tiny_folder: Path, seed: int) -> None:
    """Chance is about 52 letters of 256 bytes; what it learns must be far from it."""
    run = toy_run(tmp_path, tiny_folder, seed=seed, max_steps=25, eval_every=5)
    report = run_to_end(run)
    assert report["base"]["accuracy"] < 0.5
    assert report["tuned"]["accuracy"] > 0.8
    assert report["difference_ci95"][0] > 0
    rewards = [record["reward_mean"] for record in read_lines(run.metrics)]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 1.0  # sums of five steps


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "gspo", "cispo", "rloo"])
def test_every_algorithm_learns(tmp_path: Path, tiny_folder: Path, algorithm: str) -> None:
    run = toy_run(tmp_path, tiny_folder, algorithm=algorithm, max_steps=15, eval_every=5)
    report = run_to_end(run)
    assert report["difference_ci95"][0] > 0


def test_lora_learns_and_its_base_stays(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, lora_rank=16, max_steps=40, kl_coefficient=0.001)
    run_to_end(run)
    steps = read_lines(run.metrics)
    rewards = [record["reward_mean"] for record in steps]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 1.0  # sums of five steps
    assert (run.adapter / "adapter_config.json").is_file()
    assert steps[0]["kl_base"] < 1e-6  # B starts at zero: the policy is the base
    assert steps[-1]["kl_base"] > 0.01


def test_every_step_is_logged_whole(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=4)
    run_to_end(run)
    steps = read_lines(run.metrics)
    samples = read_lines(run.samples)
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    assert len(samples) == 4 * 4 * 8
    for record in steps:
        own = [sample for sample in samples if sample["step"] == record["step"]]
        rewards = [sample["reward"] for sample in own]
        assert record["reward_mean"] == pytest.approx(sum(rewards) / len(rewards))
        assert record["completion_tokens"] == sum(len(sample["tokens"]) for sample in own)
        cut = sum(sample["finish_reason"] == "length" for sample in own)
        assert record["truncated_share"] == pytest.approx(cut / len(own))
        assert all(math.isfinite(record[name]) for name in MOTIVES)
        # One set of weights draws and trains: what was drawn is what is trained on.
        assert record["kl_sampling"] < 1e-6
        assert record["clip_share"] == 0
        assert sum(s["advantage"] for s in own) == pytest.approx(0, abs=1e-3)
    assert steps[1]["validation_reward"] is not None
    assert "validation_reward" not in steps[0]


def test_a_failing_reward_is_recorded_on_its_completion(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, reward="flaky", max_steps=2)
    run_to_end(run)
    samples = read_lines(run.samples)
    failed = [sample for sample in samples if sample["error"]]
    assert failed
    assert sum(record["grade_errors"] for record in read_lines(run.metrics)) == len(failed)
    for sample in samples:
        assert (ord(sample["text"][:1] or "a") % 4 == 0) == (sample["error"] is not None)
    for sample in failed:
        assert sample["reward"] is None
        assert sample["advantage"] is None
        assert "ValueError: a multiple of four" in sample["error"]


def test_a_broken_reward_stops_the_run_with_its_traceback(
    tmp_path: Path, tiny_folder: Path
) -> None:
    run = toy_run(tmp_path, tiny_folder, reward="broken")
    with pytest.raises(RewardError, match="KeyError: 'no such key'"):
        run_to_end(run)


def test_a_reward_that_breaks_later_leaves_its_evidence(tmp_path: Path, tiny_folder: Path) -> None:
    """The base's 4 validation prompts are graded, the first step's 32 completions all fail."""
    run = toy_run(tmp_path, tiny_folder)
    with pytest.raises(RewardError, match="failed on 32 of 32 completions"):
        train_with(run, ConstantGrader(failing=range(5, 1000)))
    samples = read_lines(run.samples)
    assert len(samples) == 32
    assert all("ValueError: late" in sample["error"] for sample in samples)
    assert read_lines(run.metrics) == []


def test_a_constant_reward_moves_nothing(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, reward="constant", max_steps=3, lora_rank=4)
    report = run_to_end(run)
    for record in read_lines(run.metrics):
        assert record["signal_share"] == 0
        assert record["gradient_norm"] == 0
        assert record["tree_nodes"] == 0
    assert report["difference"] == 0
    assert report["p_value"] == 1


def test_signs_of_trouble_become_events(tmp_path: Path, tiny_folder: Path) -> None:
    """A reward that always gives 0 has no signal, and stays below 0.15 for twenty steps."""
    run = toy_run(tmp_path, tiny_folder, reward="nothing", max_steps=21, eval_every=21)
    said: list[str] = []
    report = run_to_end(run, say=said.append)
    told = [event for event in read_lines(run.events) if event["kind"] == "alert"]
    signs = [("base_earns_nothing", 0), ("no_signal", 5), ("low_reward_plateau", 20)]
    assert [(alert["code"], alert["step"]) for alert in told] == signs
    assert [(alert["code"], alert["step"]) for alert in report["alerts"]] == signs
    assert [line for line in said if line.startswith("Alert (low_reward_plateau): Reward 0.000")]


def test_a_shadow_reward_is_logged_and_never_trained_on(tmp_path: Path, tiny_folder: Path) -> None:
    """It gives 0 where the reward gives a share of letters: learning goes its way all the same."""
    settings = {"max_steps": 2, "batch_size": 12, "lora_rank": 4}
    alone = toy_run(tmp_path / "alone", tiny_folder, **settings)
    run_to_end(alone)
    shadow = f"{tmp_path / 'alone' / 'reward.py'}:nothing"
    run = toy_run(tmp_path / "both", tiny_folder, shadow_reward=shadow, **settings)
    run_to_end(run)
    for record, other in zip(read_lines(run.metrics), read_lines(alone.metrics), strict=True):
        graded = {key: record.pop(key) for key in list(record) if key.startswith("shadow_")}
        assert graded == {"shadow_reward_mean": 0.0, "shadow_graded": 64, "shadow_errors": 0}
        assert without_times(record) == without_times(other)
    first = [sample for sample in read_lines(run.samples) if sample["step"] == 1]
    # 64 of 96: all twelve prompts have their first five graded, four their sixth too.
    asked = [sample["index"] for sample in first if "shadow_reward" in sample]
    assert [asked.count(index) for index in range(8)] == [12, 12, 12, 12, 12, 4, 0, 0]
    assert {sample.get("shadow_reward", 0.0) for sample in first} == {0.0}


def test_what_the_watch_looks_at_is_counted(tmp_path: Path, tiny_folder: Path) -> None:
    """The new numbers of a step's line, against its samples."""
    settings = {"max_steps": 1, "max_completion_tokens": 1, "updates_per_batch": 3}
    run = toy_run(tmp_path, tiny_folder, **settings)
    run_to_end(run)
    (record,) = read_lines(run.metrics)
    groups: dict[str, list[str]] = {}
    for sample in read_lines(run.samples):
        groups.setdefault(sample["prompt_id"], []).append(sample["text"])
    alike = [texts.count(text) > 1 for texts in groups.values() for text in texts]
    assert 0 < sum(alike) < 32
    assert record["identical_share"] == sum(alike) / 32
    assert record["repetition_share"] == 0.0  # of one token there is nothing to repeat
    cut = [s["reward"] for s in read_lines(run.samples) if s["finish_reason"] == "length"]
    assert record["truncated_reward_mean"] == pytest.approx(sum(cut) / len(cut))
    # Measured before the first of three updates; over all three the ratios have moved.
    assert record["sampling_gap"] < 1e-4
    assert record["kl_sampling"] > 1e-4


def test_refilling_replaces_groups_without_signal(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, reward="constant", max_steps=2, refill_limit=2)
    run_to_end(run)
    assert [record["groups"] for record in read_lines(run.metrics)] == [12, 12]  # 3 rounds of 4
    run = toy_run(tmp_path / "signal", tiny_folder, max_steps=1, refill_limit=2, seed=3)
    run_to_end(run)
    (record,) = read_lines(run.metrics)
    assert record["signal_share"] * record["groups"] >= 4 or record["groups"] == 12


def test_stop_file_ends_cleanly_with_a_result(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=50)

    def request(record: dict[str, object]) -> None:
        if record["step"] == 3:
            (run.path / "STOP").touch()

    report = run_to_end(run, step=request, stop_requested=run.stop_requested)
    assert report["stopped"] == "stop requested"
    assert report["steps"] == 4
    assert (run.adapter / "model.safetensors").is_file()
    assert run.report() == json.loads(json.dumps(report))


def test_a_run_stopped_between_validations_gives_what_it_learned(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """Validation is at step 50 only: without a last one the result would be the base."""
    run = toy_run(tmp_path, tiny_folder, max_steps=50, eval_every=50)
    report = run_to_end(run, stop_requested=lambda: len(read_lines(run.metrics)) >= 14)
    assert report["steps"] == 15
    assert report["best_step"] == 15
    assert report["difference"] > 0.1


def test_a_stop_request_does_not_undo_early_stopping(tmp_path: Path, tiny_folder: Path) -> None:
    settings = {"reward": "constant", "max_steps": 9, "eval_every": 1, "patience": 2}
    run = toy_run(tmp_path, tiny_folder, **settings)
    report = run_to_end(run, stop_requested=lambda: len(read_lines(run.metrics)) >= 1)
    assert report["stopped"] == "no better validation reward in 2 validations"


def test_failures_are_counted_over_all_rounds_of_a_step(tmp_path: Path, tiny_folder: Path) -> None:
    """A late round may fail as a whole while most grades of the step are fine."""
    run = toy_run(tmp_path, tiny_folder, max_steps=1, refill_limit=2)
    train_with(run, ConstantGrader(failing=range(69, 101)))  # after 4 validations, 32 a round
    (record,) = read_lines(run.metrics)
    assert record["groups"] == 12
    assert record["grade_errors"] == 32  # the third round of three
    assert record["completions"] == 96


def test_a_diverged_step_is_a_named_error(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=4)
    config = TrainConfig.model_validate(run.config()["config"])
    trainer = prepare(run, config, ConstantGrader(), lambda message: None)
    weight = next(iter(trainer.policy.trainable.values()))
    before = weight.detach().clone()
    prompt_T = list(trainer.training[0].tokens)
    (group_G,) = trainer.sampler.sample([prompt_T], 2, sampling_params(config))
    with pytest.raises(DivergedError, match="The gradient of this step is nan"):
        trainer.learner.update(
            [Group(prompt_T, group_G, [math.nan, 1.0])], learning_rate=config.learning_rate
        )
    assert weight.equal(before)


def test_early_stopping_returns_the_best_checkpoint(tmp_path: Path, tiny_folder: Path) -> None:
    """A validation reward that never moves: the base is the best, and patience runs out."""
    run = toy_run(tmp_path, tiny_folder, reward="constant", max_steps=40, eval_every=1, patience=3)
    report = run_to_end(run)
    assert report["steps"] == 3
    assert report["best_step"] == 0
    assert report["stopped"] == "no better validation reward in 3 validations"


def test_epochs_visit_every_prompt_and_drop_none(tmp_path: Path, tiny_folder: Path) -> None:
    """12 prompts in batches of 5: 3 steps, the last filled from the next epoch."""
    run = toy_run(tmp_path, tiny_folder, batch_size=5, max_steps=None, epochs=1, group_size=2)
    run_to_end(run)
    steps = read_lines(run.metrics)
    assert len(steps) == 3
    drawn = [s["prompt_id"] for s in read_lines(run.samples) if s["index"] == 0]
    assert len(drawn) == 15
    assert set(drawn[:12]) == {f"train-{i}" for i in range(12)}


def test_reward_file_of_the_toy_is_what_the_tests_say() -> None:
    names: dict[str, object] = {}
    exec(REWARD, names)
    assert names["letters"]([], "ab1é", {}) == 0.5
