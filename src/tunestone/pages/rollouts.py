"""The page of a step's completions, and the page that follows one prompt through training."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tokenizers import Tokenizer

from tunestone.pages.prompts import show_prompt, training_prompts, validation_prompts
from tunestone.pages.samples import ALL_STEPS, SORTS, Entry, SampleIndex, order, read_wanted
from tunestone.pages.tokens import (
    Change,
    find_changes,
    find_tokenizer,
    mean_change,
    token_pieces,
)
from tunestone.runlog import RunFolder, read_lines
from tunestone.types import Prompt

_PER_PAGE = 32
"""Completions; groups are shown whole."""

Record = dict[str, Any]
Changes = Mapping[int, Sequence[Change]]
"""Of completions, by their place in the log."""


def rollouts(run: RunFolder, index: SampleIndex, query: Mapping[str, str]) -> dict[str, Any]:
    """What `query` asks for of a run's completions. Raises ConfigError for what is none."""
    entries = index.entries()
    steps = sorted({entry.step for entry in entries})
    wanted = read_wanted(query, steps)
    taken = [entry for entry in entries if wanted.takes(entry)]
    if wanted.text:
        taken = _with_text(index, taken, wanted.text)
    changes = _changes(index, entries, taken) if wanted.sort == "changed" else None
    ordered = order(taken, wanted.sort) if changes is None else _by_change(taken, changes)
    pages = _pages(ordered, grouped=wanted.sort == "group")
    wanted = replace(wanted, page=min(wanted.page, len(pages)))
    tokenizer = find_tokenizer(run)
    shown = _completions(index, pages[wanted.page - 1], tokenizer, changes)
    prompts = training_prompts(run)
    if wanted.sort == "group":
        groups = _groups(shown, prompts)
    else:
        for completion in shown:
            completion["prompt"] = show_prompt(prompts, completion["prompt_id"])
        groups = []
    return {
        "steps": steps,
        "sorts": dict(SORTS),
        "wanted": {**asdict(wanted), "step": ALL_STEPS if wanted.step is None else wanted.step},
        "coloured_by": _coloured_by(tokenizer, changes=changes is not None),
        "comparable": sum(map(any, (changes or {}).values())),
        "total": sum(wanted.step in (None, entry.step) for entry in entries),
        "found": len(taken),
        "pages": len(pages),
        "groups": groups,
        "completions": [] if groups else shown,
    }


def _with_text(index: SampleIndex, entries: Sequence[Entry], text: str) -> list[Entry]:
    """Those whose text, error or prompt id holds `text`, whatever its case."""
    sought = text.casefold()
    found = []
    for entry in entries:
        for record in index.records([entry]):
            parts = (record["text"], record["error"] or "", record["prompt_id"])
            if any(sought in part.casefold() for part in parts):
                found.append(entry)
    return found


def _pages(entries: Sequence[Entry], *, grouped: bool) -> list[list[Entry]]:
    """At least one page; a group is never spread over two."""
    pages: list[list[Entry]] = [[]]
    for entry in entries:
        full = len(pages[-1]) >= _PER_PAGE
        inside = grouped and pages[-1] and pages[-1][-1].prompt_id == entry.prompt_id
        if full and not inside:
            pages.append([])
        pages[-1].append(entry)
    return pages


def _changes(index: SampleIndex, entries: Sequence[Entry], taken: Sequence[Entry]) -> Changes:
    """What has changed in each of `taken` since earlier steps drew the same."""
    wanted, offsets = {entry.prompt_id for entry in taken}, {entry.offset for entry in taken}
    pairs = index.pairs([entry for entry in entries if entry.prompt_id in wanted])
    earlier: dict[str, list[Record]] = {prompt_id: [] for prompt_id in wanted}
    for entry, record in pairs:
        earlier[entry.prompt_id].append(record)
    return {
        entry.offset: find_changes(record, earlier[entry.prompt_id])
        for entry, record in pairs
        if entry.offset in offsets
    }


def _by_change(entries: Sequence[Entry], changes: Changes) -> list[Entry]:
    """The most changed first, either way; those that nothing can be compared with stand last."""
    means = {entry.offset: mean_change(changes.get(entry.offset, ())) for entry in entries}

    def place(entry: Entry) -> tuple[bool, float]:
        mean = means[entry.offset]
        return mean is None, -abs(mean or 0.0)

    return sorted(entries, key=place)


def _coloured_by(tokenizer: Tokenizer | None, *, changes: bool) -> str:
    return "texts" if tokenizer is None else "changes" if changes else "tokens"


def _completions(
    index: SampleIndex,
    entries: Sequence[Entry],
    tokenizer: Tokenizer | None,
    changes: Changes | None,
) -> list[Record]:
    shown = []
    for entry, record in index.pairs(entries):
        changed = None if changes is None else changes.get(entry.offset, ())
        shown.append(_completion(record, token_pieces(record, tokenizer, changed), changed))
    return shown


def _completion(
    record: Record, pieces: list[Record], changed: Sequence[Change] | None = None
) -> Record:
    """A completion as the pages show it."""
    return {
        **{key: value for key, value in record.items() if key not in ("tokens", "logprobs")},
        "length": len(record["tokens"]),
        "pieces": pieces,
        "change": None if changed is None else mean_change(changed),
    }


def _groups(completions: Sequence[Record], prompts: Mapping[str, Prompt]) -> list[Record]:
    """The completions by prompt, in their order; a prompt that is drawn twice is two groups."""
    groups: list[Record] = []
    for completion in completions:
        prompt_id, index = completion["prompt_id"], completion["index"]
        last = groups[-1] if groups else None
        if (
            last is None
            or last["prompt"]["id"] != prompt_id
            or last["completions"][-1]["index"] >= index
        ):
            groups.append({"prompt": show_prompt(prompts, prompt_id), "completions": []})
        groups[-1]["completions"].append(completion)
    for group in groups:
        rewards = [c["reward"] for c in group["completions"] if c["reward"] is not None]
        group["reward_mean"] = statistics.fmean(rewards) if rewards else None
        group["has_signal"] = any(c["advantage"] for c in group["completions"])
    return groups


def follow_prompt(
    run: RunFolder, index: SampleIndex, prompt_id: str, *, changes: bool
) -> dict[str, Any]:
    """All completions of one training prompt, step by step.

    `changes`: colour by how a token's log-probability has changed since an earlier step drew the
    same beginning; else by the log-probability itself.
    """
    records = index.records([e for e in index.entries() if e.prompt_id == prompt_id])
    tokenizer = find_tokenizer(run)
    by_step: dict[int, list[Record]] = {}
    comparable = 0
    for record in records:
        changed = find_changes(record, records) if changes and tokenizer else None
        comparable += sum(change is not None for change in changed or ())
        shown = _completion(record, token_pieces(record, tokenizer, changed), changed)
        by_step.setdefault(record["step"], []).append(shown)
    return {
        "prompt": show_prompt(training_prompts(run), prompt_id),
        "coloured_by": _coloured_by(tokenizer, changes=changes),
        "comparable_tokens": comparable,
        "steps": [
            {"step": step, "reward_mean": _mean_reward(group), "completions": group}
            for step, group in sorted(by_step.items())
        ],
    }


def follow_validation(run: RunFolder, prompt_id: str) -> dict[str, Any]:
    """The greedy answers to one validation prompt, step by step; step 0 is the base."""
    answers = [a for a in read_lines(run.validation) if a["prompt_id"] == prompt_id]
    return {
        "prompt": show_prompt(validation_prompts(run), prompt_id),
        "answers": sorted(answers, key=lambda answer: int(answer["step"])),
    }


def _mean_reward(completions: Sequence[Record]) -> float | None:
    rewards = [c["reward"] for c in completions if c["reward"] is not None]
    return statistics.fmean(rewards) if rewards else None
