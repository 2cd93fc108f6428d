"""The section `plan` of a check: what is recommended and why, what it takes, and config.toml."""

import json
import tomllib
from dataclasses import replace

import pytest

from tunestone.check.findings import Finding, Section
from tunestone.check.lengths import Lengths
from tunestone.check.plan import Setup, SignalFacts, config_toml, recommend
from tunestone.check.plan_section import (
    Cost,
    Estimates,
    Price,
    check_plan,
    read_prices,
)
from tunestone.config import TrainConfig, read_toml, resolve
from tunestone.errors import ConfigError

LENGTHS = Lengths(tuple(range(1, 101)), (1,) * 100)  # P99 of the prompts: 99; bare answers
GIVEN = {"model": "smollm2-135m", "data": "d.jsonl", "reward": "r.py:f"}


def signal(shares=(0.2, 0.6, 0.9), *, p99=100, truncated=0.0) -> SignalFacts:
    return SignalFacts(
        prompts=64,
        prompts_graded=64,
        completions=8,
        pass_rate=0.2,
        pass_rate_low=0.15,
        pass_rate_high=0.26,
        mixed_share=0.5,
        signal_share=dict(zip((4, 8, 16), shares, strict=True)),
        length_mean=40.5,
        length_p99=p99,
        truncated_share=truncated,
    )


def setup(rows=800, *, lengths=LENGTHS, **more) -> Setup:
    return Setup(rows, lengths, more.pop("settings", GIVEN), **more)


def value(setup: Setup, name: str):
    return recommend(setup).value(name)


def section(setup: Setup, estimates: Estimates | None = None) -> Section:
    return check_plan(setup, recommend(setup), estimates or Estimates())


def finding(section: Section, code: str) -> Finding:
    (found,) = [finding for finding in section.findings if finding.code == code]
    return found


def codes(section: Section) -> set[str]:
    return {finding.code for finding in section.findings}


# --- settings


@pytest.mark.parametrize(
    ("rows", "has_gpu", "batch"),
    [(800, False, 16), (100, False, 12), (5, False, 1), (5_000, True, 128), (800, True, 100)],
)
def test_batch_size_follows_machine_and_rows(rows, has_gpu, batch):
    assert value(setup(rows, has_gpu=has_gpu), "batch_size") == batch


@pytest.mark.parametrize(
    ("shares", "size"),
    [((0.5, 0.7, 0.9), 4), ((0.49, 0.7, 0.9), 8), ((0.1, 0.4, 0.5), 16), ((0.0, 0.1, 0.2), 16)],
)
def test_group_size_is_the_smallest_with_signal_in_half_of_the_groups(shares, size):
    assert value(setup(signal=signal(shares)), "group_size") == size


def test_group_size_without_completions_is_the_default():
    assert value(setup(), "group_size") == 8


def test_learning_rate_is_for_lora_or_for_all_weights():
    assert value(setup(), "learning_rate") == 1e-4
    assert value(setup(settings={**GIVEN, "lora_rank": 0}), "learning_rate") == 1e-5


@pytest.mark.parametrize(
    ("rows", "epochs", "steps"),
    # steps: ceil(6 x 800 / 16), ceil(3 x 5000 / 16), ceil(1 x 5001 / 16)
    [(800, 6, 300), (5_000, 3, 938), (5_001, 1, 313)],
)
def test_epochs_fall_with_the_rows(rows, epochs, steps):
    plan = recommend(setup(rows))
    assert (plan.config.epochs, plan.steps) == (epochs, steps)


def test_lengths_follow_the_notebooks_when_answers_hold_solutions():
    lengths = Lengths(tuple(range(1, 101)), (50,) * 100)
    plan = recommend(setup(lengths=lengths, signal=signal(p99=500)))
    assert (plan.config.max_prompt_tokens, plan.config.max_completion_tokens) == (198, 150)


@pytest.mark.parametrize(
    ("facts", "has_gpu", "tokens"),
    [
        (signal(p99=100), False, 200),  # 2 x P99 of what the base writes
        (signal(p99=3), False, 32),  # but some room in any case
        (signal(truncated=0.02), False, TrainConfig().max_completion_tokens),  # P99 is the limit
        (None, False, TrainConfig().max_completion_tokens),
        (None, True, 1_024),
    ],
)
def test_completion_length_with_bare_answers(facts, has_gpu, tokens):
    assert value(setup(signal=facts, has_gpu=has_gpu), "max_completion_tokens") == tokens


def test_completions_are_cut_to_the_models_positions():
    plan = recommend(setup(signal=signal(p99=500), context=512))
    assert plan.value("max_completion_tokens") == 512 - 100  # beside the longest prompt, 100
    assert value(setup(signal=signal(p99=500), context=1_100), "max_completion_tokens") == 1_000


def test_few_groups_with_signal_are_refilled_unless_kl_forbids_it():
    sparse = signal((0.0, 0.1, 0.29))
    assert value(setup(signal=sparse), "refill_limit") == 2
    assert value(setup(signal=signal((0.0, 0.1, 0.3))), "refill_limit") == 0
    with_kl = setup(signal=sparse, settings={**GIVEN, "kl_coefficient": 0.1})
    assert value(with_kl, "refill_limit") == 0


def test_what_the_user_set_is_kept():
    mine = {**GIVEN, "batch_size": 3, "max_steps": 7, "seed": 5}
    plan = recommend(setup(settings=mine))
    assert (plan.config.batch_size, plan.config.seed, plan.steps) == (3, 5, 7)
    (batch,) = [s for s in plan.settings if s.name == "batch_size"]
    assert (batch.value, batch.source) == (3, "you")


def test_impossible_settings_of_the_user_are_refused():
    with pytest.raises(ConfigError, match="group_size = 1"):
        recommend(setup(settings={**GIVEN, "group_size": 1}))


def test_every_setting_has_a_reason_and_a_source():
    plan = recommend(setup(signal=signal((0.0, 0.1, 0.2)), context=150))
    assert len(plan.settings) == 7
    assert all(s.reason.endswith(".") and s.source for s in plan.settings)


# --- config.toml


@pytest.mark.parametrize("facts", [None, signal((0.0, 0.1, 0.2), p99=900)])
def test_the_config_loads_to_the_recommended_settings(tmp_path, facts):
    given = {**GIVEN, "stop": ("\n\n", '"'), "data": 'a "b"\\c.jsonl', "eval_every": None}
    plan = recommend(setup(signal=facts, settings=given))
    path = tmp_path / "config.toml"
    path.write_text(config_toml(plan, given=given, title="Made\nfor = you."), encoding="utf-8")
    config, origins = resolve(layers=[("file", read_toml(path))])
    assert config == plan.config
    assert {name for name, origin in origins.items() if origin == "file"} == {
        *(name for name, setting in given.items() if setting is not None),
        *(setting.name for setting in plan.settings),
    }


def test_each_recommended_setting_stands_below_its_reason():
    plan = recommend(setup())
    text = config_toml(plan, given=GIVEN, title="T.")
    assert "# For LoRA, consistently strong. [AWS, Best" in text
    before, _, after = text.partition("learning_rate = ")
    assert before.splitlines()[-1].startswith("# For LoRA")
    assert max(map(len, text.splitlines())) <= 100
    assert tomllib.loads(after.partition("\n")[2])  # and the rest is still TOML


# --- what it takes


def test_tokens_of_a_training():
    # 300 steps x 16 prompts x 8 completions; prompts have 50.5 tokens on average, paid once a group
    found = section(setup(signal=signal((0.2, 0.6, 0.9), p99=100))).facts
    assert found["completions"] == 38_400
    assert found["prompt_tokens"] == 242_400
    assert found["completion_tokens"] == 1_555_200  # 38,400 x 40.5
    assert found["completion_tokens_at_most"] == 38_400 * 200


def test_prompts_that_are_left_out_cost_nothing():
    lengths = Lengths((10,) * 199 + (1_000,))
    found = section(setup(lengths=lengths)).facts
    assert found["prompt_tokens"] == 300 * 16 * 10


def test_time_and_memory_are_passed_on_with_their_interval():
    cost = Cost(60.4, 120, 180, 900, 1_000, 1_100)
    found = section(setup(), Estimates(cost=cost)).facts
    assert (found["seconds"], found["seconds_interval"]) == (120, [60, 180])
    assert (found["memory_mib"], found["memory_mib_interval"]) == (1_000, [900, 1_100])
    assert "seconds" not in section(setup()).facts


@pytest.mark.parametrize(
    ("available", "level"), [(1_100, None), (1_000, "warning"), (899, "fatal"), (None, None)]
)
def test_memory_is_held_against_what_is_free(available, level):
    cost = Cost(1, 2, 3, 900, 1_000, 1_100)
    found = section(setup(), Estimates(cost=cost, memory_available_mib=available))
    levels = [finding.level for finding in found.findings if finding.code == "memory"]
    assert levels == ([level] if level else [])


def test_judges_are_paid_for_training_and_validation():
    tokens = {"j": {"prompt": 100.0, "completion": 10.0, "cached": 40.0}}
    prices = {"j": Price(input=2.0, output=10.0, cached=0.5)}
    mine = {**GIVEN, "max_steps": 25}
    estimates = Estimates(judge_tokens=tokens, prices=prices, validation_rows=64)
    found = section(setup(settings=mine), estimates)
    # 25 x 16 x 8 completions, and 64 rows before step 1 and after steps 10, 20 and 25
    assert found.facts["judge_grades"] == 3_200 + 4 * 64 == 3_456
    assert found.facts["judge_tokens"]["j"]["prompt"] == 345_600
    # (60 x 2 + 40 x 0.5 + 10 x 10) / 1e6 x 3456 = 240 x 3456 / 1e6
    assert found.facts["judge_cost"] == pytest.approx(0.8294)
    assert finding(found, "judge_cost").level == "ok"


def test_a_judge_without_a_price_is_named():
    tokens = {"a": {"prompt": 1.0}, "b": {"prompt": 1.0}}
    estimates = Estimates(judge_tokens=tokens, prices={"a": Price(input=1, output=1)})
    assert finding(section(setup(), estimates), "no_price").message.endswith("the judge 'b'.")


def test_price_tables_in_toml_and_json(tmp_path):
    toml, other = tmp_path / "p.toml", tmp_path / "p.json"
    toml.write_text('["openai.gpt-oss-120b-1:0"]\ninput = 0.15\noutput = 0.6\n')
    expected = {"openai.gpt-oss-120b-1:0": Price(input=0.15, output=0.6)}
    other.write_text(json.dumps({"openai.gpt-oss-120b-1:0": {"input": 0.15, "output": 0.6}}))
    assert read_prices(toml) == read_prices(other) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[m]\ninput = 1", "m.output: Field required"),
        ("[m]\ninput = 'x'\noutput = 1", "m.input: Input should be a valid number"),
        ("[m]\ninput = -1\noutput = 1", "m.input: Input should be greater than or equal to 0"),
        ("[m", "not a readable price table"),
    ],
)
def test_a_wrong_price_table_is_refused(tmp_path, text, message):
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="p.toml: " + message):
        read_prices(path)
    with pytest.raises(ConfigError, match="There is no price table"):
        read_prices(tmp_path / "none.toml")


# --- what speaks against it


def test_a_model_too_short_for_its_prompts_is_fatal():
    mine = {**GIVEN, "max_completion_tokens": 60}
    found = section(setup(settings=mine, context=150))
    assert finding(found, "context_too_short").level == "fatal"
    assert "context_too_short" not in codes(section(setup(settings=mine, context=160)))


def test_completions_get_what_the_longest_kept_prompt_leaves():
    # Of prompts with 1 to 100 tokens the user keeps those up to 50; validation has one of 60.
    mine = {**GIVEN, "max_prompt_tokens": 50}
    facts = signal(p99=500)
    kept = setup(settings=mine, signal=facts, context=200)
    assert value(kept, "max_completion_tokens") == 200 - 50
    assert "context_too_short" not in codes(section(kept))
    wider = setup(settings={**GIVEN, "max_prompt_tokens": 120}, signal=facts, context=200)
    longer = replace(wider, heldout_P=(110, 130))
    assert value(longer, "max_completion_tokens") == 200 - 110
    assert "context_too_short" not in codes(section(longer))
    too_long = replace(wider, heldout_P=(121,))
    assert "Every validation prompt is" in finding(section(too_long), "no_prompt_fits").message


def test_a_plan_without_a_grade_names_no_share():
    facts = replace(signal(), signal_share={}, prompts_graded=0)
    plan = recommend(setup(signal=facts))
    (group,) = [s for s in plan.settings if s.name == "group_size"]
    assert (group.value, group.reason) == (8, "No completions were graded.")


def test_one_is_singular():
    one = {**GIVEN, "max_steps": 1, "batch_size": 1}
    found = finding(section(setup(1, settings=one)), "plan")
    assert found.message == "1 step of 1 prompt x 8 completions."
    reasons = {s.name: s.reason for s in recommend(setup(1)).settings}
    assert reasons["batch_size"].startswith("An eighth of 1 row,")
    assert reasons["epochs"].startswith("1 row is few")


def test_no_prompt_below_the_users_limit_is_fatal():
    lengths = Lengths((10, 20))
    found = section(setup(lengths=lengths, settings={**GIVEN, "max_prompt_tokens": 9}))
    assert finding(found, "no_prompt_fits").level == "fatal"
    assert found.facts["prompt_tokens"] == 0


def test_cut_off_completions_are_a_warning():
    assert finding(section(setup(signal=signal(truncated=0.06))), "completions_cut_off").level == (
        "warning"
    )
    assert "completions_cut_off" not in codes(section(setup(signal=signal(truncated=0.05))))
