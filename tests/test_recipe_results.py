"""benchmarks/recipes.py: the numbers of result.json, from scores worked out by hand."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_SPEC = importlib.util.spec_from_file_location("recipes_bench", ROOT / "benchmarks" / "recipes.py")
bench = importlib.util.module_from_spec(_SPEC)
sys.modules["recipes_bench"] = bench  # dataclasses look their module up
_SPEC.loader.exec_module(bench)

KEYS = {"base_accuracy", "tuned_accuracy", "relative_gain", "difference_ci95", "n", "seeds"}


def two_seeds() -> list:
    """Base 1 of 4 and 2 of 4 right, tuned 3 of 4 and 4 of 4."""
    return [
        bench.SeedResult(0, [1, 0, 0, 0], [1, 1, 1, 0], 4.0),
        bench.SeedResult(1, [1, 1, 0, 0], [1, 1, 1, 1], 6.0),
    ]


def test_summary() -> None:
    """Means 3/8 and 7/8, gain (7/8 - 3/8) / (3/8) = 4/3; both seeds gain 1/2, so prompts decide."""
    result = bench.summarise(two_seeds())
    assert result["base_accuracy"] == 3 / 8
    assert result["tuned_accuracy"] == 7 / 8
    assert result["relative_gain"] == pytest.approx(4 / 3)
    assert (result["n"], result["seeds"], result["minutes"]) == (8, [0, 1], 5.0)
    first, second = (
        bench.paired_difference_interval(seed.base, seed.tuned) for seed in two_seeds()
    )
    half = ((first[1] - first[0]) ** 2 + (second[1] - second[0]) ** 2) ** 0.5 / 4
    assert result["difference_ci95"] == [pytest.approx(0.5 - half), pytest.approx(0.5 + half)]
    assert set(result) == {*KEYS, "minutes", "per_seed"}
    assert result["per_seed"][1] == {
        "seed": 1,
        "base_accuracy": 0.5,
        "tuned_accuracy": 1.0,
        "minutes": 6.0,
    }


def test_the_interval_is_over_seeds() -> None:
    """Gains of 0, 1/2 and 1: deviation 1/2, t of 2 degrees 4.303, so 1/2 +- 1.24, cut."""
    gains = [([0, 0], [0, 0]), ([0, 0], [1, 0]), ([0, 0], [1, 1])]
    result = bench.summarise([bench.SeedResult(i, *gain, 1.0) for i, gain in enumerate(gains)])
    assert result["difference_ci95"] == [pytest.approx(0.5 - 4.303 * 0.5 / 3**0.5), 1.0]
    assert "over 3 seeds, on 6 held-out prompts" in bench.describe(result, {"signal_share_8": 0.5})


def test_one_seed_has_an_interval_over_its_prompts() -> None:
    result = bench.summarise(two_seeds()[:1])
    low, high = bench.paired_difference_interval([1, 0, 0, 0], [1, 1, 1, 0])
    assert result["difference_ci95"] == [low, high]
    assert "over its prompts" in bench.describe(result, {"signal_share_8": 0.5})


def test_a_base_that_is_never_right_has_no_relative_gain() -> None:
    result = bench.summarise([bench.SeedResult(0, [0, 0], [1, 0], 1.0)])
    assert result["relative_gain"] is None
    assert "% of the base's" not in bench.describe(result, {"signal_share_8": 0.5})


def test_a_run_is_read_by_full_rewards(tmp_path: Path) -> None:
    """0.8 and -0.5 are partial credit, which the result does not count."""
    (tmp_path / "base.json").write_text(json.dumps({"rewards": [1.0, 0.8, -0.5]}))
    (tmp_path / "tuned.json").write_text(json.dumps({"rewards": [1.0, 1.0, 0.8]}))
    seconds = {"prepare": 10, "base": 20, "train": 60, "tuned": 30, "train_sample": 999}
    (tmp_path / "report.json").write_text(json.dumps({"seconds": seconds}))
    read = bench.read_run(tmp_path, 7)
    assert read == bench.SeedResult(7, [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], 2.0)


def test_the_page_is_filled_between_its_markers() -> None:
    page = "# x\n<!-- begin result -->\nold\n<!-- end result -->\ntail\n"
    text = bench.describe(bench.summarise(two_seeds()), {"signal_share_8": 0.62})
    filled = bench.fill(page, "result", text)
    assert "old" not in filled
    assert "| 0 | 25.0 % | 75.0 % | 4.0 |\n| 1 | 50.0 % | 100.0 % | 6.0 |" in filled
    assert "| mean | 37.5 % | 87.5 % | 5.0 |" in filled
    assert "Difference +50.0 points (+133 % of the base's)" in filled
    assert "signal in 62 % of groups of 8" in filled
    assert filled.endswith("<!-- end result -->\ntail\n")
    assert bench.fill(filled, "result", text) == filled
    with pytest.raises(ValueError, match="0 sections 'result'"):
        bench.fill("nothing", "result", text)


@pytest.mark.parametrize("name", bench.NAMES)
def test_every_measured_recipe_has_a_page_to_fill(name: str) -> None:
    page = (bench.RECIPES / name / "README.md").read_text()
    assert bench.fill(page, "result", "x") != page
