"""The command that sets two models against each other on held-out prompts."""

from pathlib import Path
from typing import Annotated

import typer

from tunestone import terminal
from tunestone.cli.app import Assignments, RewardName, app, console, say
from tunestone.errors import RunError
from tunestone.runlog import RunFolder

_USAGE = "`tunestone eval RUN`, or `tunestone eval BASE TUNED DATA --reward REWARD`."


@app.command(name="eval")
def evaluate(
    first: Annotated[str, typer.Argument(metavar="RUN|BASE", help="A run folder, or the base.")],
    tuned: Annotated[str, typer.Argument(help="The model that is set against BASE.")] = "",
    prompts: Annotated[str, typer.Argument(metavar="[DATA]", help="JSONL file for both.")] = "",
    data: Annotated[
        str, typer.Option(help="JSONL file; default with RUN: the run's test file.")
    ] = "",
    reward: RewardName = "",
    samples: Annotated[
        int | None, typer.Option(min=0, max=64, help="Answers drawn to a prompt; 0 is none.")
    ] = None,
    slices: Annotated[
        list[str] | None, typer.Option("--slice", help="A field of the rows to tell apart.")
    ] = None,
    assignments: Assignments = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report.")] = None,
) -> None:
    """Compare two models on held-out prompts: base and result of a run, or any two.

    BASE and TUNED are a run folder, a PEFT adapter's folder, a model folder, a hub id, or
    smollm2-135m. Where TUNED is a run, its reward and settings hold unless given. Prints a report
    and writes it as JSON, Markdown and HTML: into the run folder, or into ./evaluation.
    """
    _refuse_mixed(first, tuned, prompts, data)
    from tunestone.reports.files import write_report
    from tunestone.reports.standalone import refuse_unwritable

    run = RunFolder.open(Path(first)) if not tuned else None
    folder = out or (run.path if run is not None else Path("evaluation"))
    refuse_unwritable(folder)
    from tunestone.core.evaluation import Wishes, evaluate_pair, evaluate_run

    wishes = Wishes(prompts or data, reward, samples, slices or (), assignments or ())
    report = evaluate_run(run, wishes, say) if run else evaluate_pair(first, tuned, wishes, say)
    is_run = (folder / "config.json").is_file()  # whose report.json is the proof of its training
    name = f"eval-{Path(report['heldout']).stem}" if is_run else "report"
    written = write_report(folder, report, name=name)
    terminal.print_report(console, report)
    say("\nWritten: " + ", ".join(str(path) for path in written))


def _refuse_mixed(first: str, tuned: str, prompts: str, data: str) -> None:
    """Raise RunError for two models without data, and for data that are named twice."""
    if tuned and not (prompts or data):
        raise RunError(
            f"'{first}' and '{tuned}' are to be compared, but on no data.",
            remedy=f"Add a JSONL file: {_USAGE}",
        )
    if prompts and data:
        raise RunError(
            f"The data is named twice, '{prompts}' and --data '{data}'.",
            remedy=f"Leave --data out: {_USAGE}",
        )
