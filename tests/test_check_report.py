"""The report of a check in its three forms, with hostile text in it."""

import io
import json
import tomllib
from html.parser import HTMLParser

import pytest
from rich.console import Console

from tunestone.check.findings import Bars, CheckReport, Finding, Section, Table, excerpt
from tunestone.check.report import (
    print_check,
    render_html,
    show_value,
    verdict,
    visible_facts,
    write_check,
)
from tunestone.errors import StorageError

HOSTILE = "<script>alert('x')</script> {{ 7 * 7 }} \x1b[31mred\u202e & \"q\""


def report(*levels: str) -> CheckReport:
    findings = [Finding(level, f"code_{i}", f"Number {i}.") for i, level in enumerate(levels)]
    return CheckReport({"data": "d.jsonl"}, (Section("data", tuple(findings)),))


def hostile_report() -> CheckReport:
    bad = Finding(
        "warning", "bad_text", f"Found {HOSTILE}.", "Mend it.", ({"id": HOSTILE, "reward": 0.5},)
    )
    section = Section(
        "reward",
        (Finding("ok", "fine", "All well."), bad),
        facts={
            "rows": 12_345,
            "best_way": HOSTILE,
            "nested": {"a": 1},
            "none": None,
            "two": [1, 9],
        },
        tables=(Table(HOSTILE, ("name", "mean"), ((HOSTILE, "0.5"), ("b", "12 %"))),),
        bars=(Bars("Lengths", (HOSTILE, "10-19"), (3, 12)),),
    )
    return CheckReport({"data": HOSTILE, "seconds": 1.25}, (section,))


def printed(report: CheckReport, *, width: int = 80) -> str:
    # As the command line's console: it leaves wrapping to the terminal, the report must not.
    out = io.StringIO()
    print_check(Console(file=out, width=width, highlight=False, soft_wrap=True), report)
    return out.getvalue()


class Page(HTMLParser):
    """Tags that are open, tags that were seen, and the text outside of style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


# --- the records


@pytest.mark.parametrize(
    ("levels", "fatal", "words"),
    [
        ((), False, "Nothing speaks against training."),
        (("ok", "advice"), False, "Nothing speaks against training."),
        (("warning", "ok"), False, "Nothing fatal; 1 warning to look at before training."),
        (("fatal", "warning", "warning"), True, "Do not train yet: 1 fatal, 2 warnings."),
        (("fatal",), True, "Do not train yet: 1 fatal, no warnings."),
    ],
)
def test_the_verdict_follows_the_worst_finding(levels, fatal, words):
    assert report(*levels).is_fatal is fatal
    assert verdict(report(*levels)) == words


def test_the_worst_findings_come_first_otherwise_in_order():
    section = report("ok", "advice", "fatal", "ok", "warning", "fatal").sections[0]
    assert [f.code[-1] for f in section.by_level()] == ["2", "5", "4", "1", "0", "3"]


def test_what_is_written_as_json_is_what_is_read_back():
    record = hostile_report().as_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["fatal"] is False
    assert record["counts"] == {"fatal": 0, "warning": 1, "advice": 0, "ok": 1}
    (section,) = record["sections"]
    assert section["findings"][1]["evidence"] == [{"id": HOSTILE, "reward": 0.5}]
    assert section["bars"][0]["counts"] == [3, 12]


def test_an_excerpt_keeps_both_ends():
    assert excerpt("a" * 300) == "a" * 300
    cut = excerpt("a" * 200 + "b" * 200)
    assert cut == "a" * 150 + " [... 100 characters ...] " + "b" * 150


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (12_345, "12,345"),
        (0.12345, "0.123"),
        (1234.6, "1,235"),
        (True, "yes"),
        ([1_000, 2_000], "1,000 to 2,000"),
        (["a", "b"], "a, b"),
        ([1, 2, 3], "1, 2, 3"),
        (None, "–"),
        ("<b>", "<b>"),
    ],
)
def test_values_are_shown_for_people(value, shown):
    assert show_value(value) == shown


def test_facts_without_a_value_or_with_many_are_left_to_the_json():
    (section,) = hostile_report().sections
    assert [label for label, _ in visible_facts(section)] == ["rows", "best way", "two"]


# --- the terminal


@pytest.mark.parametrize("width", [80, 200, 60])
def test_lines_fit_the_terminal_and_80_columns(width):
    text = printed(hostile_report(), width=width)
    assert max(map(len, text.splitlines())) <= min(width, 80)


def test_the_terminal_shows_level_message_remedy_and_first_evidence():
    text = printed(hostile_report())
    assert text.index("▲ warning") < text.index("✓ ok")
    assert "Mend it." in text
    assert "e.g. id: <script>" in text
    assert "12,345" in text
    # 40 characters for the largest count, 12; 3 of 12 is a quarter of it
    assert "10-19  " + "█" * 40 + " 12" in text
    assert "█" * 10 + " 3" in text
    assert text.rstrip().endswith("Nothing fatal; 1 warning to look at before training.")


def test_control_characters_reach_no_terminal():
    text = printed(hostile_report())
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"\x1b[31mred\u202e" in text.replace("\n", "")


# --- the page


def test_nothing_in_the_page_is_obeyed():
    html = render_html(hostile_report())
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert page.open == []
    assert not names & {"script", "link", "img", "iframe", "object", "form"}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not any({"src", "href"} & attrs.keys() for _, attrs in page.tags)
    assert "url(" not in html
    assert "@import" not in html
    # title, message, fact, evidence, table title, cell and bar: shown as it is, everywhere
    assert page.text.count("<script>alert('x')</script> {{ 7 * 7 }}") == 6 + 1


def test_the_page_holds_every_finding_with_its_code():
    page = Page(render_html(hostile_report()))
    for words in ("Found ", "Mend it.", "All well.", "bad_text", "12,345", "12 %", "1 to 9"):
        assert words in page.text
    assert "Nothing fatal; 1 warning" in page.text


def test_bars_are_to_scale():
    page = Page(render_html(hostile_report()))
    widths = [float(attrs["width"] or 0) for tag, attrs in page.tags if tag == "rect"]
    assert widths == [85.0, 340.0]  # 3 and 12 of 12, 340 wide


def test_the_page_is_for_phones_and_for_the_dark():
    html = render_html(report("ok"))
    assert '<meta name="viewport" content="width=device-width' in html
    assert "@media (prefers-color-scheme: dark)" in html


# --- files


def test_three_files_are_written_whole(tmp_path):
    folder = tmp_path / "new" / "check"
    paths = write_check(folder, hostile_report(), "batch_size = 4\n")
    assert [path.name for path in paths] == ["check.json", "check.html", "config.toml"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
    assert json.loads(paths[0].read_text()) == hostile_report().as_dict()
    assert paths[1].read_text() == render_html(hostile_report())
    assert tomllib.loads(paths[2].read_text()) == {"batch_size": 4}


def test_a_second_check_replaces_the_first_and_nothing_else(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    write_check(tmp_path, report("ok"))
    write_check(tmp_path, report("fatal"))
    assert json.loads((tmp_path / "check.json").read_text())["fatal"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "check.html",
        "check.json",
        "mine.txt",
    ]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        write_check(tmp_path / "file" / "check", report("ok"))
