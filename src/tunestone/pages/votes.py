"""Blind preference: two answers, sides drawn at random, and what people like better.

The page does not know which side is which. A side follows from a key of this process, the pair and
a number that is drawn for each showing; the vote brings the number back, signed, and only then are
the names found: once for each showing. Votes are lines of votes.jsonl in the run folder; a vote
counts while both texts are those that were shown.
"""

import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tunestone.errors import ConfigError
from tunestone.pages.answers import Answers, Pair, read_answers
from tunestone.runlog import RunFolder, append_lines, read_lines

CHOICES = ("left", "right", "equal")
_KEY = secrets.token_bytes(32)


def show_vote(run: RunFolder) -> dict[str, Any]:
    """The next pair and what came of the votes so far. Pairs with equal texts are not asked."""
    answers = read_answers(run)
    different = _different(answers)
    votes = _counted(run, different)
    shown: dict[str, Any] | None = None
    if different:
        pair = _next_pair(different, votes)
        number = secrets.token_hex(8)
        showing = f"{number}.{_tag(pair, number)}"
        texts = (pair.base, pair.tuned)
        left, right = texts if _base_is_left(pair, showing) else texts[::-1]
        shown = {
            "prompt": pair.prompt,
            "pair": pair.fingerprint,
            "showing": showing,
            "left": left,
            "right": right,
        }
    return {
        "source": answers.source,
        "shown": shown,
        "pairs": len(different),
        "equal_texts": len(answers.pairs) - len(different),
        "result": count_votes(votes),
    }


def vote(run: RunFolder, *, pair: str, showing: str, choice: str) -> None:
    """Keep one vote. Raises ConfigError when the pair or the choice is none."""
    if choice not in CHOICES:
        raise ConfigError(f"'{choice}' is no vote.", remedy=f"Use one of {', '.join(CHOICES)}.")
    chosen = [p for p in _different(read_answers(run)) if p.fingerprint == pair]
    if not chosen:
        raise ConfigError("These answers are no longer the run's.", remedy="Load the page again.")
    number, _, tag = showing.partition(".")
    if not hmac.compare_digest(tag.encode(), _tag(chosen[0], number).encode()):
        raise ConfigError("This page is from an earlier start.", remedy="Load the page again.")
    if any(earlier.get("showing") == showing for earlier in read_lines(run.path / "votes.jsonl")):
        raise ConfigError("This showing has its vote already.", remedy="Load the page again.")
    left = "base" if _base_is_left(chosen[0], showing) else "tuned"
    right = "tuned" if left == "base" else "base"
    record = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "prompt_id": chosen[0].prompt["id"],
        "pair": pair,
        "showing": showing,
        "left": left,
        "choice": choice,
        "preferred": {"left": left, "right": right}.get(choice),
    }
    append_lines(run.path / "votes.jsonl", [record])


def count_votes(votes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tuned model's share of the votes that preferred one, with Wilson's 95 % interval."""
    from tunestone import stats  # not earlier: numpy is behind it, which a server may never need

    preferred = Counter(vote["preferred"] for vote in votes)
    tuned, base = preferred["tuned"], preferred["base"]
    decided = tuned + base
    return {
        "votes": len(votes),
        "tuned": tuned,
        "base": base,
        "equal": preferred[None],
        "win_rate": tuned / decided if decided else None,
        "win_rate_ci95": list(stats.wilson_interval(tuned, decided)) if decided else None,
    }


def _different(answers: Answers) -> list[Pair]:
    return [pair for pair in answers.pairs if pair.base.strip() != pair.tuned.strip()]


def _counted(run: RunFolder, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    known = {pair.fingerprint for pair in pairs}
    return [vote for vote in read_lines(run.path / "votes.jsonl") if vote["pair"] in known]


def _next_pair(pairs: Sequence[Pair], votes: Sequence[Mapping[str, Any]]) -> Pair:
    """One of those with the fewest votes, at random."""
    asked = Counter(vote["pair"] for vote in votes)
    fewest = min(asked[pair.fingerprint] for pair in pairs)
    return secrets.choice([pair for pair in pairs if asked[pair.fingerprint] == fewest])


def _base_is_left(pair: Pair, showing: str) -> bool:
    return _digest("side", pair, showing)[0] % 2 == 0


def _tag(pair: Pair, number: str) -> str:
    return _digest("showing", pair, number).hex()


def _digest(purpose: str, pair: Pair, text: str) -> bytes:
    return hmac.digest(_KEY, f"{purpose}/{pair.fingerprint}/{text}".encode(), hashlib.sha256)
