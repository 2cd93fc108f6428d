"""Ready use cases: data, reward and settings of one task in a folder.

A recipe is a subpackage with a `config.toml` and a `data.py` whose `generate(seed, level)` gives
the rows of each split. Recipes are found by looking at the folders: there is no list to keep.
"""

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestone.config import read_toml
from tunestone.errors import ConfigError

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Recipe:
    """One use case at one level of difficulty."""

    name: str
    level: int
    settings: Mapping[str, Any]
    """What its config.toml sets."""

    def generate(self, seed: int) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Rows in Bedrock's shape for each split: train, validation, test, and perhaps more."""
        module = importlib.import_module(f"{__name__}.{self.name}.data")
        splits: Mapping[str, Sequence[Mapping[str, Any]]] = module.generate(seed, level=self.level)
        return splits


def recipe_names() -> list[str]:
    """All recipes there are."""
    return sorted(path.parent.name for path in _HERE.glob("*/config.toml"))


def load_recipe(text: str) -> Recipe:
    """`name` or `name:level`. Raises ConfigError naming the nearest recipe."""
    name, _, level = text.partition(":")
    if name not in recipe_names():
        close = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = (
            f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(recipe_names())}."
        )
        raise ConfigError(
            f"There is no recipe '{name}'.",
            remedy=f"{hint} For data of your own, use --data and --reward.",
        )
    if level not in ("", "1", "2"):
        raise ConfigError(f"'{text}': the level must be 1 or 2, as in '{name}:2'.")
    return Recipe(name, int(level or 1), read_toml(_HERE / name / "config.toml"))
