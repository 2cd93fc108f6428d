"""Writes the pages that follow from the code; PAGES names them.

.venv/bin/python docs/generate.py           rewrite them
.venv/bin/python docs/generate.py --check   write nothing; status 1 when one is out of date
"""

import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import typer
from pydantic import BaseModel

from tunestone import cli, config, errors
from tunestone.api import bedrock, bedrock_runtime
from tunestone.api.coverage import FURTHER, read_rows
from tunestone.api.server import ROUTES
from tunestone.jobs import settings
from tunestone.rewards.grader import KINDS
from tunestone.rewards.judges.chat_models import Endpoint, SamplingParams
from tunestone.rewards.judges.model_graders import GraderMessage
from tunestone.rewards.spec import Spec

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py; do not edit. -->"
WIDTH = 100
"""Of the help texts, whatever terminal this runs in."""

SETTINGS = """
Values come in layers, later ones winning: default, recipe, TOML file (`--config`), the options of
`tunestone train`, `--set key=value`. Keys are the names below; a file holds nothing else, and its
keys stand at the top level. `--set` takes a TOML value, and a bare word counts as text.
`tunestone config` prints the effective values with the origin of each. Unknown keys and impossible
combinations are refused, with the reason, before anything runs.
"""
REWARDS = """
A reward is a table with `type` and the fields below; every one of them may also have a `name`, a
label for whoever reads it. A template such as `{{ item.reference_answer }}` takes a key of the data
row, `{{ sample.output_text }}` the completion. An unknown field is refused with the nearest known
one. [write-a-reward.md](write-a-reward.md) shows each kind at work.
"""
SERVER = """
`tunestone serve` takes these from a TOML file (`--config server.toml`), and the most common ones as
options, which win. [deploy.md](deploy.md) shows them at work.
"""
COVERAGE = """
What of Amazon Bedrock's and OpenAI's reinforcement fine-tuning is answered here. Surface A is
Bedrock through boto3, B its OpenAI-compatible endpoint, C OpenAI's own. *done*: works as there.
*partial*: the text says what is missing. *echoed*: checked, stored and shown, with no effect.
*hook*: there is a place for your own. A test holds this page against the server's routes.
"""
TABLES = {"endpoint": Endpoint, "sampling_params": SamplingParams, "input": GraderMessage}
"""Fields that are tables themselves, and what they hold."""
SERVER_TABLES = {"base_models": settings.BaseAlias, "webhooks": settings.Webhook}
BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}
STATUS = {errors.RequestError: 2, errors.WorldError: 3, errors.TunestoneError: 1}
"""Exit status; the first class that an error belongs to counts (as in `cli.main`)."""
ADVICE = {
    "tunestone_error": "Never raised itself; it is what a program catches to catch them all.",
    "request_error": "Change what was asked for; the second line of the message says how.",
    "config_error": "Correct the setting. `tunestone config` prints all of them with their origin.",
    "data_error": "Go to the file and line that the message names and mend that row.",
    "model_error": "Name a model that can be loaded, has a chat template and an end token.",
    "reward_error": "Mend the reward at the line shown, then continue the run with `--resume`.",
    "sandbox_error": "Install bubblewrap, or run where Landlock is to be had; set "
    '`sandbox = "none"` only for a reward that you trust with all you may do yourself.',
    "run_error": "Check the path with `tunestone runs`, or end the other process first.",
    "world_error": "Try again once the world is better; nothing has to be changed.",
    "download_error": "Check network, proxy and pip's index, or name a folder with `--model`.",
    "model_not_found": "List the models, and ask one of these by its name.",
    "model_not_ready": "Wait until the model or deployment is active, then ask again.",
    "context_length_exceeded": "Shorten the messages, or ask for fewer tokens.",
    "grammar_error": "Change the response format; the message says what cannot be enforced.",
    "overloaded": "Ask again in a moment; clients of both services do so by themselves.",
    "diverged_error": "Start a new run with a lower `learning_rate`.",
    "storage_error": "Make room or allow writing, then continue the run with `--resume`.",
}


def config_page() -> str:
    """A table per group of settings."""
    lines = ["# Settings", NOTE, "", SETTINGS.strip()]
    fields = config.TrainConfig.model_fields
    for heading, names in config.setting_groups():
        lines += ["", f"## {heading}", "", *field_table("setting", {n: fields[n] for n in names})]
    return "\n".join(lines) + "\n"


def field_table(title: str, fields: Mapping[str, typing.Any]) -> list[str]:
    """Name, type, range, default and meaning of each field."""
    lines = [f"| {title} | type | range | default | meaning |", "|---|---|---|---|---|"]
    for name, field in fields.items():
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        cells = (f"`{field.alias or name}`", type_name(field.annotation), bounds(field))
        lines += [f"| {' | '.join((*cells, default(field), meaning))} |"]
    return lines


def type_name(annotation: object) -> str:
    """What a person writes: `whole number`, `text`, one of some words."""
    arguments, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(f"`{word}`" for word in arguments)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(type_name, arguments))
    if origin is tuple:
        return "list of " + " and ".join(map(type_name, (a for a in arguments if a is not ...)))
    if origin is dict:
        of = arguments[1]
        return "table" if of is typing.Any else f"table of {type_name(of)}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        tables = {**TABLES, **SERVER_TABLES}
        names = [name for name, model in tables.items() if model is annotation]
        return "reward" if annotation is Spec else f"[`{names[0]}`](#{names[0]}) table"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
    return {**names, types.NoneType: "empty"}[annotation]


def bounds(field: typing.Any) -> str:
    """The range of a number, from pydantic's own constraints."""
    parts = [
        template.format(shown(getattr(limit, key)))
        for limit in field.metadata
        for key, template in BOUNDS.items()
        if hasattr(limit, key)
    ]
    return ", ".join(parts) or "–"


def default(field: typing.Any) -> str:
    """What holds when the field is left out."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    return "empty" if value in (None, "", (), {}) else shown(value)


def shown(value: object) -> str:
    """A value as it is written in TOML."""
    value = list(value) if isinstance(value, tuple) else value
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def cli_page() -> str:
    """The help text of every command."""
    root = typer.main.get_command(cli.app)
    above = typer.Context(root, info_name="tunestone", terminal_width=WIDTH)
    lines = ["# Commands", NOTE, "", *fenced(root.get_help(above)), *command_sections(root, above)]
    return "\n".join(lines) + "\n"


def command_sections(group: typing.Any, above: typer.Context) -> Iterator[str]:
    """A section per command, those of a group after it."""
    for name, command in group.commands.items():
        context = typer.Context(command, parent=above, info_name=name, terminal_width=WIDTH)
        yield from ("", f"## `{context.command_path}`", "", *fenced(command.get_help(context)))
        if hasattr(command, "commands"):
            yield from command_sections(command, context)


def rewards_page() -> str:
    """A table of fields per kind of reward, then one per table that stands in a field."""
    lines = ["# Fields of every kind of reward", NOTE, "", REWARDS.strip()]
    for kind, spec in KINDS.items():
        lines += ["", f"## `{kind}`", "", inspect.getdoc(spec)]
        own = {n: f for n, f in spec.model_fields.items() if n not in ("type", "name")}
        lines += ["", *field_table("field", own)]
    for name, model in TABLES.items():
        lines += ["", f"## `{name}`", "", inspect.getdoc(model)]
        lines += ["", *field_table("field", model.model_fields)]
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    """The tree, then a section per class."""
    head, _, tail = inspect.getdoc(errors).partition("\n\n")
    tree, _, rest = tail.partition("\n\n")
    lines = ["# Errors", NOTE, "", head, "", *fenced(inspect.cleandoc(tree)), "", rest]
    lines += ["", "An option that does not exist also ends with status 2; Ctrl-C twice with 130."]
    lines += ["", "| class | code | exit status | meaning | what to do |", "|---|---|---|---|---|"]
    for kind in vars(errors).values():
        if inspect.isclass(kind):
            status = next(status for parent, status in STATUS.items() if issubclass(kind, parent))
            meaning = inspect.getdoc(kind).partition("\n\n")[0].replace("\n", " ")
            cells = (f"`{kind.__name__}`", f"`{kind.code}`", str(status), meaning)
            lines += [f"| {' | '.join(cells)} | {ADVICE[kind.code]} |"]
    return "\n".join(lines) + "\n"


def server_page() -> str:
    """The server's settings, and those of the tables that stand in them."""
    lines = ["# Settings of the server", NOTE, "", SERVER.strip(), ""]
    lines += field_table("setting", settings.ServerSettings.model_fields)
    for name, model in SERVER_TABLES.items():
        lines += ["", f"## `{name}`", "", inspect.getdoc(model), ""]
        lines += field_table("field", model.model_fields)
    return "\n".join(lines) + "\n"


def coverage_page() -> str:
    """The acceptance table, then every operation there is."""
    lines = ["# What of the services' APIs is answered", NOTE, "", COVERAGE.strip(), ""]
    lines += ["| # | surface | feature | state | here |", "|---|---|---|---|---|"]
    for row in read_rows():
        cells = (str(row.number), row.surfaces, row.feature, row.state, row.how)
        lines += [f"| {' | '.join(cells)} |"]
    lines += ["", "## Operations", "", "| dialect | operation | method | path | scope | rows |"]
    lines += ["|---|---|---|---|---|---|"]
    refused = {**bedrock.REFUSED, **bedrock_runtime.REFUSED}
    for route in ROUTES:
        if route.operation not in refused and not route.path.startswith("/openai/v1"):
            rows = [str(row.number) for row in read_rows() if route.operation in row.operations]
            belongs = ", ".join(rows) or FURTHER[route.operation]
            cells = (route.dialect, f"`{route.operation}`", route.method, f"`{route.path}`")
            lines += [f"| {' | '.join((*cells, route.scope, belongs))} |"]
    lines += ["", "The OpenAI routes stand under `/openai/v1` too."]
    lines += ["", "## Refused", "", "Answered with the reason and never with a pretence.", ""]
    lines += ["| operation | why |", "|---|---|"]
    lines += [f"| `{name}` | {why} |" for name, why in sorted(refused.items())]
    return "\n".join(lines) + "\n"


def fenced(text: str) -> list[str]:
    """The text as a code block."""
    return ["```", *(line.rstrip() for line in text.strip("\n").splitlines()), "```"]


PAGES = {
    "config.md": config_page,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "server.md": server_page,
    "api-coverage.md": coverage_page,
    "rewards/reference.md": rewards_page,
}


def main(*, check: bool) -> int:
    """Write the pages, or count those that would change; returns the exit status."""
    stale = []
    for name, page in PAGES.items():
        path, text = HERE / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"Out of date: {', '.join(stale)}. Run docs/generate.py.", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
