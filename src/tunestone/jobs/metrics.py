"""One line of a run's metrics, in the words of the services.

`render` gives the `data` of a metrics event. It holds the eight flat keys of Bedrock's
OpenAI-compatible door, OpenAI's nested payload, and under `series` what Bedrock's console draws; so
each door picks its own from one row. Keys that speak of validation are there on steps that were
validated. Of a reward made of several graders, each has its own entry under `graders`. Sources:
rft_services.md 8.2, 8.4, 8.5.
"""

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


def render(record: Record, reward: Mapping[str, Any]) -> dict[str, Any]:
    """Data of the event of one step; `reward` is the job's reward as plain data."""
    validation = record.get("validation")
    data = {
        "step": record["step"],
        "total_steps": record["steps"],
        "epoch": record["epoch"],
        "critic_rewards_mean": record["reward_mean"],
        "actor_pg_loss": record["loss"],
        "actor_entropy": record["entropy"],
        "actor_grad_norm": record["gradient_norm"],
        "critic_advantages_mean": record["advantage_mean"],
        "response_length_mean": record["length_mean"],
        "train_mean_reward": record["reward_mean"],
        "reasoning_tokens_mean": record["reasoning_length_mean"],
        "completion_tokens_mean": record["length_mean"],
        "mean_unresponsive_rewards": _unresponsive(record),
        "model_graders_token_usage": _token_usage(record, validation),
        "scores": _scores(record, validation, reward),
        "usage": _usage(record, validation, reward),
        "timing": _timing(record, reward),
        "errors": {"graders": _errors(record, validation, reward)},
        "series": series(record),
    }
    if validation:
        data |= {
            "full_valid_mean_reward": record["validation_reward"],
            "full_valid_mean_parse_error": _share(validation, "sample_parse_error"),
            "valid_reasoning_tokens_mean": validation["reasoning_length_mean"],
        }
    return data


def message(record: Record) -> str:
    """`Step 4/67: training metrics`, as Bedrock says it, and the means that OpenAI tells there."""
    told = f"Step {record['step']}/{record['steps']}: training metrics"
    told += f", train mean reward={record['reward_mean']:.2f}"
    if validation := record.get("validation"):
        told += f", full validation mean reward={record['validation_reward']:.2f}"
        parse_errors = _share(validation, "sample_parse_error")
        told += f", full validation mean parse error={parse_errors:.2f}"
    return told


def series(record: Record) -> dict[str, float]:
    """What Bedrock's console draws of a step, under its keys; and each sub-score of the reward."""
    tokens, seconds = record["completion_tokens"], record["seconds"]
    validation = record.get("validation")
    values = {
        "critic/rewards/mean": record["reward_mean"],
        "critic/rewards/max": record["reward_max"],
        "critic/rewards/min": record["reward_min"],
        "critic/advantages/mean": record["advantage_mean"],
        "actor/entropy": record["entropy"],
        "actor/pg_loss": record["loss"],
        "actor/pg_clipfrac": record["clip_share"],
        "actor/grad_norm": record["gradient_norm"],
        "actor/kl_loss": record["kl_base"],
        "actor/lr": record["learning_rate"],
        **{f"prompt_length/{k}": record[f"prompt_length_{k}"] for k in ("mean", "max", "min")},
        **{f"response_length/{k}": record[f"length_{k}"] for k in ("mean", "max", "min")},
        "response/aborted_ratio": record["truncated_share"],
        "perf/throughput": record["tokens_per_second"],
        "perf/time_per_step": sum(seconds.values()),
        "perf/cpu_memory_used_gb": record["memory_gb"],
        "timing_per_token_ms/gen": 1000 * seconds["sample"] / tokens,
        "timing_per_token_ms/reward": 1000 * seconds["grade"] / tokens,
        "timing_per_token_ms/update_actor": 1000 * seconds["learn"] / tokens,
    }
    if "gpu_memory_gb" in record:
        values["perf/max_memory_allocated_gb"] = record["gpu_memory_gb"]
        values["perf/max_memory_reserved_gb"] = record["gpu_memory_reserved_gb"]
    values |= {f"score/{name}": mean for name, mean in record["scores"].items()}
    if validation:
        values["val-score/rewards/mean@1"] = record["validation_reward"]
        values |= {f"val-score/{name}": mean for name, mean in validation["scores"].items()}
        for name in ("mean", "max", "min"):
            values[f"val-response_length/{name}"] = validation[f"length_{name}"]
    return values


def checkpoint_metrics(record: Record) -> dict[str, Any]:
    """What is kept with the model of a step; one that was saved on request has no validation."""
    values = {
        "step": record["step"],
        "train_loss": record["loss"],
        "train_reward_mean": record["reward_mean"],
        "train_mean_reward": record["reward_mean"],
    }
    if "validation_reward" in record:
        reward = record["validation_reward"]
        values |= {
            "valid_reward_mean": reward,
            "full_valid_mean_reward": reward,
            "valid_loss": validation_loss(reward),
            "full_valid_loss": validation_loss(reward),
        }
    return values


def validation_loss(reward: float) -> float:
    """What a member called `validationLoss` holds here: 1 - mean validation reward.

    Reinforcement has no loss on held-out prompts: the policy loss needs advantages, and says
    nothing of quality. This is what is missing to a perfect answer where rewards lie in 0..1; it
    falls exactly when the model gets better, and is below 0 where a reward exceeds 1.
    """
    return 1.0 - reward


def _graders(reward: Mapping[str, Any]) -> dict[str, str]:
    """Name -> type, of the graders a reward is made of; of itself if it is one."""
    parts = reward.get("graders")
    if isinstance(parts, Mapping):
        if isinstance(parts.get("type"), str):  # a lone grader in place of the map
            parts = {str(parts.get("name", "")): parts}
        return {name: str(part.get("type", "")) for name, part in parts.items()}
    kind = str(reward.get("type", ""))
    return {str(reward.get("name") or kind or "reward"): kind}


def _share(part: Record, kind: str) -> float:
    """Share of a part's grades with an error of this kind."""
    return float(part["error_kinds"].get(kind, 0) / part["completions"])


def _unresponsive(record: Record) -> float:
    return _share(record, "unresponsive_reward_error")


def _both(train: Any, valid: Any) -> dict[str, Any]:
    """`{train: ..., valid: ...}`, without what was not measured."""
    return {name: part for name, part in (("train", train), ("valid", valid)) if part}


def _scores(record: Record, validation: Record | None, reward: Mapping[str, Any]) -> dict[str, Any]:
    kinds = _graders(reward)
    parts = _both(record, validation)
    means = {"train": record["reward_mean"], "valid": record.get("validation_reward")}
    whole = {f"{name}_reward_mean": means[name] for name in parts}
    graders = []
    for name, kind in kinds.items():
        entry: dict[str, Any] = {"name": name, "type": kind}
        for part_name, part in parts.items():
            alone = means[part_name] if len(kinds) == 1 else None
            entry[f"{part_name}_reward_mean"] = part["scores"].get(name, alone)
        graders.append(entry)
    return {**whole, "graders": graders}


def _graders_of(part: Record, kinds: Mapping[str, str]) -> Mapping[str, Record]:
    """Grader -> its numbers in a part of a record; one that is alone has those of the whole."""
    return {name: part.get("graders", {}).get(name, part) for name in kinds}


def _usage(record: Record, validation: Record | None, reward: Mapping[str, Any]) -> dict[str, Any]:
    parts, kinds = _both(record, validation), _graders(reward)
    samples: dict[str, Any] = {}
    for name, part in parts.items():
        samples[f"{name}_reasoning_tokens_mean"] = part["reasoning_length_mean"]
        samples[f"{name}_reasoning_tokens_count"] = part["completions"]
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for name, part in parts.items():
        for grader, numbers in _graders_of(part, kinds).items():
            for model, used in numbers["judge_tokens"].items():
                entry = entries.setdefault(
                    (grader, model), {"name": grader, "type": kinds[grader], "model": model}
                )
                for kind in ("prompt", "completion"):
                    entry[f"{name}_{kind}_tokens_mean"] = used.get(kind, 0) / part["completions"]
                    entry[f"{name}_{kind}_tokens_count"] = part["completions"]
    return {"samples": samples, "graders": list(entries.values())}


def _token_usage(record: Record, validation: Record | None) -> dict[str, dict[str, int]]:
    usage: dict[str, dict[str, int]] = {}
    for name, part in (("train", record), ("eval", validation)):
        for model, used in part["judge_tokens"].items() if part else ():
            for kind in ("prompt", "completion", "cached"):
                usage.setdefault(model, {})[f"{name}_{kind}_tokens"] = used.get(kind, 0)
    return usage


def _timing(record: Record, reward: Mapping[str, Any]) -> dict[str, Any]:
    seconds, graders = record["seconds"], []
    for name, kind in _graders(reward).items():
        entry: dict[str, Any] = {"name": name, "type": kind}
        for part, prefix in (("train", ""), ("valid", "validation_")):
            whole = record.get(f"{prefix}grade_seconds_mean")
            own = record.get(f"{prefix}grader_seconds", {}).get(name, whole)
            if own is not None:
                entry[f"{part}_execution_latency_mean"] = own
        graders.append(entry)
    step = {
        "sampling": seconds["sample"],
        "grading": seconds["grade"],
        "training": seconds["learn"],
        "eval": seconds.get("validate", 0.0),
        "full_iteration": sum(seconds.values()),
    }
    return {"step": step, "graders": graders}


def _errors(
    record: Record, validation: Record | None, reward: Mapping[str, Any]
) -> list[dict[str, Any]]:
    parts, kinds = _both(record, validation), _graders(reward)
    entries = []
    for grader, type_ in kinds.items():
        entry: dict[str, Any] = {"name": grader, "type": type_}
        for name, part in parts.items():
            found = _graders_of(part, kinds)[grader]["error_kinds"]
            for kind in ("sample_parse", "invalid_variable", "other"):
                count = found.get(f"{kind}_error", 0)
                entry[f"{name}_{kind}_error_mean"] = count / part["completions"]
                entry[f"{name}_{kind}_error_count"] = count
        found = _graders_of(record, kinds)[grader]["error_kinds"]
        for kind in ("python_grader_server", "python_grader_runtime", "model_grader_server"):
            entry[f"{kind}_error_mean"] = found.get(f"{kind}_error", 0) / record["completions"]
        entries.append(entry)
    return entries
