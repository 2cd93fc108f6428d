"""Completions as coloured pieces: how sure the model was of each token.

Tokens are numbers in the logs; their texts come from the tokenizer that the run's own result or
checkpoints hold, or the model's folder. Without one a text is coloured as a whole.
"""

import statistics
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tunestone.runlog import CHECKPOINT_RESULT, RunFolder, checkpoint_path, checkpoint_steps

_SURPRISE = (0.05, 0.5, 1.5, 3.0, 6.0)
"""Nats from which on the next darker shade is used: probabilities 0.95, 0.6, 0.22, 0.05, 0.0025."""
_CHANGE = (0.25, 1.0, 2.5)
"""The same for changes, either way."""
_BROKEN = "\ufffd"

Record = Mapping[str, Any]
Change = tuple[float, int] | None
"""(log-probability now minus then, step of then)."""


def find_tokenizer(run: RunFolder) -> Tokenizer | None:
    """The run's tokenizer, None when it is not at hand."""
    folders = [run.adapter]
    for step in reversed(checkpoint_steps(run.checkpoints)):
        folders.append(checkpoint_path(run.checkpoints, step) / CHECKPOINT_RESULT)
    folders.append(Path(run.config()["config"]["model"]))
    for folder in folders:
        path = folder / "tokenizer.json"
        if path.is_file():
            return _load(path, path.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=4)
def _load(path: Path, changed: int) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def token_pieces(
    record: Record, tokenizer: Tokenizer | None, changes: Sequence[Change] | None = None
) -> list[dict[str, Any]]:
    """The completion's text in pieces, each with its shade and what to say about it.

    Shades are 0 (sure) to 5 (surprised); with `changes` -3 (less likely than before) to 3. Without
    a tokenizer there is one piece, with the mean.
    """
    logprobs = record["logprobs"]
    if tokenizer is None:
        return [_mean_piece(record, logprobs)]
    pieces = []
    for start, end, text in _texts(tokenizer, record["tokens"]):
        logprob = sum(logprobs[start:end])
        piece = {"text": text, "logprob": logprob, "shade": _step(-logprob, _SURPRISE)}
        if changes is not None:
            known = [change for change in changes[start:end] if change is not None]
            change = sum(value for value, _ in known) if len(known) == end - start else None
            piece["change"] = change
            piece["since"] = known[0][1] if change is not None else None
            piece["shade"] = 0 if change is None else _signed_step(change)
        pieces.append(piece)
    return pieces


def _mean_piece(record: Record, logprobs: Sequence[float]) -> dict[str, Any]:
    mean = sum(logprobs) / len(logprobs) if logprobs else 0.0
    return {"text": record["text"], "logprob": mean, "shade": _step(-mean, _SURPRISE)}


def _step(value: float, bounds: Sequence[float]) -> int:
    return sum(value >= bound for bound in bounds)


def _signed_step(change: float) -> int:
    return _step(abs(change), _CHANGE) * (1 if change > 0 else -1)


def _texts(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[tuple[int, int, str]]:
    """(first token, one past the last, text); several where a character is spread over them.

    A text is what its tokens add to the one before: some decoders drop a leading space.
    """
    added = tokenizer.get_added_tokens_decoder()
    pieces = []
    start, before = 0, 0
    for end in range(1, len(tokens) + 1):
        token = tokens[end - 1]
        if token in added:
            text = added[token].content
        else:
            context = tokenizer.decode(tokens[before:start], skip_special_tokens=True)
            text = tokenizer.decode(tokens[before:end], skip_special_tokens=True)[len(context) :]
            if text.endswith(_BROKEN) and end < len(tokens):
                continue
        pieces.append((start, end, text))
        before, start = start, end
    return pieces


def find_changes(record: Record, others: Sequence[Record]) -> list[Change]:
    """For each token how its log-probability has changed since an earlier step drew the same.

    Two log-probabilities may be compared where everything before the token is the same as well.
    `others` are completions of the same prompt; the earliest that shares the beginning counts.
    """
    tokens, logprobs = record["tokens"], record["logprobs"]
    changes: list[Change] = [None] * len(tokens)
    for other in sorted(others, key=lambda other: int(other["step"])):
        if other["step"] >= record["step"]:
            break
        pairs = zip(tokens, other["tokens"], strict=False)
        for i, (mine, theirs) in enumerate(pairs):
            if mine != theirs:
                break
            if changes[i] is None:
                changes[i] = (logprobs[i] - other["logprobs"][i], other["step"])
    return changes


def mean_change(changes: Sequence[Change]) -> float | None:
    """Mean over the tokens that can be compared, in nats; None when there is none."""
    known = [value for value, _ in filter(None, changes)]
    return statistics.fmean(known) if known else None
