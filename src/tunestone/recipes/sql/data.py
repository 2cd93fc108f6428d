"""Questions about a small shop, answered by a query.

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

TABLES = (
    "CREATE TABLE customers (id INTEGER, name TEXT, city TEXT, age INTEGER);\n"
    "CREATE TABLE orders (id INTEGER, customer_id INTEGER, item TEXT, price INTEGER, "
    "year INTEGER);\n"
)
SYSTEM = f"Answer with one SQL query for these tables. Write nothing else.\n{TABLES.strip()}"
EXAMPLES = (
    ("Which items were ordered in 2019?", "SELECT item FROM orders WHERE year = 2019"),
    (
        "How many customers are 33 years old?",
        "SELECT COUNT(*) FROM customers WHERE age = 33",
    ),
    (
        "What are the prices of the orders of Zoe?",
        "SELECT price FROM orders JOIN customers ON customers.id = customer_id WHERE name = 'Zoe'",
    ),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question in two wordings, and the query that answers it, with gaps for values."""

    kind: str
    texts: tuple[str, str]
    query: str


_ONE_TABLE = (
    Question(
        "filter",
        ("Which customers live in {city}?", "List the names of the customers from {city}."),
        "SELECT name FROM customers WHERE city = '{city}'",
    ),
    Question(
        "filter",
        ("Which customers are older than {age}?", "List the names of customers over {age}."),
        "SELECT name FROM customers WHERE age > {age}",
    ),
    Question(
        "filter",
        ("How old are the customers in {city}?", "What are the ages of customers in {city}?"),
        "SELECT age FROM customers WHERE city = '{city}'",
    ),
    Question(
        "filter",
        ("Which items have a price above {price}?", "List the items that cost over {price}."),
        "SELECT item FROM orders WHERE price > {price}",
    ),
    Question(
        "filter",
        ("What are the prices of the {item} orders?", "At which prices was {item} sold?"),
        "SELECT price FROM orders WHERE item = '{item}'",
    ),
    Question(
        "count",
        ("How many customers live in {city}?", "Count the customers from {city}."),
        "SELECT COUNT(*) FROM customers WHERE city = '{city}'",
    ),
    Question(
        "count",
        ("How many orders have a price below {price}?", "Count the orders under {price}."),
        "SELECT COUNT(*) FROM orders WHERE price < {price}",
    ),
)
_CALCULATED = (
    Question(
        "total",
        ("What is the total price of the {item} orders?", "Add up the prices of {item}."),
        "SELECT SUM(price) FROM orders WHERE item = '{item}'",
    ),
    Question(
        "total",
        ("What is the highest price in {year}?", "What did the dearest order of {year} cost?"),
        "SELECT MAX(price) FROM orders WHERE year = {year}",
    ),
    Question(
        "total",
        (
            "What is the highest price below {price}?",
            "What does the dearest order under {price} cost?",
        ),
        "SELECT MAX(price) FROM orders WHERE price < {price}",
    ),
    Question(
        "total",
        ("How old is the youngest customer over {age}?", "What is the lowest age above {age}?"),
        "SELECT MIN(age) FROM customers WHERE age > {age}",
    ),
    Question(
        "two conditions",
        (
            "Which customers from {city} are older than {age}?",
            "List the names of customers over {age} in {city}.",
        ),
        "SELECT name FROM customers WHERE city = '{city}' AND age > {age}",
    ),
    Question(
        "two conditions",
        (
            "Which items of {year} have a price above {price}?",
            "List the items of {year} that cost over {price}.",
        ),
        "SELECT item FROM orders WHERE year = {year} AND price > {price}",
    ),
)
_JOINED = (
    Question(
        "join",
        ("Which items did customers from {city} order?", "List the items ordered in {city}."),
        "SELECT item FROM orders JOIN customers ON customers.id = customer_id "
        "WHERE city = '{city}'",
    ),
    Question(
        "join",
        ("Who ordered {item}?", "List the names of the customers who ordered {item}."),
        "SELECT name FROM customers JOIN orders ON customers.id = customer_id "
        "WHERE item = '{item}'",
    ),
    Question(
        "join",
        (
            "Which customers have an order with a price above {price}?",
            "List the names of those who ordered something over {price}.",
        ),
        "SELECT name FROM customers JOIN orders ON customers.id = customer_id "
        "WHERE price > {price}",
    ),
)
QUESTIONS = {1: _ONE_TABLE + _CALCULATED, 2: _CALCULATED + _JOINED}
"""Level -> the questions that are asked, their kinds in turn."""
LEVELS = (1, 2)
"""Keys of QUESTIONS, the usual one first."""

_NAMES = ("Ava", "Ben", "Clara", "Dan", "Ella", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kate")
_CITIES = (
    *("Rome", "Oslo", "Lima", "Cairo", "Paris", "Quito", "Delhi", "Tokyo", "Bonn", "Accra"),
    *("Porto", "Turin", "Seoul", "Dakar", "Perth", "Miami", "Genoa", "Hanoi", "Basel", "Sofia"),
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
        return _draw(rng, rng.choice(questions))

    return {
        split: splits.make_split(draw, kinds, split=split, count=count, seed=f"{seed}-{level}")
        for split, count in sizes.items()
    }


def _draw(rng: random.Random, question: Question) -> tuple[str, splits.Row]:
    while True:
        values: dict[str, str | int] = {
            "city": rng.choice(_CITIES),
            "item": rng.choice(_ITEMS),
            "age": rng.randint(25, 65),
            "price": rng.randint(20, 180),
            "year": rng.randint(2001, 2026),
        }
        query = question.query.format(**values)
        script = _draw_database(values, rng)
        if _is_fitting(query, script):
            break
    row = {
        "messages": splits.dialog(SYSTEM, EXAMPLES, rng.choice(question.texts).format(**values)),
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


def _draw_database(values: Mapping[str, str | int], rng: random.Random) -> str:
    """Some customers and orders; what the question speaks of comes up more often than others."""
    cities = [values["city"], *rng.sample(_CITIES, 2)]
    items = [values["item"], *rng.sample(_ITEMS, 3)]
    years = [values["year"], rng.randint(2001, 2026)]
    customers = [
        (number, name, rng.choice(cities), rng.randint(18, 75))
        for number, name in enumerate(rng.sample(_NAMES, 8), start=1)
    ]
    orders = [
        (n, rng.randint(1, 8), rng.choice(items), rng.randint(5, 200), rng.choice(years))
        for n in range(1, 15)
    ]
    inserted: dict[str, list[Any]] = {"customers": customers, "orders": orders}
    return TABLES + "\n".join(
        f"INSERT INTO {table} VALUES {', '.join(map(repr, rows))};"
        for table, rows in inserted.items()
    )
