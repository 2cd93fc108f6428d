"""Python and SQL: right answers pass in the sandbox, and typical wrong ones do not."""

import re
import sqlite3
from contextlib import closing

import pytest

from recipe_steps import recipe_grader, rewards
from tunestone.recipes.code.data import EXAMPLES as PYTHON_EXAMPLES
from tunestone.recipes.code.data import generate as generate_python
from tunestone.recipes.splits import question_of
from tunestone.recipes.sql.data import EXAMPLES as SQL_EXAMPLES
from tunestone.recipes.sql.data import TABLES
from tunestone.recipes.sql.data import generate as generate_sql

PYTHON = generate_python(0, sizes={"train": 60, "test": 6})
SQL = generate_sql(0, sizes={"train": 60, "test": 6})


def test_python_references_pass_their_tests() -> None:
    rows = PYTHON["test"]
    with recipe_grader("code") as grader:
        assert rewards(grader, rows, [row["reference_answer"] for row in rows]) == [1.0] * 6


def test_python_tests_are_right_by_another_way() -> None:
    """What the function gives when it is run as a whole, not as the lambda that made the tests."""
    for row in PYTHON["train"]:
        names: dict = {}
        exec(row["reference_answer"], names)
        for test in row["tests"]:
            assert names["f"](*test["input"]) == test["output"]


def test_no_constant_function_passes_nor_the_identity() -> None:
    for row in PYTHON["train"]:
        outputs = [test["output"] for test in row["tests"]]
        assert any(output != outputs[0] for output in outputs)
        assert any(test["output"] != test["input"][0] for test in row["tests"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(n): return 7 * n", 1),
        ("```python\ndef f(n):\n    return n * 7\n```", 1),
        ("def f(n): return 7", 0),
        ("def f(n): return n * 7\nThis gives seven times n.", 0),  # no Python any more
        ("def f(n) return 7 * n", 0),
        ("def g(n): return 7 * n", 0),
        ("def f(n):\n    while True: n", 0),
        ("", 0),
    ],
)
def test_python_rewards(text: str, expected: float) -> None:
    tests = [{"input": [n], "output": 7 * n} for n in (0, 1, 5)]
    row = {"messages": [{"role": "user", "content": "f(n): 7 times n"}], "tests": tests}
    with recipe_grader("code") as grader:
        assert rewards(grader, [row], [text]) == [expected]


def test_python_has_both_sizes_and_all_kinds() -> None:
    """Level 2 composes 4 of 10: 24 of 60, each kind a third."""
    assert sum(row["operations"] == 2 for row in PYTHON["train"]) == 24
    assert [sum(row["kind"] == kind for row in PYTHON["train"]) for kind in ("text", "list")] == [
        20,
        20,
    ]
    assert all(re.match(r"f\((n|s|xs)\): ", question_of(row)) for row in PYTHON["train"])
    for _, said in PYTHON_EXAMPLES:
        exec(said, {})


def test_sql_references_give_their_rows() -> None:
    rows = SQL["test"]
    with recipe_grader("sql") as grader:
        assert rewards(grader, rows, [row["reference_answer"] for row in rows]) == [1.0] * 6


def test_sql_conditions_matter_on_every_database() -> None:
    for row in [*SQL["train"], *generate_sql(0, level=2, sizes={"train": 24})["train"]]:
        query = row["reference_answer"]
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(row["schema"])
            found = connection.execute(query).fetchall()
            head, _, told = query.partition(" WHERE ")
            conditions = told.split(" AND ")
            weaker = [head, *(f"{head} WHERE {c}" for c in conditions if len(conditions) > 1)]
            others = [connection.execute(each).fetchall() for each in weaker]
        assert found not in ([], [(None,)], [(0,)], *others), query


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT name FROM people WHERE city = 'Oslo'", 1),
        ("```sql\nselect name from people where city='Oslo';\n```", 1),
        ("SELECT city FROM people WHERE city = 'Oslo'", 0),
        ("SELECT name FROM people", 0),
        ("SELECT name FROM people WHERE town = 'Oslo'", 0),
        ("The customers are Ada and Bo.", 0),
        ("DELETE FROM people", 0),
        ("", 0),
    ],
)
def test_sql_rewards(text: str, expected: float) -> None:
    filled = "INSERT INTO people VALUES ('Ada', 'Oslo', 30), ('Bo', 'Rome', 40);"
    row = {
        "messages": [{"role": "user", "content": "Who lives in Oslo?"}],
        "reference_answer": "SELECT name FROM people WHERE city = 'Oslo'",
        "schema": TABLES[1] + filled,
    }
    with recipe_grader("sql") as grader:
        assert rewards(grader, [row], [text]) == [expected]


def test_no_constant_query_pays() -> None:
    answer = SQL["train"][0]["reference_answer"]
    rows = SQL["train"][1:31]
    with recipe_grader("sql") as grader:
        assert sum(rewards(grader, rows, [answer] * 30)) <= 3


@pytest.mark.parametrize("level", [1, 2])
def test_worked_queries_run(level: int) -> None:
    messages = generate_sql(0, level=level, sizes={"test": 1})["test"][0]["messages"]
    queries = [turn["content"] for turn in messages if turn["role"] == "assistant"]
    assert len(queries) >= len(SQL_EXAMPLES)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(TABLES[level])
        assert all(connection.execute(query).description for query in queries)
