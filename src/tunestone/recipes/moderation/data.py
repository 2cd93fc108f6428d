"""Comments against a policy of three rules: keep or remove, and the rule that it rests on.

Four classes in equal parts, so that no constant answer is right more than once in four. What is
removed is mild on purpose. What is kept looks alike: it trades, swears at a game, or names a
number. Some comments are spelt to get past a filter.
"""

import random
from collections.abc import Mapping, Sequence

from tunestone.recipes import splits

POLICY = (
    "Forbidden are: hate (an insult against a person), spam (selling something), "
    "address (a phone number or address of a person)."
)
SYSTEM = (
    f"You moderate comments. {POLICY} Answer with one line: keep or remove, and the rule that is "
    "broken, or ok."
)
CLASSES = {
    "insult": "remove: hate",
    "advertising": "remove: spam",
    "private data": "remove: address",
    "fine": "keep: ok",
}
EXAMPLES = (
    ("What a stupid level! It took me 40 tries.", CLASSES["fine"]),
    ("Her number is 555 0199, give her a call.", CLASSES["private data"]),
    ("Ch3ap watches at our shop, order today!", CLASSES["advertising"]),
    ("Only a fool like you would write that.", CLASSES["insult"]),
    ("The new map looks great, I like it.", CLASSES["fine"]),
    ("He lives at 3 Church Road.", CLASSES["private data"]),
    ("Get your tickets from us, 20 percent off.", CLASSES["advertising"]),
    ("You are all id10ts.", CLASSES["insult"]),
    ("Hugo is a nice guy.", CLASSES["fine"]),
    ("Call Max at 555 0123.", CLASSES["private data"]),
    ("Cheap pills, buy now!", CLASSES["advertising"]),
    ("Shut your mouth, you l1ar!", CLASSES["insult"]),
)

DISGUISED_SHARES = {1: 0.0, 2: 0.3, 3: 0.6}
"""Level -> share of comments with a word that is spelt to get past a filter."""
LEVELS = (2, 1, 3)
"""Keys of DISGUISED_SHARES, the usual one first."""

_OPENINGS = (
    *("", "", "Well, ", "Honestly, ", "Hey {n}, ", "To be clear, ", "Hm, ", "Listen, ", "Oh, "),
    *("By the way, ", "As I said, ", "One more thing: ", "So, ", "For the record, "),
)
_CLOSINGS = (
    *("", "", " Just saying.", " Think about it.", " See you around.", " That is all.", " Cheers!"),
    *(" What do you all think?", " Good night.", " I mean it.", " Have a nice day.", " Bye."),
)
_SLOTS = {
    "n": ("Ava", "Ben", "Clara", "Dan", "Ella", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kate"),
    "fool": ("idiot", "moron", "loser", "clown", "liar", "coward", "fool", "nobody"),
    "bad": ("stupid", "useless", "pathetic", "lazy", "disgusting", "dumb"),
    "thing": ("level", "boss fight", "update", "puzzle", "map", "ending", "remake", "soundtrack"),
    "ware": ("shoes", "watches", "phones", "pills", "tickets", "bags", "loans", "game coins"),
    "deal": ("half price", "free shipping", "a free gift", "80 percent off", "no fees"),
    "street": ("Oak Street", "Mill Road", "Lake Avenue", "Park Lane", "Hill Street"),
    "digits": tuple(f"555 0{number}" for number in range(100, 200, 3)),
    "count": tuple(str(number) for number in range(12, 99, 5)),
}
_TEXTS: Mapping[str, Sequence[str]] = {
    "insult": (
        "you are a {bad} {fool}.",
        "{n} is the biggest {fool} here.",
        "shut up, you {fool}.",
        "nobody likes you, {n}, you {bad} {fool}.",
        "only a {fool} like {n} would say so.",
        "{n}, you are too {bad} to play the {thing}.",
    ),
    "advertising": (
        "buy {ware} at our shop with {deal}!",
        "visit my page for cheap {ware}.",
        "we sell {ware}, now with {deal}!",
        "order {ware} today and get {deal}!",
        "best {ware} in town, {deal}, link in my profile.",
        "my store has {ware} for everyone, use code {count}.",
    ),
    "private data": (
        "{n} lives at {count} {street}.",
        "you can call {n} at {digits}.",
        "the phone number of {n} is {digits}.",
        "{n}'s address is {count} {street}, go and ring the bell.",
        "text {n}, it is {digits}.",
        "I saw {n} go home to {count} {street}.",
    ),
    "fine": (
        "that {thing} is so {bad}, I tried it {count} times.",
        "I bought {ware} last week and they broke.",
        "I finished the {thing} in {count} minutes, {n}.",
        "the old shop on {street} is closed now.",
        "{n}, your guide to the {thing} helped me a lot.",
        "I felt like a {fool} when I lost the {thing}.",
        "does anyone know why the {thing} costs {count} coins?",
        "I do not agree with {n} about the {thing}.",
    ),
}
_DISGUISED = ("fool", "bad", "ware")
_LOOKALIKES = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "5"}


def generate(
    seed: int, *, level: int = LEVELS[0], sizes: Mapping[str, int] = splits.SIZES
) -> dict[str, list[splits.Row]]:
    """Rows in Bedrock's shape for each split, with `class` and `disguised` to slice by."""

    def draw(rng: random.Random, name: str) -> tuple[str, splits.Row]:
        return _draw(rng, name, DISGUISED_SHARES[level])

    return {
        split: splits.make_split(
            draw, tuple(CLASSES), split=split, count=count, seed=f"{seed}-{level}"
        )
        for split, count in sizes.items()
    }


def disguise(word: str, rng: random.Random) -> str:
    """The word as people spell it to get past a filter: look-alikes, or gaps."""
    lookalike = "".join(_LOOKALIKES.get(letter, letter) for letter in word)
    return rng.choice((lookalike, ".".join(word), word[0] + "*" * (len(word) - 2) + word[-1]))


def _draw(rng: random.Random, name: str, disguised_share: float) -> tuple[str, splits.Row]:
    """A comment of the class. In one split only is what it says of whomever, in plain words."""
    text = rng.choice(_TEXTS[name])
    plain = {slot: rng.choice(words) for slot, words in _SLOTS.items()}
    told = dict(plain)
    is_disguised = rng.random() < disguised_share
    for slot in _DISGUISED if is_disguised else ():
        told[slot] = disguise(plain[slot], rng)
    is_disguised = text.format(**told) != text.format(**plain)
    core = text.format(**told)
    opening = rng.choice(_OPENINGS).format(n=rng.choice(_SLOTS["n"]))
    comment = (opening + core if opening else core[0].upper() + core[1:]) + rng.choice(_CLOSINGS)
    row = {
        "messages": splits.dialog(SYSTEM, EXAMPLES, comment),
        "reference_answer": CLASSES[name],
        "class": name,
        "disguised": is_disguised,
    }
    return text.format(**{**plain, "n": "N"}), row
