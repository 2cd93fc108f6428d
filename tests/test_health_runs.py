"""Runs in which something goes wrong, and runs in which nothing does: docs/health.md's table."""

from pathlib import Path

import pytest
import torch

from planted import alerts, planted_run
from steps import gradients_after, moved_policy, off_policy_groups, on_policy, row_logprobs
from toy import run_to_end, toy_run
from tunestone.config import TrainConfig
from tunestone.core.model import BaseModel
from tunestone.runlog import read_lines

WIDE = {"updates_per_batch": 16, "clip_low": 0.9, "clip_high": 10.0}
"""With learning_rate = 1e-2: sixteen steps of the optimizer on each batch, hardly clipped."""
PRINTABLE = tuple(map(chr, range(32, 112)))
PLANTED = {
    "length is paid": (
        "long",
        {"max_steps": 25, "max_completion_tokens": 24, "stop": PRINTABLE},
        "length_explosion",
    ),
    "form is paid": ("formatted", {"shadow": "answered", "max_steps": 15}, "shadow_divergence"),
    "a judge is won over": ("judge", {"shadow": "meant", "max_steps": 15}, "shadow_divergence"),
    "learning rate too high": (
        "meant",
        {**WIDE, "max_steps": 15, "algorithm": "cispo", "group_size": 2},
        "no_signal",
    ),
    "reward is constant": ("constant", {"max_steps": 6}, "no_signal"),
    "one label for all": (
        "two_labels",
        {**WIDE, "max_steps": 15, "max_completion_tokens": 1},
        "identical_completions",
    ),
    "grader fails": ("flaky", {"max_steps": 6}, "grader_errors"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_was_planted_is_found(tmp_path: Path, tiny_folder: Path, name: str) -> None:
    reward, settings, code = PLANTED[name]
    run = planted_run(tmp_path, tiny_folder, reward, **settings)
    run_to_end(run)
    found = alerts(run)
    print(name, {code: alert["step"] for code, alert in found.items()})
    assert code in found
    assert len(found[code]["examples"]) == 3
    if "shadow" in settings:
        assert "this is how reward hacking looks" in found[code]["message"]


def test_the_examples_of_paid_form_are_overpaid(tmp_path: Path, tiny_folder: Path) -> None:
    run = planted_run(tmp_path, tiny_folder, "formatted", shadow="answered", max_steps=10)
    run_to_end(run)
    alert = alerts(run)["shadow_divergence"]
    assert "The component form rose most" in alert["message"]
    for example in alert["examples"]:
        assert example["text"][0].isupper()
        assert (example["reward"], example["shadow_reward"]) == (0.9, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_raises_no_false_alarm(tmp_path: Path, tiny_folder: Path, seed: int) -> None:
    """It learns the task to its end, which is told: `reward_saturated` is right."""
    settings = {"shadow": "stricter", "max_steps": 25, "seed": seed}
    run = planted_run(tmp_path, tiny_folder, "meant", **settings)
    run_to_end(run)
    found = alerts(run)
    print(seed, {code: alert["step"] for code, alert in found.items()})
    assert set(found) <= {"reward_saturated"}
    rewards = [record["reward_mean"] for record in read_lines(run.metrics)]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 1.0  # sums of five steps


def test_the_gap_between_sampling_and_training_is_measured(tiny_base: BaseModel) -> None:
    """Against plain rows, one by one; a group without signal is not trained on and not measured."""
    config, policy = TrainConfig(), moved_policy(tiny_base)
    groups = off_policy_groups(policy, [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0]], config)
    metrics, _ = gradients_after(policy, config, groups)
    gaps = []
    for drawn in groups[0].completions_G:
        with torch.no_grad():
            now = row_logprobs(policy.network, groups[0].prompt_T, list(drawn.tokens), 1.0)
        gaps += [abs(float(a) - b) for a, b in zip(now, drawn.logprobs, strict=True)]
    assert metrics["sampling_gap"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-5)
    assert metrics["sampling_gap"] > 0.1  # it was drawn up to 0.8 nats off
    metrics, _ = gradients_after(policy, config, [on_policy(policy, groups[0])])
    assert metrics["sampling_gap"] < 1e-5


def test_a_base_with_nothing_left_to_learn_is_told_before_training(
    tmp_path: Path, tiny_folder: Path
) -> None:
    run = toy_run(tmp_path, tiny_folder, reward="constant", max_steps=1)
    said: list[str] = []
    report = run_to_end(run, say=said.append)
    assert [(alert["code"], alert["step"]) for alert in report["alerts"]] == [("base_solves_it", 0)]
    assert [text for text in said if text.startswith("Alert (base_solves_it): The base model")]
