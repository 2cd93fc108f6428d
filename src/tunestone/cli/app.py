"""What all commands share: the application, its options, and how errors are shown."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tunestone.errors import RequestError, TunestoneError, WorldError

app = typer.Typer(
    help="Reinforcement fine-tuning on your own hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(highlight=False, soft_wrap=True)

RecipeName = Annotated[str, typer.Argument(help="A recipe, e.g. word_problems or extraction:3.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="A setting, key=value.")]
ModelName = Annotated[
    str, typer.Option("--model", help="Hugging Face id, folder, or smollm2-135m.")
]
DataFile = Annotated[str, typer.Option("--data", help="JSONL file of prompts.")]
RewardName = Annotated[
    str, typer.Option("--reward", help="file.py:function, a grader's file, an address, or a name.")
]
RunPath = Annotated[Path, typer.Argument(help="A run folder.")]


def main() -> None:
    """Entry point: shows errors meant for a person as such, anything else with its traceback."""
    try:
        app()
    except TunestoneError as error:
        print_error(error)
        sys.exit(
            2 if isinstance(error, RequestError) else 3 if isinstance(error, WorldError) else 1
        )


def print_error(error: TunestoneError) -> None:
    """Message and remedy on standard error."""
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    stderr.print(Text(f"error: {error.message}", style="red"))
    if error.remedy:
        stderr.print(Text(error.remedy))


def say(message: str) -> None:
    """One line, as it is."""
    console.print(Text(message))
