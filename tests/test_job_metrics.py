"""One line of metrics, told in the words of both services; and what a log becomes."""

from typing import Any

import pytest

from tunestone.health.watch import judge_base
from tunestone.jobs import metrics
from tunestone.jobs.journal import set_current_phase, set_phase
from tunestone.pace import seconds_left

REWARD = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": {"type": "string_check"}, "judge": {"type": "score_model"}},
    "calculate_output": "exact + judge",
}


def record(**changes: Any) -> dict[str, Any]:
    """A step of 8 completions; two rewards could not be read, a judge used 80 tokens."""
    return {
        "step": 4,
        "steps": 67,
        "epoch": 0.5,
        "reward_mean": 0.4375,
        "reward_min": 0.0,
        "reward_max": 1.0,
        "advantage_mean": 0.0136,
        "loss": 0.1015,
        "entropy": 0.6236,
        "gradient_norm": 0.00087,
        "clip_share": 0.01,
        "kl_base": 0.0,
        "learning_rate": 1e-4,
        "completions": 8,
        "completion_tokens": 4000,
        **{f"prompt_length_{k}": 100 for k in ("mean", "min", "max")},
        **{f"length_{k}": 500 for k in ("mean", "min", "max")},
        "reasoning_length_mean": 120.0,
        "truncated_share": 0.25,
        "scores": {"exact": 0.5, "judge": 0.375},
        "error_kinds": {"sample_parse_error": 2, "model_grader_server_error": 1},
        "judge_tokens": {"nova": {"prompt": 80, "completion": 16, "cached": 8}},
        "graders": {
            "exact": {"error_kinds": {"sample_parse_error": 2}, "judge_tokens": {}},
            "judge": {
                "error_kinds": {"model_grader_server_error": 1},
                "judge_tokens": {"nova": {"prompt": 80, "completion": 16, "cached": 8}},
            },
        },
        "grade_seconds_mean": 0.75,
        "grader_seconds": {"exact": 0.25, "judge": 0.5},
        "tokens_per_second": 200.0,
        "memory_gb": 3.5,
        "seconds": {"sample": 20.0, "grade": 4.0, "compare": 0.1, "learn": 8.0},
        **changes,
    }


def validated() -> dict[str, Any]:
    part = {
        "completions": 4,
        **{f"length_{k}": 300 for k in ("mean", "min", "max")},
        "reasoning_length_mean": 90.0,
        "scores": {"exact": 0.75, "judge": 0.5},
        "error_kinds": {"sample_parse_error": 1},
        "judge_tokens": {"nova": {"prompt": 40, "completion": 8}},
        "graders": {
            "exact": {"error_kinds": {"sample_parse_error": 1}, "judge_tokens": {}},
            "judge": {
                "error_kinds": {},
                "judge_tokens": {"nova": {"prompt": 40, "completion": 8}},
            },
        },
    }
    seconds = {"sample": 20.0, "grade": 4.0, "compare": 0.1, "learn": 8.0, "validate": 6.0}
    return record(
        validation_reward=0.68,
        validation=part,
        validation_grade_seconds_mean=0.5,
        validation_grader_seconds={"exact": 0.125, "judge": 0.375},
        seconds=seconds,
    )


def test_the_flat_keys_of_bedrocks_openai_door() -> None:
    data = metrics.render(record(), REWARD)
    assert {key: data[key] for key in list(data)[:9] if key != "epoch"} == {
        "step": 4,
        "total_steps": 67,
        "critic_rewards_mean": 0.4375,
        "actor_pg_loss": 0.1015,
        "actor_entropy": 0.6236,
        "actor_grad_norm": 0.00087,
        "critic_advantages_mean": 0.0136,
        "response_length_mean": 500,
    }
    step = "Step 4/67: training metrics, train mean reward=0.44"
    assert metrics.message(record()) == step
    validation = ", full validation mean reward=0.68, full validation mean parse error=0.25"
    assert metrics.message(validated()) == step + validation


def test_the_nested_payload_of_openai() -> None:
    data = metrics.render(validated(), REWARD)
    assert data["full_valid_mean_reward"] == 0.68
    assert data["full_valid_mean_parse_error"] == 1 / 4
    assert data["reasoning_tokens_mean"] == 120
    assert data["valid_reasoning_tokens_mean"] == 90
    assert data["scores"] == {
        "train_reward_mean": 0.4375,
        "valid_reward_mean": 0.68,
        "graders": [
            {
                "name": "exact",
                "type": "string_check",
                "train_reward_mean": 0.5,
                "valid_reward_mean": 0.75,
            },
            {
                "name": "judge",
                "type": "score_model",
                "train_reward_mean": 0.375,
                "valid_reward_mean": 0.5,
            },
        ],
    }
    (usage,) = data["usage"]["graders"]
    assert (usage["name"], usage["type"]) == ("judge", "score_model")
    assert (usage["model"], usage["train_prompt_tokens_mean"]) == ("nova", 10)
    assert (usage["valid_completion_tokens_mean"], usage["valid_completion_tokens_count"]) == (2, 4)
    assert data["model_graders_token_usage"]["nova"] == {
        "train_prompt_tokens": 80,
        "train_completion_tokens": 16,
        "train_cached_tokens": 8,
        "eval_prompt_tokens": 40,
        "eval_completion_tokens": 8,
        "eval_cached_tokens": 0,
    }
    assert data["timing"]["step"]["full_iteration"] == pytest.approx(38.1)
    exact, judge = data["timing"]["graders"]
    assert (exact["name"], judge["name"]) == ("exact", "judge")
    assert exact["train_execution_latency_mean"] == 0.25
    assert judge["valid_execution_latency_mean"] == 0.375
    exact, judge = data["errors"]["graders"]
    assert exact["train_sample_parse_error_mean"] == 2 / 8
    assert exact["valid_sample_parse_error_count"] == 1
    assert exact["model_grader_server_error_mean"] == 0
    assert judge["model_grader_server_error_mean"] == 1 / 8
    assert judge["train_sample_parse_error_count"] == 0
    assert data["series"]["score/judge"] == 0.375
    assert data["series"]["val-score/exact"] == 0.75


def test_a_grader_that_is_alone_has_the_numbers_of_the_whole() -> None:
    alone = validated() | {"graders": {}, "grader_seconds": {}, "validation_grader_seconds": {}}
    alone["validation"] = alone["validation"] | {"graders": {}}
    data = metrics.render(alone, {"type": "score_model", "name": "judge"})
    (usage,) = data["usage"]["graders"]
    assert (usage["name"], usage["train_prompt_tokens_mean"]) == ("judge", 10)
    (timing,) = data["timing"]["graders"]
    assert (timing["train_execution_latency_mean"], timing["valid_execution_latency_mean"]) == (
        0.75,
        0.5,
    )
    (errors,) = data["errors"]["graders"]
    assert errors["train_sample_parse_error_count"] == 2


def test_what_was_not_validated_has_no_validation_keys() -> None:
    data = metrics.render(record(), {"type": "number"})
    assert not [key for key in data if "valid" in key]
    assert data["scores"]["graders"] == [
        {"name": "number", "type": "number", "train_reward_mean": 0.4375}
    ]
    assert "val-score/rewards/mean@1" not in data["series"]
    assert metrics.series(validated())["val-score/rewards/mean@1"] == 0.68
    assert data["series"]["actor/pg_clipfrac"] == 0.01
    assert data["series"]["response/aborted_ratio"] == 0.25
    assert data["series"]["timing_per_token_ms/gen"] == 5.0  # 20 s for 4000 tokens


def test_the_time_that_is_left() -> None:
    """Two steps of 32.1 s, one of them with a validation of 6 s; 63 are left."""
    first = {**record(), "step": 3}
    assert seconds_left([first, validated()]) == pytest.approx(63 * (32.1 + 0.5 * 6))


def test_what_a_base_earns_can_be_too_little_or_too_much() -> None:
    assert judge_base([0.0, 0.0]).code == "base_earns_nothing"
    assert judge_base([0.0, -1.0]).code == "base_earns_nothing"
    assert judge_base([1.0] * 24 + [0.0]).code == "base_solves_it"  # 0.96
    assert judge_base([1.0] * 19 + [0.0]) is None  # 0.95
    assert judge_base([5.0, 7.0]) is None  # no reward of 0..1


def test_phases_remember_when_they_began() -> None:
    phases = set_phase({}, "validation", "InProgress")
    assert phases["training"] == {"status": "NotStarted"}
    begun = phases["validation"]["created_at"]
    phases = set_current_phase(phases, "Stopped")
    assert phases["validation"]["status"] == "Stopped"
    assert phases["validation"]["created_at"] == begun
    assert phases["validation"]["updated_at"] >= begun
    assert set_current_phase(phases, "Failed") == phases  # nothing is under way
