"""Ready use cases: data, reward and settings of one task in a folder.

A recipe is a subpackage with a `config.toml` and a `data.py`. That has `LEVELS`, degrees of
difficulty, the usual one first, and `generate(seed, level=...)`, which gives the rows of each
split. Recipes are found by looking at the folders: there is no list to keep.
"""

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from tunestone.config import TrainConfig, read_toml
from tunestone.data import write_rows
from tunestone.errors import ConfigError
from tunestone.runlog import storage_errors

_HERE = Path(__file__).parent

Splits = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows in Bedrock's shape for each split: train, validation, test, and perhaps more."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One use case at one level of difficulty."""

    name: str
    level: int
    settings: Mapping[str, Any]
    """What its config.toml sets."""

    def generate(self, seed: int) -> Splits:
        """The rows of each split."""
        made: Splits = _data_module(self.name).generate(seed, level=self.level)
        return made

    def refuse_hopeless(self, model: str) -> None:
        """Raise ConfigError when this model is known to learn nothing from the recipe.

        `data.py` may say so in `WITHOUT_SIGNAL`: model -> why.
        """
        reasons: Mapping[str, str] = getattr(_data_module(self.name), "WITHOUT_SIGNAL", {})
        if model in reasons:
            raise ConfigError(
                f"The recipe {self.name} has no signal with '{model}': {reasons[model]}",
                remedy="Name a larger model with --model, or take another recipe.",
            )


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
    levels = [str(known) for known in _data_module(name).LEVELS]
    if level and level not in levels:
        choices = " or ".join(sorted(levels))
        raise ConfigError(f"'{text}': the level must be {choices}, as in '{name}:{levels[-1]}'.")
    return Recipe(name, int(level or levels[0]), read_toml(_HERE / name / "config.toml"))


def write_task(folder: Path, settings: Mapping[str, Any], splits: Splits) -> Path:
    """Rows and settings as files to look at, check and change; the path of the settings.

    `config.toml` names the files beside it. Raises StorageError.
    """
    folder = folder.resolve()  # so that the settings hold wherever they are used from
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, rows in splits.items():
        path = folder / f"{name}.jsonl"
        write_rows(path, rows)
        paths["data" if name == "train" else name] = str(path)
    named = {key: path for key, path in paths.items() if key in TrainConfig.model_fields}
    config = folder / "config.toml"
    with storage_errors(config):
        config.write_text(tomli_w.dumps({**named, **settings}), encoding="utf-8")
    return config


def _data_module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}.data")
