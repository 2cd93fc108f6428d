"""Write a recipe out as files: the start of a task of one's own.

python -m tunestone.recipes extraction my-task
tunestone check my-task/train.jsonl --config my-task/config.toml
"""

import argparse
import sys
from pathlib import Path

from tunestone.errors import TunestoneError
from tunestone.recipes import load_recipe, recipe_names, write_task


def main() -> None:
    """Write rows and settings of a recipe into a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m tunestone.recipes", description="Write a recipe out as files."
    )
    parser.add_argument("recipe", help=f"one of {', '.join(recipe_names())}, perhaps with :level")
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    config = write_task(options.folder, recipe.settings, recipe.generate(options.seed))
    print(f"Written to {options.folder}. Look before you train:")
    print(f"tunestone check {options.folder / 'train.jsonl'} --config {config}")


if __name__ == "__main__":
    try:
        main()
    except TunestoneError as error:
        sys.exit(f"error: {error}")
