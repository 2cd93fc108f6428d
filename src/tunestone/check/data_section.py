"""The section `data`: rows, repeats, leaks, lengths, reference answers, markers, tools.

Bounds on size are those of the services (Bedrock 100 to 20,000 rows, OpenAI up to 50,000 and 1,000
for validation) and of AWS's advice (200 to 5,000 as a rule); nothing here needs them, so they warn.
The bounds on repeats are ours. What the rows hold besides their prompts is
looked at in row_checks.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from tunestone.check.answers import whole_text
from tunestone.check.findings import EVIDENCE, Finding, Json, Section, counted, excerpt, percent
from tunestone.check.lengths import Lengths, histogram, quantile
from tunestone.check.row_checks import (
    check_answers,
    check_balance,
    check_markers,
    check_tools,
    ids_of,
    key_of,
)
from tunestone.data import find_overlap
from tunestone.duplicates import THRESHOLD, NearPair, find_equal, find_near, prompt_text
from tunestone.rows import message_key
from tunestone.types import Prompt

LEAST_ROWS, MOST_ROWS, MOST_ROWS_OPENAI = 100, 20_000, 50_000
FEW_ROWS, USUAL_ROWS = 200, 10_000

Evidence = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class DataSet:
    """The prompts of a training, as loaded."""

    training: Sequence[Prompt]
    validation: Sequence[Prompt] = ()
    test: Sequence[Prompt] = ()

    def heldout(self) -> list[tuple[str, Sequence[Prompt]]]:
        """The parts that are not trained on and not empty, by name."""
        parts = (("validation", self.validation), ("test", self.test))
        return [(name, prompts) for name, prompts in parts if prompts]


def check_data(data: DataSet, lengths: Lengths, *, reward_source: str = "") -> Section:
    """Look at the rows; `reward_source` is the reward's Python source or its spec as JSON.

    Leave it empty for judges, whose texts speak of markers that answers need not have.
    """
    near = _find_near(data)
    looks = (
        _check_size(data),
        _check_repeats(data.training, near),
        _check_leaks(data, near),
        check_answers(data.training),
        check_balance(data.training),
        check_markers(data.training, reward_source),
        check_tools(data.training),
        _check_lengths(data.training, lengths),
    )
    answers = lengths.answers_P
    return Section(
        "data",
        tuple(chain.from_iterable(looks)),
        facts=_facts(data, lengths),
        bars=(
            histogram("Prompt lengths (tokens)", lengths.prompts_P),
            *([histogram("Reference answer lengths (tokens)", answers)] if answers else []),
        ),
    )


def _facts(data: DataSet, lengths: Lengths) -> dict[str, Json]:
    facts: dict[str, Json] = {"rows": len(data.training)}
    facts |= {f"{name}_rows": len(prompts) for name, prompts in data.heldout()}
    measured = (("prompt", lengths.prompts_P), ("reference_answer", lengths.answers_P))
    for name, tokens_P in measured:
        if tokens_P:
            facts |= {
                f"{name}_tokens_p50": quantile(tokens_P, 0.5),
                f"{name}_tokens_p99": quantile(tokens_P, 0.99),
                f"{name}_tokens_longest": max(tokens_P),
            }
    facts["recommended_max_prompt_tokens"] = lengths.max_prompt_tokens
    facts["recommended_max_completion_tokens"] = lengths.max_completion_tokens
    return facts


def _check_size(data: DataSet) -> Iterator[Finding]:
    yield _judge_rows(len(data.training))
    validation = len(data.validation)
    if not validation and len({message_key(prompt) for prompt in data.training}) == 1:
        yield Finding(
            "fatal",
            "nothing_to_validate_on",
            "There are no validation rows, and none can be split off: "
            + (
                "all training prompts are equal."
                if len(data.training) > 1
                else "there is only one training row."
            ),
            "Add rows that differ, or name a validation file with --validation.",
        )
    elif not validation:
        yield Finding(
            "advice",
            "no_validation_rows",
            "There are no validation rows; a tenth of the training rows, 64 at most, will be "
            "split off.",
            "Name a file of your own with --validation: 100 rows or more choose better.",
        )
    elif validation < LEAST_ROWS:
        yield Finding(
            "advice",
            "few_validation_rows",
            f"{counted(validation, 'validation row')}; the services recommend {LEAST_ROWS} or "
            "more.",
            "Add rows: with few, the best checkpoint is chosen by chance.",
        )
    elif validation > 1_000:
        yield Finding(
            "advice",
            "many_validation_rows",
            f"{validation:,} validation rows; OpenAI takes at most 1,000.",
            "Fewer rows make every validation faster.",
        )


def _judge_rows(rows: int) -> Finding:
    have = counted(rows, "training row")
    if rows < LEAST_ROWS:
        return Finding(
            "warning",
            "too_few_rows",
            f"{have}; the services want {LEAST_ROWS} at least.",
            "It trains here, but may generalise poorly. Collect 100 to 200 rows to begin with.",
        )
    if rows < FEW_ROWS:
        return Finding(
            "advice",
            "few_rows",
            f"{have}: enough to try prompts and reward.",
            "200 to 5,000 are usual, 5,000 to 10,000 for complex reasoning or rubrics.",
        )
    if rows > MOST_ROWS:
        return Finding(
            "warning",
            "too_many_rows",
            f"{have}; Bedrock takes {MOST_ROWS:,} at most, OpenAI {MOST_ROWS_OPENAI:,}.",
            "Take a sample if the data is to train there too; many tasks need far fewer.",
        )
    if rows > USUAL_ROWS:
        return Finding(
            "advice",
            "many_rows",
            f"{have}, more than AWS's advice of 100 to {USUAL_ROWS:,}.",
            "Begin with a few hundred and scale on evidence.",
        )
    return Finding("ok", "row_count", f"{have}.")


def _find_near(data: DataSet) -> list[NearPair]:
    """Near-duplicates over all parts at once, training first."""
    return find_near([prompt_text(prompt) for prompt in _all_rows(data)])


def _all_rows(data: DataSet) -> list[Prompt]:
    return [*data.training, *(prompt for _, part in data.heldout() for prompt in part)]


def _check_repeats(training: Sequence[Prompt], near: Sequence[NearPair]) -> Iterator[Finding]:
    equal = find_equal(training)
    extra = sum(len(group) - 1 for group in equal)
    if extra:
        yield Finding(
            "warning",
            "duplicate_prompts",
            f"{extra} of {counted(len(training), 'training prompt')} "
            f"{'repeats' if extra == 1 else 'repeat'} an earlier one word for word.",
            "Remove them: they weigh double, and may end up on both sides of a split.",
            tuple(ids_of([training[i] for i in group]) for group in equal[:EVIDENCE]),
        )
    yield from _contradictions(training, equal)
    group_of = {i: number for number, group in enumerate(equal) for i in group}
    inside = [
        pair
        for pair in near
        if pair.second < len(training)
        and group_of.get(pair.first, -1) != group_of.get(pair.second, -2)
    ]
    rows = {pair.second for pair in inside}
    if rows:
        yield Finding(
            "warning" if len(rows) > 0.05 * len(training) else "advice",
            "near_duplicate_prompts",
            f"{len(rows)} of {counted(len(training), 'training prompt')} nearly "
            f"{'repeats' if len(rows) == 1 else 'repeat'} an earlier one "
            f"(the same numbers, {percent(THRESHOLD)} or more of the word triples).",
            "Keep one of each where they ask the same.",
            tuple(_pair(training, pair) for pair in inside[:EVIDENCE]),
        )
    if not extra and not rows:
        yield Finding("ok", "no_repeats", "No training prompt repeats another, nor nearly.")


def _contradictions(training: Sequence[Prompt], equal: list[list[int]]) -> Iterator[Finding]:
    torn = []
    for group in equal:
        answers = {key_of(training[i].row.get("reference_answer")) for i in group}
        if len(answers) > 1:
            torn.append([training[i] for i in group])
    if torn:
        yield Finding(
            "warning",
            "contradicting_answers",
            f"{counted(len(torn), 'prompt')} {'occurs' if len(torn) == 1 else 'occur'} more than "
            "once with different reference answers: no answer can satisfy both.",
            "Decide which answer is right, or put into the prompt what tells them apart.",
            tuple(
                {**ids_of(rows), "reference_answers": [_short(row) for row in rows[:EVIDENCE]]}
                for rows in torn[:EVIDENCE]
            ),
        )


def _check_leaks(data: DataSet, near: Sequence[NearPair]) -> Iterator[Finding]:
    rows, start = _all_rows(data), len(data.training)
    for name, prompts in data.heldout():
        exact = find_overlap(data.training, prompts)
        leaked = {heldout for _, heldout in exact}
        places = range(start, start + len(prompts))
        alike = [
            pair
            for pair in near
            if pair.first < len(data.training)
            and pair.second in places
            and rows[pair.second].id not in leaked
        ]
        start += len(prompts)
        if leaked:
            yield Finding(
                "fatal",
                f"{name}_leak",
                f"{len(leaked)} of {counted(len(prompts), f'{name} prompt')} "
                f"{'is' if len(leaked) == 1 else 'are'} also trained on: a gain there "
                "would prove nothing.",
                "Remove them from one of the two files.",
                tuple({"training": a, name: b} for a, b in exact[:EVIDENCE]),
            )
        if alike:
            count = len({pair.second for pair in alike})
            yield Finding(
                "warning",
                f"{name}_near_leak",
                f"{count} of {counted(len(prompts), f'{name} prompt')} nearly "
                f"{'repeats' if count == 1 else 'repeat'} a training prompt.",
                "Remove those that ask the same, or split so that such rows stay together.",
                tuple(_pair(rows, pair) for pair in alike[:EVIDENCE]),
            )
        if not leaked and not alike:
            yield Finding("ok", f"no_{name}_leak", f"No {name} prompt is trained on, nor nearly.")
    yield from _check_overlap(data)


def _check_overlap(data: DataSet) -> Iterator[Finding]:
    """Validation chooses the checkpoint, so its prompts prove nothing in the test."""
    shared = find_overlap(data.validation, data.test)
    if shared:
        count = len({test for _, test in shared})
        yield Finding(
            "fatal",
            "validation_test_overlap",
            f"{count} of {counted(len(data.test), 'test prompt')} {'is' if count == 1 else 'are'} "
            "also in validation, which chooses the checkpoint.",
            "Remove them from one of the two files.",
            tuple({"validation": a, "test": b} for a, b in shared[:EVIDENCE]),
        )


def _check_lengths(training: Sequence[Prompt], lengths: Lengths) -> Iterator[Finding]:
    limit, completion = lengths.max_prompt_tokens, lengths.max_completion_tokens
    too_long = [
        (prompt, n) for prompt, n in zip(training, lengths.prompts_P, strict=True) if n > limit
    ]
    answers = (
        f"max_completion_tokens = {completion} (3 x P99 of the reference answers)"
        if completion
        else "max_completion_tokens cannot be told from reference answers that are bare or missing"
    )
    yield Finding(
        "advice" if too_long else "ok",
        "long_prompts" if too_long else "lengths",
        f"max_prompt_tokens = {limit} (2 x P99 of the prompts); {answers}."
        + (
            f" Longer prompts are left out: {len(too_long)} of {len(training)}." if too_long else ""
        ),
        "Shorten these rows, or raise max_prompt_tokens to keep them." if too_long else "",
        tuple({"id": prompt.id, "tokens": n} for prompt, n in too_long[:EVIDENCE]),
    )


def _pair(rows: Sequence[Prompt], pair: NearPair) -> Evidence:
    first, second = rows[pair.first], rows[pair.second]
    return {
        **ids_of([first, second]),
        "similarity": round(pair.similarity, 3),
        "first": excerpt(prompt_text(first)),
        "second": excerpt(prompt_text(second)),
    }


def _short(prompt: Prompt) -> str:
    return excerpt(whole_text(prompt.row.get("reference_answer")))
