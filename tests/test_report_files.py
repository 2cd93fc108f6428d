"""Report pages: the same words everywhere, and nothing a model wrote is ever obeyed."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from test_comparison import examples, measured
from tunestone.core.comparison import compare
from tunestone.errors import StorageError
from tunestone.reports.evaluation import notes, tables, verdict
from tunestone.reports.files import remove_report, render_html, render_markdown, write_report
from tunestone.types import Prompt

HOSTILE = "<script>alert(1)</script> | `tick` ```\n# heading\n```` [x](y)"


def report(**more: Any) -> dict[str, Any]:
    """A report with every part, and hostile text wherever text of others stands."""
    rows = [{HOSTILE[:25]: HOSTILE if i % 2 else "plain"} for i in range(10)]
    drawn = [[0, 1, 0, 0]] * 10
    base, tuned = measured(*[1, 0] * 5, drawn=drawn), measured(*[0, 1] * 5, drawn=drawn)
    base.greedy.texts[:] = [HOSTILE] * 10
    made = compare(examples(10, rows), base, tuned, training=[])
    return {"task": HOSTILE, **made, "heldout": "test.jsonl", "seed": 3, **more}


def test_the_page_shows_everything_and_runs_nothing() -> None:
    page = render_html(report())
    assert "<script" not in page
    assert page.count(html.escape("<script>alert(1)</script>")) > 5
    assert not re.search(r"(?:src|href)=", page)  # nothing from elsewhere
    for part in (
        "width=device-width",
        "prefers-color-scheme: dark",
        "avg@4",
        "pass@2",
        "test.jsonl",
    ):
        assert part in page
    assert "Worse than before (5 of 5)" in page
    assert html.escape(verdict(report()), quote=False).replace("'", "&#39;") in page


def outside_fences(markdown: str) -> str:
    """What of a Markdown text is not in code blocks, by CommonMark's rule for fences."""
    kept, fence = [], ""
    for line in markdown.splitlines():
        run = re.match("`{3,}", line)
        if fence:
            closes = set(line) == {"`"} and len(line) >= len(fence)
            fence = "" if closes else fence
        elif run:
            fence = run[0]
        else:
            kept.append(line)
    assert not fence
    return "\n".join(kept)


def test_markdown_keeps_answers_in_their_blocks() -> None:
    prose = outside_fences(render_markdown(report()))
    assert "\n# heading" not in prose
    assert "<script" not in prose.replace("\\<", "")
    assert "| strict accuracy |" in prose
    table = [line for line in prose.splitlines() if line.startswith("| ")]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in table]
    assert set(bars) == {5, 6}  # four columns, five in a slice: no cell breaks out of its table


def test_all_three_files_say_the_same(tmp_path: Path) -> None:
    made = report(task="toy")
    paths = write_report(tmp_path / "new", made, name="eval-test")
    assert [path.name for path in paths] == ["eval-test.md", "eval-test.html", "eval-test.json"]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {path.name for path in paths}
    assert json.loads(paths[2].read_text()) == made
    cells = [cell for table in tables(made) for row in table.rows for cell in row]
    page = html.unescape(re.sub("<[^>]+>", "", paths[1].read_text()))
    assert [cell for cell in cells if cell not in page] == []
    assert "+0.0 points" in paths[0].read_text()


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        write_report(tmp_path / "file", report())


def test_an_old_report_is_taken_away_whole(tmp_path: Path) -> None:
    write_report(tmp_path, report())
    remove_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leaks_are_said_plainly() -> None:
    (unknown, *_) = notes(report(contamination=None))
    assert "is not known here" in unknown
    (clean, *_) = notes(report())
    assert clean == "No held-out prompt is in the training data, nor nearly."
    trained = [Prompt("t0", ({"role": "user", "content": "1?"},))]
    leaked = compare(examples(2), measured(0, 0), measured(0, 1), training=trained)
    (leak, *_) = notes({"task": "toy", **leaked})
    assert leak.startswith("LEAK: of 2 held-out prompts 1 are in the training data word for word")
    assert "'p1'" in leak
