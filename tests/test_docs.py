"""The documents say what the code says: generated pages, links, and the file tree."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from toy import run_to_end, toy_run
from tunestone import cli, errors
from tunestone.config import TrainConfig
from tunestone.runlog import read_lines

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "tunestone"
PAGES = sorted(DOCS.rglob("*.md")) + [p for p in (ROOT / "README.md",) if p.exists()]
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


def links(text: str) -> list[str]:
    """Targets of Markdown links and images outside code blocks, those on the web left out."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    targets += re.findall(r"(?:src|href|srcset)=\"([^\"]+)\"", prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """Names under which headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings}


def broken(page: Path, text: str) -> Iterator[str]:
    """Links of a page that lead nowhere."""
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        named = anchors(target.read_text(encoding="utf-8")) if anchor and target.exists() else []
        if not target.exists() or (anchor and anchor not in named):
            yield link


def modules(block: str) -> set[str]:
    """Paths of the `.py` files in an indented file tree, below its first line."""
    folders: list[tuple[int, str]] = []
    found = set()
    for line in block.splitlines()[1:]:
        match = re.match(r"( *)([\w.]+/?)(?: |$)", line)
        if match is None:
            continue
        indent, name = len(match[1]), match[2]
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        if name.endswith("/"):
            folders.append((indent, name))
        elif name.endswith(".py"):
            found.add("".join(folder for _, folder in folders) + name)
    return found


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# The `x` of *y*\n")
    text = "[a](page.md#the-x-of-y) [b](gone.md) [c](https://x) [d](#nope)\n```\n[e](gone)\n```\n"
    assert list(broken(page, text)) == ["gone.md", "#nope"]


def test_a_file_tree_is_read() -> None:
    block = "src/\n  a.py   one\n  ground: no torch\n  core/\n    b.py  two\n      more\n  c.py\n"
    assert modules(block) == {"a.py", "core/b.py", "c.py"}


def test_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, DOCS / "generate.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    copy = tmp_path / "generate.py"
    copy.write_text((DOCS / "generate.py").read_text(encoding="utf-8"))
    assert subprocess.run([sys.executable, copy], check=False).returncode == 0
    assert subprocess.run([sys.executable, copy, "--check"], check=False).returncode == 0
    (tmp_path / "cli.md").write_text("old")
    command = [sys.executable, copy, "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "cli.md" in result.stderr


def test_every_setting_command_and_error_has_its_place() -> None:
    config, commands, faults = (
        (DOCS / name).read_text(encoding="utf-8") for name in ("config.md", "cli.md", "errors.md")
    )
    assert [n for n in TrainConfig.model_fields if f"\n| `{n}` | " not in config] == []
    root = typer.main.get_command(cli.app).commands
    below = [f"{n} {m}" for n, command in root.items() for m in getattr(command, "commands", ())]
    assert [n for n in [*root, *below] if f"\n## `tunestone {n}`\n" not in commands] == []
    assert [kind for kind in ERRORS if f"| `{kind.code}` | " not in faults] == []


@pytest.mark.parametrize("kind", ERRORS)
def test_the_exit_status_is_the_documented_one(
    kind: type[errors.TunestoneError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise kind("no")

    # By sys.modules, since the package has an attribute of the same name: the application.
    monkeypatch.setattr(sys.modules["tunestone.cli.app"], "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert f"| `{kind.__name__}` | `{kind.code}` | {caught.value.code} |" in page


@pytest.mark.parametrize(
    "name",
    [
        "config.md",
        "cli.md",
        "errors.md",
        "tutorial/01-first-run.md",
        "rewards.md",
        *(f"rewards/{page.name}" for page in (DOCS / "rewards").glob("*.md")),
    ],
)
def test_a_newcomer_finds_the_page(name: str) -> None:
    assert name in links(ARCHITECTURE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken(page, page.read_text(encoding="utf-8"))) == []


def test_decisions_are_numbered_and_listed() -> None:
    names = sorted(path.name for path in (DOCS / "decisions").glob("*.md"))
    assert [name[:4] for name in names] == [f"{n:04}" for n in range(1, len(names) + 1)]
    assert [name for name in names if f"decisions/{name}" not in links(ARCHITECTURE)] == []


def test_the_file_tree_lists_every_module() -> None:
    block = re.search(r"^```\n(src/tunestone/\n.*?)^```$", ARCHITECTURE, re.M | re.S)
    assert block is not None
    files = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    assert modules(block[1]) == {name for name in files if not name.endswith("__init__.py")}


def test_the_run_folder_is_as_described(tmp_path: Path, tiny_folder: Path) -> None:
    """Every file of a toy run is listed; each sample line on the page has a real line's keys."""
    run = toy_run(tmp_path, tiny_folder, max_steps=2)
    run_to_end(run)
    listed = re.search(r"^```\n(config.json .*?)^```$", ARCHITECTURE, re.M | re.S)
    assert listed is not None
    names = {line.split(" ")[0].rstrip("/") for line in listed[1].splitlines()}
    assert {path.name for path in run.path.iterdir()} - names == set()
    shown = re.findall(r"^`(\w+)\.jsonl`[^\n]*\n```json\n(.*?)^```$", ARCHITECTURE, re.M | re.S)
    assert [name for name, _ in shown] == ["events", "metrics", "samples", "validation"]
    for name, line in shown:
        real = [set(record) for record in read_lines(run.path / f"{name}.jsonl")]
        assert set(json.loads(line)) in real, name
