"""Messy orders and invoices, and what they say as one JSON object.

The facts stand in any order, between numbers that mean something else; quantities may be words,
items stand in the plural, dates in several forms, and some writers change their mind.
"""

import datetime
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunestone.recipes import splits

SYSTEM = (
    "Turn the text into one line of JSON with the keys customer, item (in the singular), "
    "quantity (a number), total (a number) and date (as YYYY-MM-DD). Write nothing else."
)
EXAMPLES = (
    (
        "Hello, this is Nora Beck. Please send two dozen wall clocks by 9 June 2026. My last "
        "order was 6. We agreed on $412.50 in all.",
        '{"customer": "Nora Beck", "item": "wall clock", "quantity": 24, "total": 412.5, '
        '"date": "2026-06-09"}',
    ),
    (
        "INVOICE 80413\nTotal: 96.00 dollars\n3 x tool box\nTel. 555 0182\nBill to: Omar Diaz\n"
        "Due: October 17, 2026",
        '{"customer": "Omar Diaz", "item": "tool box", "quantity": 3, "total": 96, '
        '"date": "2026-10-17"}',
    ),
)


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How messy the texts are."""

    word_share: float
    """Of quantities written in words."""
    decoys: int
    """Sentences or lines with numbers that do not count."""
    correction_share: float
    """Of writers who change the quantity afterwards."""
    date_forms: tuple[str, ...]
    """Keys of DATE_FORMS."""


DATE_FORMS = {
    "iso": "%Y-%m-%d",
    "day first": "%-d %B %Y",
    "month first": "%B %-d, %Y",
    "short": "%-d %b %Y",
}
"""Name -> form as `strftime` has it; %-d is the day without a zero."""
DIFFICULTIES = {
    1: Difficulty(word_share=0.0, decoys=0, correction_share=0.0, date_forms=("iso", "day first")),
    2: Difficulty(
        word_share=0.3,
        decoys=1,
        correction_share=0.0,
        date_forms=("iso", "day first", "month first"),
    ),
    3: Difficulty(
        word_share=0.5,
        decoys=2,
        correction_share=0.3,
        date_forms=("day first", "month first", "short"),
    ),
}
LEVELS = (2, 1, 3)
"""Keys of DIFFICULTIES, the usual one first."""

_FIRST = ("Ada", "Bruno", "Carla", "Dev", "Elin", "Farid", "Greta", "Hana", "Igor", "June", "Kofi")
_LAST = ("Abel", "Brandt", "Costa", "Dahl", "Evans", "Fox", "Gupta", "Hall", "Ito", "Jensen", "Kim")
_ITEMS = (
    *("desk lamp", "office chair", "coffee mug", "water bottle", "paper tray", "garden hose"),
    *("yoga mat", "door mat", "bath towel", "soup bowl", "phone case", "bike helmet", "tea kettle"),
    *("storage bin", "picture frame", "rain jacket", "camp stove", "hand saw", "paint roller"),
)
_COUNTS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 20, 24, 30, 36)
_SPOKEN = (
    *("two", "three", "four", "five", "half a dozen", "seven", "eight", "nine", "ten", "eleven"),
    *("a dozen", "fifteen", "twenty", "two dozen", "thirty", "three dozen"),
)
_WORDS = dict(zip(_COUNTS, _SPOKEN, strict=True))
_KINDS = ("order", "invoice")


def generate(
    seed: int, *, level: int = LEVELS[0], sizes: Mapping[str, int] = splits.SIZES
) -> dict[str, list[splits.Row]]:
    """Rows in Bedrock's shape for each split, with `kind`, `level` and `date_form` to slice by."""

    def draw(rng: random.Random, kind: str) -> tuple[str, splits.Row]:
        return _draw(rng, kind, level)

    return {
        split: splits.make_split(draw, _KINDS, split=split, count=count, seed=f"{seed}-{level}")
        for split, count in sizes.items()
    }


def _draw(rng: random.Random, kind: str, level: int) -> tuple[str, splits.Row]:
    difficulty = DIFFICULTIES[level]
    date = datetime.date(2026, 1, 1) + datetime.timedelta(days=rng.randrange(365))
    facts: dict[str, Any] = {
        "customer": f"{rng.choice(_FIRST)} {rng.choice(_LAST)}",
        "item": rng.choice(_ITEMS),
        "quantity": rng.choice(_COUNTS),
        "total": rng.randint(20, 999) + rng.choice((0, 0.25, 0.5, 0.95)),
        "date": date.isoformat(),
    }
    form = rng.choice(difficulty.date_forms)
    told = {
        **facts,
        "date": date.strftime(DATE_FORMS[form]),
        "total": _tell_money(facts["total"], rng),
    }
    tell = _tell_order if kind == "order" else _tell_invoice
    row = {
        "messages": splits.dialog(SYSTEM, EXAMPLES, tell(told, difficulty, rng)),
        "reference_answer": json.dumps(facts),
        "kind": kind,
        "level": level,
        "date_form": form,
    }
    return f"{facts['customer']} {facts['item']} {facts['quantity']}", row


def _tell_order(told: Mapping[str, Any], difficulty: Difficulty, rng: random.Random) -> str:
    """An e-mail: the greeting first, a change of mind last, the rest in any order."""
    final = told["quantity"]
    is_corrected = rng.random() < difficulty.correction_share
    first = rng.choice([count for count in _COUNTS if count != final]) if is_corrected else final
    items = f"{_tell_count(first, difficulty, rng)} {told['item']}s"
    wish = rng.choice(("Please send {}.", "I would like to order {}.", "We need {}."))
    facts = [
        wish.format(items),
        rng.choice(("This is {}.", "{} here.", "My name is {}.")).format(told["customer"]),
        rng.choice(("We agreed on {} in all.", "I will pay {} for everything.")).format(
            told["total"]
        ),
        rng.choice(("Deliver on {}.", "They must be here by {}.")).format(told["date"]),
        *_decoys(
            difficulty.decoys,
            rng,
            (
                "My last order was {}.",
                "Our office is on floor {}.",
                "Ring bell number {}.",
                "A friend of mine bought {}.",
            ),
        ),
    ]
    rng.shuffle(facts)
    correction = f"Sorry, make that {_tell_count(final, difficulty, rng)}." if is_corrected else ""
    greeting = rng.choice(("Hello,", "Hi there,", "Dear team,", "Good morning,"))
    return " ".join(filter(None, (greeting, *facts, correction)))


def _tell_invoice(told: Mapping[str, Any], difficulty: Difficulty, rng: random.Random) -> str:
    """Lines in any order below the heading."""
    count = told["quantity"]
    lines = [
        f"{rng.choice(('Bill to', 'Customer', 'For'))}: {told['customer']}",
        rng.choice((f"{count} x {told['item']}", f"{told['item']}, quantity {count}")),
        f"{rng.choice(('Total', 'TOTAL', 'Amount due'))}: {told['total']}",
        f"{rng.choice(('Date', 'Due', 'Delivery'))}: {told['date']}",
        *_decoys(
            difficulty.decoys,
            rng,
            ("Tel. 555 01{}", "Page 1 of {}", "Room {}", "Your customer number: {}"),
        ),
    ]
    rng.shuffle(lines)
    return "\n".join([f"INVOICE {rng.randint(10_000, 99_999)}", *lines])


def _tell_count(count: int, difficulty: Difficulty, rng: random.Random) -> str:
    return _WORDS[count] if rng.random() < difficulty.word_share else str(count)


def _tell_money(amount: float, rng: random.Random) -> str:
    return rng.choice(("${:.2f}", "{:.2f} dollars", "USD {:.2f}")).format(amount)


def _decoys(count: int, rng: random.Random, forms: tuple[str, ...]) -> list[str]:
    return [form.format(rng.randint(10, 99)) for form in rng.sample(forms, count)]
