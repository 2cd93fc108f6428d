"""A log read while it grows, in pieces, and anew when it was cut."""

import json
from pathlib import Path

from tunestone.growing import GrowingLog, read_log


def read(log: GrowingLog) -> tuple[bool, list[dict]]:
    cut, lines = log.read()
    return cut, [line.record for line in lines]


def test_a_log_is_read_as_it_grows_and_again_when_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = GrowingLog(path)
    assert read(log) == (False, [])
    path.write_text('{"a": 1}\n{"a": 2}\n{"a":')
    assert read(log) == (False, [{"a": 1}, {"a": 2}])
    assert read(log) == (False, [])
    path.write_text('{"a": 1}\n')
    assert read(log) == (True, [{"a": 1}])
    path.unlink()
    assert read(log) == (True, [])
    assert read(log) == (False, [])


def test_a_log_that_was_cut_and_has_grown_past_it_since_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"a": 2, "seconds": 0.5}\n')
    log = GrowingLog(path)
    assert len(read(log)[1]) == 2
    path.write_text('{"a": 1}\n{"a": 2, "seconds": 0.125}\n{"a": 3}\n')
    cut, records = read(log)
    assert (cut, [record["a"] for record in records]) == (True, [1, 2, 3])


def test_a_long_log_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    records = [{"n": n, "text": "x" * 1000} for n in range(1000)]
    records.insert(300, {"n": -1, "text": "y" * 600_000})  # longer than a piece
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    pieces = [lines for _, lines in GrowingLog(path).pieces()]
    assert len(pieces) > 3
    assert [line.record for lines in pieces for line in lines] == records
    assert read_log(path) == (records, path.stat().st_size)
    second = pieces[1][0]
    text = path.read_bytes()[second.offset : second.offset + second.size]
    assert json.loads(text) == second.record


def test_reading_begins_where_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert read(GrowingLog(path, offset=9)) == (False, [{"a": 2}])
