"""How alike two texts are, from 0 to 1: the metrics of OpenAI's `text_similarity` grader.

| metric | by | on |
| --- | --- | --- |
| `fuzzy_match` | rapidfuzz: Indel similarity | characters |
| `bleu` | sacrebleu: sentence BLEU, exponential smoothing, effective order | 13a tokens |
| `gleu` | nltk: Google-BLEU, 1- to 4-grams | words and punctuation marks |
| `meteor` | nltk: METEOR, alpha 0.9, beta 3, gamma 0.5 | words and punctuation marks |
| `rouge_1` .. `rouge_5`, `rouge_l` | rouge-score: F-measure, no stemmer | lower-case words |

OpenAI names rapidfuzz and no other library, so the other metrics are the field's usual ones and may
differ from OpenAI's in the third digit. Two departures from the libraries' defaults: METEOR matches
synonyms only where WordNet's corpus is installed for nltk (`meteor_uses_synonyms`; nothing is ever
downloaded), and ROUGE counts words of every script, where rouge-score alone would drop all but
a-z and 0-9 and give any two Greek texts a zero.

The libraries are imported when they are first needed. Left out: `cosine`, which needs an embedding
service and is not allowed for reinforcement fine-tuning at OpenAI either.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")
_MOST_PAIRS = {"fuzzy_match": 4e9, "rouge_l": 1e8, "meteor": 1e8}
"""Metric -> longest text x longest reference, in characters: a fraction of a second, or a few."""
_WORD = re.compile(r"[^\W_]+")


def fuzzy_match(text: str, reference: str) -> float:
    """2 x longest common subsequence / characters of both; 1 for two empty texts."""
    from rapidfuzz import fuzz

    return fuzz.ratio(text, reference) / 100


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU (Papineni et al. 2002), smoothed as in Chen and Cherry 2014, method 3."""
    # The score of two equal texts may be 100.00000000000004.
    return min(float(_bleu().sentence_score(text, [reference]).score) / 100, 1.0)


def gleu(text: str, reference: str) -> float:
    """The smaller of n-gram precision and recall, n from 1 to 4 (Wu et al. 2016)."""
    from nltk.translate.gleu_score import sentence_gleu

    words, reference_words = _WORD_OR_MARK.findall(text), _WORD_OR_MARK.findall(reference)
    return float(sentence_gleu([reference_words], words)) if words and reference_words else 0.0


def meteor(text: str, reference: str) -> float:
    """METEOR (Lavie and Agarwal 2007): matched words, weighted to recall, less for disorder.

    By its definition n equal words score 1 - 0.5 / n^3: one word that is right gets 0.5.
    """
    from nltk.translate.meteor_score import single_meteor_score

    words, reference_words = _WORD_OR_MARK.findall(text), _WORD_OR_MARK.findall(reference)
    return float(single_meteor_score(reference_words, words, wordnet=_synonyms()))


def meteor_uses_synonyms() -> bool:
    """Whether METEOR also matches synonyms here: nltk finds WordNet's corpus on this machine."""
    return not isinstance(_synonyms(), _NoSynonyms)


def rouge(text: str, reference: str, *, kind: str) -> float:
    """F-measure of ROUGE (Lin 2004); `kind` is `rouge1` .. `rouge5` for n-grams or `rougeL`."""
    return float(_rouge(kind).score(reference, text)[kind].fmeasure)


def too_long(metric: str, text: str, reference: str) -> bool:
    """Whether the comparison would take minutes, or gigabytes: some grow with the product of both
    lengths, and nothing can interrupt them."""
    return len(text) * len(reference) > _MOST_PAIRS.get(metric, math.inf)


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    **{f"rouge_{n}": functools.partial(rouge, kind=f"rouge{n}") for n in range(1, 6)},
    "rouge_l": functools.partial(rouge, kind="rougeL"),
}
"""Metric by OpenAI's name for it: (text, reference) -> 0 .. 1."""


class _NoSynonyms:
    """Stands in for WordNet: no word has a synonym."""

    def synsets(self, word: str) -> list[Any]:
        return []


class _Words:
    """The tokenizer of rouge-score for all scripts; the same as its own on ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@functools.cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)


@functools.cache
def _rouge(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=_Words())


@functools.cache
def _synonyms() -> Any:
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return _NoSynonyms()
    return wordnet
