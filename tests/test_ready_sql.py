"""Queries on SQLite: right rows in any order, wrong ones, and queries that do more than read."""

import itertools
import json
import sqlite3
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ready_steps import sample
from tunestone.errors import RewardError, SandboxError
from tunestone.rewards.ready.sql import Sql
from tunestone.rewards.ready.sql_program import count_matches, find_query, has_order
from tunestone.rewards.spec import Context

SCHEMA = """
    CREATE TABLE pets (name TEXT, kind TEXT, age INT, weight REAL);
    INSERT INTO pets VALUES
        ('Ada', 'cat', 3, 4.1), ('Bo', 'dog', 5, 20.0), ('Bo', 'dog', 5, 20.0),
        ('Cy', NULL, 1, 0.2);
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sql")
    (path / "databases").mkdir()
    with sqlite3.connect(path / "databases" / "pets.sqlite") as connection:
        connection.executescript(SCHEMA)
    connection.close()
    sqlite3.connect(path / "secret.sqlite").executescript(
        "CREATE TABLE s (x); INSERT INTO s VALUES (1)"
    )
    return path


@pytest.fixture(scope="module", params=["auto", "landlock"])
def open_sql(request, folder):
    """Opens `Sql` with these settings, each only once, under each mechanism."""
    opened = {}
    with ExitStack() as stack:

        def open_once(**settings):
            key = json.dumps(settings)
            if key not in opened:
                context = Context(folder=folder, sandbox=request.param)
                try:
                    spec = Sql.model_validate({"timeout_seconds": 1, **settings})
                    opened[key] = spec.open(context, stack)
                except SandboxError as error:
                    pytest.skip(str(error))
            return opened[key]

        yield open_once


def on_pets(text, reference="SELECT name, age FROM pets"):
    return sample(text, schema=SCHEMA, reference_answer=reference)


def rewards(grader, *samples):
    grades = grader.grade(samples)
    assert [grade.error for grade in grades] == [None] * len(samples)
    return [grade.reward for grade in grades]


def test_the_right_rows_have_the_full_reward(open_sql):
    rows = [["Ada", 3], ["Bo", 5], {"n": "Bo", "a": 5}, ["Cy", 1.0]]
    samples = [
        on_pets("```sql\nSELECT name, age FROM pets;\n```"),
        on_pets("```sql\nSELECT name AS a, age + 0.0 FROM pets ORDER BY age -- so\n```"),
        on_pets("It starts with a scan: select name, age from pets; that's all."),
        on_pets("WITH p AS (SELECT * FROM pets) SELECT p.name, p.age FROM p"),
        on_pets("SELECT name, age FROM pets", rows),
        on_pets("SELECT name, kind FROM pets WHERE kind IS NULL", [["Cy", None]]),
        on_pets("SELECT SUM(weight) FROM pets", [[44.3]]),
        on_pets("SELECT 1 FROM pets WHERE 0", "SELECT 2 FROM pets WHERE 0"),
        on_pets("SELECT name FROM pets ORDER BY age, 1", "SELECT name FROM pets ORDER BY age"),
    ]
    assert rewards(open_sql(), *samples) == [1.0] * len(samples)


def test_other_rows_have_none_and_the_sub_scores_say_how_near_they_are(open_sql):
    cases = [
        on_pets("SELECT DISTINCT name, age FROM pets"),
        on_pets("SELECT age, name FROM pets"),
        on_pets("SELECT name FROM pets"),
        on_pets("SELECT name, age FROM pets, (SELECT 1 UNION SELECT 2)"),
        on_pets("SELECT name FROM pets", "SELECT name FROM pets ORDER BY age"),
        on_pets("SELECT name, age FROM dogs"),
        on_pets("There is no query here."),
        on_pets("```sql\nSELECT name, age FROM pets;\nSELECT 1\n```"),
    ]
    grades = open_sql().grade(cases)
    assert [(grade.reward, grade.error) for grade in grades] == [(0.0, None)] * len(cases)
    # 3 rows of 3 and 4: 2 * 3 / 7. Columns swapped or missing: none. Each row twice: 2 * 4 / 12.
    # Ada Bo Bo Cy instead of Cy Ada Bo Bo: only the third stands at its place, 2 * 1 / 8.
    f1 = [grade.metrics["rows_f1"] for grade in grades]
    assert f1 == pytest.approx([6 / 7, 0, 0, 2 / 3, 1 / 4, 0, 0, 0])
    assert [grade.metrics["executed"] for grade in grades] == [1, 1, 1, 1, 1, 0, 0, 0]
    assert rewards(open_sql(reward="share"), cases[0]) == [pytest.approx(6 / 7)]
    assert rewards(open_sql(ordered=False), cases[4]) == [1.0]


HOSTILE = {
    "writes": "INSERT INTO pets VALUES ('x', 'y', 1, 1)",
    "writes after reading": "WITH p AS (SELECT 1) DELETE FROM pets",
    "drops": "DROP TABLE pets",
    "attaches": "ATTACH 'secret.sqlite' AS s",
    "makes a file": "VACUUM INTO 'copy.sqlite'",
    "sets": "PRAGMA writable_schema = 1",
    "reads settings": "SELECT name, age FROM pets, pragma_database_list",
    "loads code": "SELECT load_extension('evil')",
    "never ends": "WITH c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n), 1 FROM c",
    "fills memory": "WITH c(n) AS (SELECT randomblob(900000) UNION ALL SELECT randomblob(900000) "
    "FROM c) SELECT n, 1 FROM c ORDER BY n",
    "gives endless rows": "WITH c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "
    "SELECT n, 1 FROM c",
    "gives long values": "SELECT hex(zeroblob(100000000)), 1",
    "multiplies": "SELECT count(*), 1 FROM " + ", ".join(f"pets p{i}" for i in range(30)),
    "nests": "SELECT " + "(" * 50_000 + "1" + ")" * 50_000,
    "hides a zero byte": "SELECT name, age FROM pets\x00",
    "is no Unicode": "SELECT '\ud800', 1",
}


def test_a_hostile_query_gets_nothing_and_disturbs_nobody(open_sql):
    good = on_pets("SELECT name, age FROM pets")
    samples = [good]
    for query in HOSTILE.values():
        samples += [on_pets(f"```sql\n{query}\n```"), good]
    grades = open_sql().grade(samples)
    hostile = dict(zip(HOSTILE, grades[1::2], strict=True))
    assert {name: (grade.reward, grade.error) for name, grade in hostile.items()} == dict.fromkeys(
        HOSTILE, (0.0, None)
    )
    executed = [name for name, grade in hostile.items() if grade.metrics["executed"]]
    assert executed == ["gives endless rows"]
    assert [grade.reward for grade in grades[::2]] == [1.0] * (len(HOSTILE) + 1)


def test_a_database_file_is_only_read(open_sql, folder):
    grader = open_sql(database="databases/{{ item.db }}.sqlite")
    before = (folder / "databases" / "pets.sqlite").read_bytes()

    def ask(text, db="pets", reference="SELECT count(*) FROM pets"):
        return sample(text, db=db, reference_answer=reference)

    right, wrong, missing, outside = grader.grade(
        [
            ask("SELECT count(name) FROM pets"),
            ask("UPDATE pets SET age = 1"),
            ask("SELECT 1", db="none"),
            ask("SELECT x FROM s", db="../secret", reference="SELECT x FROM s"),
        ]
    )
    assert (right.reward, wrong.reward) == (1.0, 0.0)
    assert (missing.reward, missing.flags) == (None, ("other_error",))
    assert missing.error.endswith("databases/none.sqlite does not exist.")
    assert outside.reward is None and "unable to open database file" in outside.error
    assert (folder / "databases" / "pets.sqlite").read_bytes() == before
    assert sorted(path.name for path in (folder / "databases").iterdir()) == ["pets.sqlite"]


def test_a_row_without_a_usable_reference_is_an_error_on_its_samples(open_sql):
    query = "SELECT name, age FROM pets"
    cases = {
        "no such column: colour": on_pets(query, "SELECT colour FROM pets"),
        "neither a query nor a list": on_pets(query, 7),
        "texts, numbers and nulls": on_pets(query, [[["Ada"]]]),
        "more than 10000 rows": on_pets(query, "SELECT 1 FROM " + ", ".join(["pets"] * 7)),
        "item.schema does not exist": sample(query, reference_answer=query),
        'near "CREAT"': sample(query, schema="CREAT TABLE", reference_answer=query),
    }
    for reason, grade in zip(cases, open_sql().grade(list(cases.values())), strict=True):
        assert grade.reward is None and reason in grade.error


def test_the_databases_are_part_of_the_fingerprint(folder):
    context = Context(folder=folder)
    file = folder / "databases" / "pets.sqlite"
    for name in ("databases/{{ item.db }}.sqlite", "databases/pets.sqlite", str(file)):
        assert Sql(database=name).files(context) == [file]
    assert Sql().files(context) == []


def test_wrong_settings_are_refused(folder):
    with pytest.raises(ValueError, match="not both"):
        Sql.model_validate({"schema": "x", "database": "y"})
    with ExitStack() as stack, pytest.raises(RewardError, match=r"nowhere\.sqlite does not exist"):
        Sql(database="nowhere.sqlite").open(Context(folder=folder), stack)


def test_where_the_query_stands():
    text = "With care: WITH a AS (SELECT ';') SELECT 1; SELECT 2"
    assert find_query(text, strict=False) == "WITH a AS (SELECT ';') SELECT 1"
    assert find_query(text, strict=True) is None
    assert find_query(f"{text}\n```sql\nSELECT 3\n```", strict=True) == "SELECT 3\n"
    assert find_query("nothing selected", strict=False) is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("SELECT a FROM t order\n by a LIMIT 1", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
        ("SELECT 'ORDER BY', \"order by\" FROM t -- ORDER BY a\n/* ORDER BY a */", False),
        ("SELECT '(' FROM t ORDER BY 1", True),
    ],
)
def test_an_order_counts_at_the_top_only(query, expected):
    assert has_order(query) is expected


cells = st.sampled_from([0, 1, 1.0, 1.001, 2, None, "a", "b"])
tables = st.lists(st.tuples(cells, cells), max_size=5)


@given(tables, tables)
def test_matches_are_the_most_that_can_be_paired(rows, right):
    """Against all ways to pair them."""

    def is_same(a, b):
        numbers = isinstance(a, int | float) and isinstance(b, int | float)
        return abs(a - b) <= 1e-6 if numbers else a == b

    short, long = sorted([rows, right], key=len)
    most = max(
        sum(all(map(is_same, a, b)) for a, b in zip(short, chosen, strict=True))
        for chosen in itertools.permutations(long, len(short))
    )
    assert count_matches(rows, right, tolerance=1e-6, ordered=False) == most
    in_order = sum(all(map(is_same, a, b)) for a, b in zip(rows, right, strict=False))
    assert count_matches(rows, right, tolerance=1e-6, ordered=True) == in_order


def test_rounding_does_not_tear_rows_apart():
    """Sorted by the first number the rows stand in another order than the right ones."""
    rows = [(1.0000001, "a", 2), (1.0, "b", 1)]
    right = [(1.0, "a", 2), (1.0000001, "b", 1.0000001)]
    assert count_matches(rows, right, tolerance=1e-6, ordered=False) == 2
    assert count_matches(rows, right, tolerance=1e-9, ordered=False) == 0
