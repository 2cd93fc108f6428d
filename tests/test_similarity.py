"""Similarity metrics against values worked out by hand, and their bounds on any text."""

import functools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from tunestone.rewards.openai.similarity import METRICS, meteor_uses_synonyms

CAT = ("the cat is on the mat", "the cat sat on the mat")


def likeness(metric, text, reference):
    return METRICS[metric](text, reference)


def test_the_metrics_are_those_of_openai_without_cosine():
    rouges = ["rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]
    assert list(METRICS) == ["fuzzy_match", "bleu", "gleu", "meteor", *rouges]


@pytest.mark.parametrize(
    ("metric", "text", "reference", "expected"),
    [
        # longest common subsequence "ittn": 2 x 4 / (6 + 7)
        ("fuzzy_match", "kitten", "sitting", 8 / 13),
        ("fuzzy_match", "ABC", "abc", 0.0),
        # n-gram precisions 5/6, 3/5, 1/4 and none of 3, which smoothing makes 1 / (2 x 3)
        ("bleu", *CAT, (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25),
        # all of its 1- and 2-grams match, but it has 2 words of 3
        ("bleu", "the cat", "the cat sat", math.exp(1 - 3 / 2)),
        # 3 + 2 + 1 n-grams in each; "the", "cat", "the cat" match
        ("gleu", "the cat sat", "the cat ran", 3 / 6),
        # precision 3/3, recall 3/6: the smaller one
        ("gleu", "the cat", "the cat ran", 3 / 6),
        # "mat" and "." are two tokens: 6 n-grams each, "mat", ".", "mat ." match
        ("gleu", "a mat.", "the mat.", 3 / 6),
        # precision = recall = F = 2/3; one chunk of 2 matches: x (1 - 0.5 x (1/2)^3)
        ("meteor", "the cat sat", "the cat ran", 2 / 3 * 15 / 16),
        # two chunks for two matches: x (1 - 0.5 x 1)
        ("meteor", "b a", "a b", 0.5),
        # the same stem, whatever the case: one match in one chunk
        ("meteor", "Cats", "cat", 0.5),
        # precision 1, recall 1/2: 1 x 1/2 / (0.9 x 1 + 0.1 x 1/2), x 0.5
        ("meteor", "a", "a b", 0.5 / 0.95 * 0.5),
        ("rouge_1", *CAT, 5 / 6),
        ("rouge_2", *CAT, 3 / 5),
        ("rouge_3", *CAT, 1 / 4),
        # precision 2/2, recall 2/3
        ("rouge_1", "The cat!", "the cat sat", 2 * 1 * (2 / 3) / (1 + 2 / 3)),
        # no stemmer
        ("rouge_1", "cats", "cat", 0.0),
        # 3 four-grams each, 2 shared; 2 five-grams each, 1 shared
        ("rouge_4", "a b c d e f", "a b c d e g", 2 / 3),
        ("rouge_5", "a b c d e f", "a b c d e g", 1 / 2),
        # common subsequence a b d: precision 3/4, recall 3/5
        ("rouge_l", "a b c d", "a c b d e", 2 * 0.75 * 0.6 / (0.75 + 0.6)),
        # words of other scripts count
        ("rouge_1", "καλή μέρα", "καλή νύχτα", 1 / 2),
    ],
)
def test_metrics_have_the_values_worked_out_by_hand(metric, text, reference, expected):
    assert likeness(metric, text, reference) == pytest.approx(expected, abs=1e-9)


def test_meteor_matches_synonyms_exactly_where_it_says_so():
    # one match in one chunk: 1 x (1 - 0.5)
    assert likeness("meteor", "car", "automobile") == (0.5 if meteor_uses_synonyms() else 0.0)


@pytest.mark.parametrize("metric", METRICS)
def test_an_equal_text_is_as_like_as_can_be(metric):
    text = "Yes, the quick brown fox jumps over it."
    # METEOR gives n equal words 1 - 0.5 / n^3: here 8 words and 2 marks.
    expected = 1 - 0.5 / 10**3 if metric == "meteor" else 1.0
    assert likeness(metric, text, text) == pytest.approx(expected, abs=1e-12)
    assert likeness(metric, text, text) <= 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_empty_texts_are_unlike_any_other(metric):
    assert likeness(metric, "", "something") == 0.0
    assert likeness(metric, "something", "") == 0.0
    assert likeness(metric, "", "") == (1.0 if metric == "fuzzy_match" else 0.0)


def longest_common_subsequence(a, b):
    @functools.cache
    def length(i, j):
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + length(i + 1, j + 1)
        return max(length(i + 1, j), length(i, j + 1))

    return length(0, 0)


@given(st.text("abc ", max_size=12), st.text("abc ", max_size=12))
def test_fuzzy_match_is_twice_the_common_subsequence_over_both_lengths(text, reference):
    total = len(text) + len(reference)
    expected = 2 * longest_common_subsequence(text, reference) / total if total else 1.0
    assert likeness("fuzzy_match", text, reference) == pytest.approx(expected)


@settings(max_examples=50)
@given(st.text(st.characters(codec="ascii")), st.text(st.characters(codec="ascii")))
def test_rouge_on_ascii_is_that_of_rouge_score_itself(text, reference):
    own = RougeScorer(["rouge1", "rougeL"]).score(reference, text)
    assert likeness("rouge_1", text, reference) == own["rouge1"].fmeasure
    assert likeness("rouge_l", text, reference) == own["rougeL"].fmeasure


WORDS = st.lists(st.sampled_from(["the", "cat", "cats", "Käse", ".", "\ud800", "\x00"])).map(
    " ".join
)


@settings(max_examples=60)
@given(WORDS | st.text(st.characters(exclude_categories=())), WORDS | st.text())
def test_every_metric_of_any_texts_lies_between_0_and_1(text, reference):
    for metric in METRICS:
        assert 0.0 <= likeness(metric, text, reference) <= 1.0
