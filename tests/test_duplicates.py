"""Equal and nearly equal prompts: the rule by sets and every pair, and how long it takes."""

import random
import re
import time
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunestone.duplicates import THRESHOLD, find_equal, find_near
from tunestone.types import Prompt

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def prompt(text: str, number: int, **row) -> Prompt:
    """A prompt of one turn."""
    return Prompt(f"p{number}", ({"role": "user", "content": text},), row)


def test_boilerplate_that_only_one_of_two_has_is_a_difference():
    # "is red bigger" is in half of the texts, so it is boilerplate; those two differ in it.
    names = [f"planet {word} of {word}" for word in WORDS[:60]]
    texts = [f"is {colour} bigger than {name}" for name in names for colour in ("red", "blue")]
    assert find_near(texts) == []


def slow_near(texts):
    """The rule of duplicates.py by sets and every pair."""
    tokens = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts]
    shingles = [
        {tuple(row[i : i + 3]) for i in range(max(1, len(row) - 2))} if row else set()
        for row in tokens
    ]
    most = max(5, len(texts) // 10)
    common = {s for row in shingles for s in row if sum(s in other for other in shingles) > most}
    numbers = [sorted(re.findall(r"\d+", text)) for text in texts]
    found = []
    for i, j in combinations(range(len(texts)), 2):
        both = shingles[i] & shingles[j]
        union = (shingles[i] | shingles[j]) - (both & common)
        if union and numbers[i] == numbers[j] and len(both - common) / len(union) >= THRESHOLD:
            found.append((i, j, len(both - common) / len(union)))
    return found


@given(st.data())
def test_near_duplicates_are_those_of_the_slow_rule(data):
    word = st.sampled_from(["a", "b", "c", "d", "7", "8", "end."])
    sentence = st.lists(word, max_size=9)
    base = data.draw(st.lists(sentence, min_size=1, max_size=6))
    texts = [" ".join(row) for row in base]
    texts += [" ".join([*data.draw(st.sampled_from(base)), data.draw(word)]) for _ in range(6)]
    found = [(pair.first, pair.second, pair.similarity) for pair in find_near(texts)]
    expected = slow_near(texts)
    assert [pair[:2] for pair in found] == [pair[:2] for pair in expected]
    assert [pair[2] for pair in found] == pytest.approx([pair[2] for pair in expected])


def test_twenty_thousand_prompts_take_seconds():
    draw = random.Random(5)
    texts = [" ".join(draw.choices(WORDS, k=60)) for _ in range(20_000)]
    texts[12_345] = texts[77] + " please"
    start = time.process_time()
    (pair,) = find_near(texts)
    assert (pair.first, pair.second) == (77, 12_345)
    assert time.process_time() - start < 20  # two seconds on a free core


def test_equal_means_messages_not_ids_or_answers():
    rows = [prompt("x", 1), prompt("y", 2), prompt("x", 3, reference_answer=1)]
    assert find_equal(rows) == [[0, 2]]
