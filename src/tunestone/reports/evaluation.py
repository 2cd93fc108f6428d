"""A report of base against tuned in words and tables, from the record that report.json holds.

Terminal, Markdown and HTML draw what is made here, so all three say the same. Shares are percent,
their differences points; other scores are plain numbers. docs/evaluation.md explains each line.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NO_GAIN = "no relative gain (the base scored 0 or less)"
_SIGNIFICANT = 0.05  # two-sided; with few prompts an interval alone says too much
_MODELS = ("base", "tuned")
_FACTS = {
    "base_model": "base",
    "tuned_model": "tuned",
    "model": "model",
    "heldout": "held-out data",
    "reward": "reward",
    "seed": "seed",
    "steps": "steps",
    "best_step": "best step",
    "stopped": "stopped",
    "threads": "threads",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text under column names; the first column says what a row is about."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def number(value: float, *, share: bool, signed: bool = False) -> str:
    """A share as `42.3 %`, another score as `0.423`."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f} %" if share else f"{value:{sign}.3f}"


def interval(bounds: Sequence[float], *, share: bool, signed: bool = False) -> str:
    """`[36.4, 48.5]` for shares in percent, `[0.364, 0.485]` for other scores."""
    low, high = (number(bound, share=share, signed=signed).removesuffix(" %") for bound in bounds)
    return f"[{low}, {high}]"


def title(report: Mapping[str, Any]) -> str:
    """What was compared on how many prompts."""
    return f"{report['task']}: {report['n']} held-out prompts"


def verdict(report: Mapping[str, Any]) -> str:
    """What was shown, in one or two sentences; says so when nothing was."""
    gain = report["relative_gain"]
    share = _is_share(report)
    relative = f"relative gain {100 * gain:+.0f} %" if gain is not None else _NO_GAIN
    difference = number(report["difference"], share=share, signed=True)
    numbers = (
        f"Difference {difference.replace(' %', ' points')}, 95 % interval "
        f"{interval(report['difference_ci95'], share=share, signed=True)}, {relative}, "
        f"{report['test']} p = {report['p_value']:.2g} "
        f"({report['gained']} gained, {report['lost']} lost)."
    )
    low, high = report["difference_ci95"]
    if report["p_value"] <= _SIGNIFICANT and low > 0:
        return f"{numbers} The tuned model is better."
    if report["p_value"] <= _SIGNIFICANT and high < 0:
        return f"{numbers} The tuned model is WORSE."
    nothing = "Not significant: these prompts do not show a difference."
    needed = report["prompts_needed"]
    if needed is None:
        return f"{numbers} {nothing}"
    return (
        f"{numbers} {nothing} If the true one is as large as seen here, about {needed:,} prompts "
        "would be needed to show it (in four of five tries, at 5 %)."
    )


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Greedy answers, drawn ones where there are any, and one table per field sliced by."""
    return [_greedy(report), *_drawn(report), *(_slice(report, one) for one in report["slices"])]


def notes(report: Mapping[str, Any]) -> list[str]:
    """Sentences on what the numbers rest on."""
    said = [_contamination(report)]
    if report["slices"]:
        said.append(
            "Intervals of slices are not corrected for there being many: among twenty, one leaves "
            "out the truth by chance."
        )
    if len(report["regressions"]) > len(report["regression_records"]):
        shown = len(report["regression_records"])
        said.append(
            f"Of {len(report['regressions'])} prompts that got worse the {shown} that lost "
            "most are kept with both answers."
        )
    return said


def facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of where the report comes from, as far as it says."""
    return [
        (label, str(report[key])) for key, label in _FACTS.items() if report.get(key) is not None
    ]


def _is_share(report: Mapping[str, Any]) -> bool:
    return bool(report["score"] == "accuracy")


def _greedy(report: Mapping[str, Any]) -> Table:
    share = _is_share(report)
    change = _change(report, share=share)
    rows = []
    for name, key, bounds in (
        ("strict", "accuracy", "ci95"),
        ("lenient", "lenient_accuracy", "lenient_ci95"),
    ):
        if report["base"][key] is not None:
            scores = (_score(report[model], key, bounds) for model in _MODELS)
            rows.append((f"{name} {report['score']}", *scores, change if name == "strict" else ""))
    tokens, seconds = (report["cost"][f"{unit}_per_answer"] for unit in ("tokens", "seconds"))
    bounds = ", ".join(f"{bound:+.1f}" for bound in tokens["difference_ci95"])
    lengths = (f"{tokens[model]:.1f}" for model in _MODELS)
    rows.append(("mean tokens", *lengths, f"{tokens['difference']:+.1f} [{bounds}]"))
    if any(seconds[model] for model in _MODELS):
        rows.append(("mean seconds", *(f"{seconds[model]:.3f}" for model in _MODELS), ""))
    for label, key in (
        ("grades that failed (scored lowest)", "grade_errors"),
        ("lenient grades that failed", "lenient_grade_errors"),
    ):
        failed = [report[model][key] for model in _MODELS]
        if any(failed):
            rows.append((label, *map(str, failed), ""))
    return Table("Greedy answers", ("", *_MODELS, "difference"), rows)


def _drawn(report: Mapping[str, Any]) -> Iterator[Table]:
    drawn = report["drawn"]
    if drawn is None:
        return
    size = drawn["samples"]
    # Rewards of 0 and 1 make avg@k a share; only they have a pass@k.
    share = bool(drawn["base"]["pass"])
    averages = (_with_bounds(drawn[m]["avg"], drawn[m]["avg_ci95"], share) for m in _MODELS)
    rows = [(f"avg@{size}", *averages, _change(drawn, share=share))]
    for k in drawn["base"]["pass"]:
        if k != "1":  # the same as avg@k
            chances = (
                _with_bounds(drawn[m]["pass"][k], drawn[m]["pass_ci95"][k], share) for m in _MODELS
            )
            rows.append((f"pass@{k}", *chances, ""))
    failed = [drawn[model]["grade_errors"] for model in _MODELS]
    if any(failed):
        rows.append(("grades that failed (scored lowest)", *map(str, failed), ""))
    title = (
        f"{size} drawn answers to each of {drawn['prompts']} prompts "
        f"(temperature {drawn['temperature']:g})"
    )
    yield Table(title, ("", *_MODELS, "difference"), rows)


def _slice(report: Mapping[str, Any], one: Mapping[str, Any]) -> Table:
    share = _is_share(report)
    rows = [
        (
            row["value"],
            str(row["n"]),
            *(number(row[model], share=share) for model in _MODELS),
            _change(row, share=share),
        )
        for row in one["rows"]
    ]
    return Table(f"By {one['key']}", (one["key"], "prompts", *_MODELS, "difference"), rows)


def _contamination(report: Mapping[str, Any]) -> str:
    found = report["contamination"]
    if found is None:
        return "What the tuned model was trained on is not known here, so no leak was looked for."
    equal, near = found["equal"], found["near"]
    if not equal + near:
        return "No held-out prompt is in the training data, nor nearly."
    named = ", ".join(f"'{case['heldout']}'" for case in found["cases"][:3])
    return (
        f"LEAK: of {report['n']} held-out prompts {equal} are in the training data word for word "
        f"and {near} nearly ({named} among them). A gain on those proves little."
    )


def _score(summary: Mapping[str, Any], key: str, bounds: str) -> str:
    if summary[bounds] is None:
        return number(summary[key], share=False)
    return _with_bounds(summary[key], summary[bounds], share=True)


def _with_bounds(value: float, bounds: Sequence[float], share: bool) -> str:
    return f"{number(value, share=share)} {interval(bounds, share=share)}"


def _change(part: Mapping[str, Any], *, share: bool) -> str:
    """The difference with its interval, in points where the scores are percent."""
    value = number(part["difference"], share=share, signed=True).removesuffix(" %")
    return f"{value} {interval(part['difference_ci95'], share=share, signed=True)}"
