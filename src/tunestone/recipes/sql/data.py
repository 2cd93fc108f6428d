"""Questions about people, and about what they bought, answered by a query.

Every row has a database of its own, drawn so that the right query gives rows, and gives others than
without its conditions: what happens to fit one database does not fit the next.
"""

import random
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from tunestone.recipes import splits

LEVELS = (1, 2)
"""One table, or two with joins; the first is the usual one."""
TABLES = {
    1: "CREATE TABLE people (name TEXT, city TEXT, age INTEGER);\n",
    2: "CREATE TABLE people (name TEXT, city TEXT, age INTEGER);\n"
    "CREATE TABLE orders (buyer TEXT, item TEXT, price INTEGER, year INTEGER);\n",
}
"""Level -> what makes its tables."""
SYSTEMS = {
    1: "Answer with one SQL query. The table is people (name, city, age).",
    2: "Answer with one SQL query. The tables are people (name, city, age) and orders (buyer, "
    "item, price, year); a buyer is a name of people.",
}
_JOIN_EXAMPLES = (
    (
        "What did people from Lagos pay?",
        "SELECT price FROM orders JOIN people ON name = buyer WHERE city = 'Lagos'",
    ),
    ("How many stoves were ordered?", "SELECT COUNT(*) FROM orders WHERE item = 'stove'"),
)
EXAMPLES = (
    ("Which people live in Lagos?", "SELECT name FROM people WHERE city = 'Lagos'"),
    ("How many people are 33 years old?", "SELECT COUNT(*) FROM people WHERE age = 33"),
    ("How old is the oldest person?", "SELECT MAX(age) FROM people"),
    (
        "Who in Izmir is not older than 71?",
        "SELECT name FROM people WHERE city = 'Izmir' AND age <= 71",
    ),
    ("How old are the people in Kyoto?", "SELECT age FROM people WHERE city = 'Kyoto'"),
    ("Which people are at least 18?", "SELECT name FROM people WHERE age >= 18"),
    ("How many people live in Tunis?", "SELECT COUNT(*) FROM people WHERE city = 'Tunis'"),
    ("What is the lowest age in Malmo?", "SELECT MIN(age) FROM people WHERE city = 'Malmo'"),
)
"""Worked ones of both levels; level 2 has two more, on orders."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question in two wordings, and the query that answers it, with gaps for values."""

    kind: str
    texts: tuple[str, str]
    query: str


_ONE_TABLE = (
    Question(
        "filter",
        ("Which people live in {city}?", "List the names of the people from {city}."),
        "SELECT name FROM people WHERE city = '{city}'",
    ),
    Question(
        "filter",
        ("Which people are older than {age}?", "List the names of people over {age}."),
        "SELECT name FROM people WHERE age > {age}",
    ),
    Question(
        "filter",
        ("Which people are younger than {age}?", "List the names of people under {age}."),
        "SELECT name FROM people WHERE age < {age}",
    ),
    Question(
        "filter",
        ("How old are the people in {city}?", "What are the ages of people in {city}?"),
        "SELECT age FROM people WHERE city = '{city}'",
    ),
    Question(
        "count",
        ("How many people live in {city}?", "Count the people from {city}."),
        "SELECT COUNT(*) FROM people WHERE city = '{city}'",
    ),
    Question(
        "count",
        ("How many people are older than {age}?", "Count the people over {age}."),
        "SELECT COUNT(*) FROM people WHERE age > {age}",
    ),
    Question(
        "count",
        (
            "How many people in {city} are older than {age}?",
            "Count the people over {age} in {city}.",
        ),
        "SELECT COUNT(*) FROM people WHERE city = '{city}' AND age > {age}",
    ),
    Question(
        "extreme",
        ("How old is the oldest person in {city}?", "What is the highest age in {city}?"),
        "SELECT MAX(age) FROM people WHERE city = '{city}'",
    ),
    Question(
        "extreme",
        ("How old is the youngest person in {city}?", "What is the lowest age in {city}?"),
        "SELECT MIN(age) FROM people WHERE city = '{city}'",
    ),
    Question(
        "extreme",
        ("How old is the youngest person over {age}?", "What is the lowest age above {age}?"),
        "SELECT MIN(age) FROM people WHERE age > {age}",
    ),
    Question(
        "two conditions",
        ("Who in {city} is older than {age}?", "List the names of people over {age} in {city}."),
        "SELECT name FROM people WHERE city = '{city}' AND age > {age}",
    ),
    Question(
        "two conditions",
        ("Who in {city} is younger than {age}?", "List the names of people under {age} in {city}."),
        "SELECT name FROM people WHERE city = '{city}' AND age < {age}",
    ),
)
_TWO_TABLES = (
    Question(
        "orders",
        (
            "Which items of {year} have a price above {price}?",
            "List what cost over {price} in {year}.",
        ),
        "SELECT item FROM orders WHERE year = {year} AND price > {price}",
    ),
    Question(
        "orders",
        ("What is the total price of the {item} orders?", "Add up the prices of {item}."),
        "SELECT SUM(price) FROM orders WHERE item = '{item}'",
    ),
    Question(
        "join",
        ("Which items did people from {city} order?", "List the items ordered in {city}."),
        "SELECT item FROM orders JOIN people ON name = buyer WHERE city = '{city}'",
    ),
    Question(
        "join",
        ("How old are those who ordered {item}?", "List the ages of the buyers of {item}."),
        "SELECT age FROM orders JOIN people ON name = buyer WHERE item = '{item}'",
    ),
    Question(
        "join",
        (
            "In which cities was something ordered above {price}?",
            "List the cities of orders over {price}.",
        ),
        "SELECT city FROM orders JOIN people ON name = buyer WHERE price > {price}",
    ),
)
QUESTIONS = {1: _ONE_TABLE, 2: _ONE_TABLE + _TWO_TABLES}
"""Level -> the questions that are asked, their kinds in turn."""

_NAMES = ("Ava", "Ben", "Clara", "Dan", "Ella", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kate")
_CITIES = (
    *("Rome", "Oslo", "Lima", "Cairo", "Paris", "Quito", "Delhi", "Tokyo", "Bonn", "Accra", "Bern"),
    *("Porto", "Turin", "Seoul", "Dakar", "Perth", "Miami", "Genoa", "Hanoi", "Basel", "Sofia"),
    *("Milan", "Ghent", "Essen", "Leeds", "Derby", "Cadiz", "Lyon", "Nice", "Metz", "Riga", "Kiev"),
    *("Minsk", "Tampa", "Omaha", "Austin", "Boston", "Denver", "Dallas", "Havana", "Bogota"),
    *("Santos", "Recife", "Athens", "Vienna", "Berlin", "Munich", "Madrid", "Lisbon", "London"),
    *("Dublin", "Prague", "Warsaw", "Zagreb", "Moscow", "Ankara", "Tehran", "Mumbai", "Manila"),
    *("Taipei", "Sydney", "Geneva", "Naples", "Venice", "Bremen", "Lusaka", "Harare", "Kigali"),
)
_ITEMS = (
    *("lamp", "chair", "desk", "clock", "mirror", "shelf", "sofa", "stool", "vase", "rug"),
    *("kettle", "plate", "basket", "candle", "pillow", "blanket", "ladder", "hammer", "brush"),
)


def generate(
    seed: int, *, level: int = LEVELS[0], sizes: Mapping[str, int] = splits.SIZES
) -> dict[str, list[splits.Row]]:
    """Rows in Bedrock's shape for each split, with `kind` to slice by."""
    kinds = list(dict.fromkeys(question.kind for question in QUESTIONS[level]))

    def draw(rng: random.Random, kind: str) -> tuple[str, splits.Row]:
        questions = [question for question in QUESTIONS[level] if question.kind == kind]
        return _draw(rng, rng.choice(questions), level)

    return {
        split: splits.make_split(draw, kinds, split=split, count=count, seed=f"{seed}-{level}")
        for split, count in sizes.items()
    }


def _draw(rng: random.Random, question: Question, level: int) -> tuple[str, splits.Row]:
    while True:
        values: dict[str, str | int] = {
            "city": rng.choice(_CITIES),
            "item": rng.choice(_ITEMS),
            "age": rng.randint(22, 70),
            "price": rng.randint(20, 180),
            "year": rng.randint(2001, 2026),
        }
        query = question.query.format(**values)
        script = _draw_database(values, rng, level)
        if _is_fitting(query, script):
            break
    examples = EXAMPLES + (_JOIN_EXAMPLES if level == 2 else ())
    asked = rng.choice(question.texts).format(**values)
    row = {
        "messages": splits.dialog(SYSTEMS[level], examples, asked),
        "reference_answer": query,
        "schema": script,
        "kind": question.kind,
    }
    return query, row


def _is_fitting(query: str, script: str) -> bool:
    """Whether each condition of the query matters on the database that the script makes."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        rows, *others = (connection.execute(q).fetchall() for q in (query, *_weaker(query)))
    return rows not in ([], [(None,)], [(0,)], *others)


def _weaker(query: str) -> list[str]:
    """The query without its conditions, and with each of several alone."""
    head, _, told = query.partition(" WHERE ")
    conditions = told.split(" AND ")
    alone = [f"{head} WHERE {condition}" for condition in conditions]
    return [head, *(alone if len(conditions) > 1 else [])]


def _draw_database(values: Mapping[str, str | int], rng: random.Random, level: int) -> str:
    """Some people and orders; what the question speaks of comes up more often than others."""
    cities = [values["city"], *rng.sample(_CITIES, 2)]
    names = rng.sample(_NAMES, 9)
    people = [(name, rng.choice(cities), rng.randint(18, 75)) for name in names]
    inserted: dict[str, list[Any]] = {"people": people}
    if level == 2:
        items = [values["item"], *rng.sample(_ITEMS, 3)]
        years = [values["year"], rng.randint(2001, 2026)]
        inserted["orders"] = [
            (rng.choice(names), rng.choice(items), rng.randint(5, 200), rng.choice(years))
            for _ in range(14)
        ]
    return TABLES[level] + "\n".join(
        f"INSERT INTO {table} VALUES {', '.join(map(repr, rows))};"
        for table, rows in inserted.items()
    )
