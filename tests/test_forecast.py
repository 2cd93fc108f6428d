"""The forecast measures and leaves no trace."""

from pathlib import Path

import pytest

from toy import ConstantGrader, toy_run
from tunestone.config import TrainConfig
from tunestone.core.forecast import forecast
from tunestone.core.prepare import prepare


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_forecast_leaves_every_bit_in_place(
    tmp_path: Path, tiny_folder: Path, lora_rank: int
) -> None:
    run = toy_run(tmp_path, tiny_folder, lora_rank=lora_rank)
    config = TrainConfig.model_validate(run.config()["config"])
    grader = ConstantGrader()
    trainer = prepare(run, config, grader, lambda message: None)
    before = {name: weight.clone() for name, weight in trainer.policy.weights().items()}
    cost = forecast(trainer, 8)
    assert all(weight.equal(before[name]) for name, weight in trainer.policy.weights().items())
    assert not trainer.learner.optimizer.state
    assert 0 < cost.low < cost.total < cost.high
    twice = forecast(trainer, 100_000)
    assert twice.total > cost.total  # 12,000 times the held-out prompts cannot be hidden by noise
