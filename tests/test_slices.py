"""Slices by what rows say of themselves."""

import pytest

from tunestone.errors import DataError
from tunestone.slices import (
    FEWEST_ROWS,
    MOST_VALUES,
    MOST_VALUES_NAMED,
    choose_keys,
    fields_of,
    refuse_unknown_keys,
    split_by,
)


def test_fields_are_paths_to_plain_values() -> None:
    row = {"a": {"b": 2, "c": {"d": True}}, "list": [1], "none": None, "text": "x"}
    assert fields_of(row) == {"a.b": "2", "a.c.d": "yes", "text": "x"}


def test_keys_with_few_values_and_enough_rows_are_chosen() -> None:
    """Of 100 rows: 20 values x 5 rows fit, 25 x 4 do not, nor one value, nor a value of 4 rows."""
    rows = [
        {
            "twenty": i % MOST_VALUES,
            "twenty_five": i % 25,
            "one": "x",
            "lopsided": i < FEWEST_ROWS - 1,
            **({"sometimes": "there"} if i < 50 else {}),
        }
        for i in range(100)
    ]
    assert choose_keys(rows) == ["twenty", "sometimes"]  # "sometimes" is there or not
    assert choose_keys(rows[:99]) == ["sometimes"]  # one of the twenty has four rows now
    assert choose_keys([]) == []


def test_a_partition_is_shown_once_and_long_texts_are_none() -> None:
    rows = [
        {"label": "ab"[i % 2], "rule": i % 2, "policy": "xy"[i % 2] * 81, "other": i % 3}
        for i in range(30)
    ]
    assert choose_keys(rows) == ["label", "other"]


def test_rows_are_split_in_the_order_of_their_values() -> None:
    rows = [{"n": 10}, {"n": 9}, {"n": "b"}, {}, {"n": 9}]
    assert split_by(rows, "n") == {"9": [1, 4], "10": [0], "(none)": [3], "b": [2]}
    assert list(split_by(rows, "n")) == ["9", "10", "(none)", "b"]


def test_a_key_nobody_has_is_refused_with_the_nearest() -> None:
    rows = [{"level": 1, "topic": "x"}]
    refuse_unknown_keys(rows, ["level", "topic"])
    with pytest.raises(DataError, match=r"field 'lvel' to slice by\. Did you mean 'level'\?"):
        refuse_unknown_keys(rows, ["lvel"])
    with pytest.raises(DataError, match=r"The rows have: level, topic\."):
        refuse_unknown_keys(rows, ["zzz"])
    many = [{"n": i} for i in range(MOST_VALUES_NAMED + 1)]
    with pytest.raises(DataError, match="has 101 different values"):
        refuse_unknown_keys(many, ["n"])
