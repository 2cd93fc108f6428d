"""Put the measured figures into docs/performance.md: tables between its markers, and two plots.

    .venv-bench/bin/python benchmarks/performance_page.py

Reads benchmarks/results/vs_trl.json. A marker is a pair of comments, `<!-- begin NAME -->` and
`<!-- end NAME -->`; what stands between them is replaced, the prose around them is left alone.
"""

import argparse
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot, ticker

ROOT = Path(__file__).resolve().parents[1]
_OURS, _TRL = "#1f6feb", "#9aa5b1"
_STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Number of seeds -> 0.975 quantile of Student's t with one degree of freedom fewer."""
_NOT_MEASURED = "Not measured."
_SCALE = "Seconds a step against group size, prompt length, prompts and model size"
_BY_THREADS = ("limits", "profile", "scale", "memory")
_Record = dict[str, Any]


def main() -> None:
    """Draw the plots, then fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/vs_trl.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/performance.md")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    images = options.page.parent / "images"
    images.mkdir(exist_ok=True)
    pyplot.switch_backend("agg")
    if results["workloads"]:
        _plot_speed(results["workloads"], images / "vs_trl.png")
    if results["learning"]:
        _plot_learning(results["learning"], images / "learning_vs_trl.png")
    page = options.page.read_text()
    for name, text in _sections(results).items():
        page = _replace(page, name, text)
    options.page.write_text(page)


def _sections(results: _Record) -> dict[str, str]:
    workloads, learning = results["workloads"], results["learning"]
    return {
        "setting": _setting(results),
        "gate": _gate(results["gate"]),
        "speed": "![Completions per second](images/vs_trl.png)\n\n" + _speed(workloads)
        if workloads
        else _NOT_MEASURED,
        "phases": _phases(workloads) if workloads else _NOT_MEASURED,
        "limits": _limits(results["limits"]) if results.get("limits") else _NOT_MEASURED,
        "llama": _llama(results["limits"]) if results.get("limits") else _NOT_MEASURED,
        "profile": _profile(results["profile"]) if results.get("profile") else _NOT_MEASURED,
        "scale": f"![{_SCALE}](images/scale.png)" if results.get("scale") else _NOT_MEASURED,
        "memory": _memory(results["memory"]) if results.get("memory") else _NOT_MEASURED,
        "learning": "![Reward against time](images/learning_vs_trl.png)\n\n" + _learning(learning)
        if learning
        else _NOT_MEASURED,
    }


def _replace(page: str, name: str, text: str) -> str:
    """Raises ValueError when the page lacks the markers."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"The page lacks '{begin}' and '{end}'.")
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page)


# --- tables ---------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def _spread(entry: _Record, name: str, form: str) -> str:
    """A median with its range."""
    low, high = entry[f"{name}_low"], entry[f"{name}_high"]
    return f"{entry[name]:{form}} ({low:{form}} to {high:{form}})"


def _setting(results: _Record) -> str:
    machine, versions = results["machine"], results["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    by_threads = [part for key in _BY_THREADS for part in results.get(key, {}).values()]
    parts = [*results["workloads"], *by_threads, *results["learning"]]
    commits = ", ".join(f"`{name[:12]}`" for name in sorted({part["commit"] for part in parts}))
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_mib']} MiB of memory; "
        f"{packages}; measured at commit {commits}."
    )


def _gate(records: list[_Record]) -> str:
    """The largest differences of each algorithm over all its cases."""
    rows = []
    for name in dict.fromkeys(record["algorithm"] for record in records):
        cases = [record for record in records if record["algorithm"] == name]
        loss = max(case["loss_difference"] for case in cases)
        gradient = max(case["gradient_difference"] for case in cases)
        passed = sum(case["passed"] for case in cases)
        rows.append([name, f"{loss:.1e}", f"{gradient:.1e}", f"{passed} of {len(cases)}"])
    return _table(["algorithm", "loss", "gradient", "cases that agree"], rows)


def _speed(workloads: list[_Record]) -> str:
    head = ["workload", "threads", "ours, completions/s", "TRL, completions/s", "ratio"]
    head += ["ours, s a step", "TRL, s a step", "ours, peak MiB", "TRL, peak MiB"]
    return _table(
        head,
        [
            [
                entry["name"],
                str(entry["threads"]),
                _spread(entry, "ours_completions_per_second", ".2f"),
                _spread(entry, "trl_completions_per_second", ".2f"),
                _spread(entry, "ratio", ".1f"),
                _spread(entry, "ours_seconds_per_step", ".1f"),
                _spread(entry, "trl_seconds_per_step", ".1f"),
                f"{entry['ours_peak_mib']:.0f}",
                f"{entry['trl_peak_mib']:.0f}",
            ]
            for entry in workloads
        ],
    )


def _phases(workloads: list[_Record]) -> str:
    head = ["workload", "side", "generated tokens/s", "sample", "grade", "learn"]
    head += ["groups with signal", "steps", "training micro-batch"]
    rows = []
    for entry in workloads:
        micro_batch = f"{entry['trl_micro_batch']} completions"
        for side, name, batch in (("ours", "ours", "by tokens"), ("trl", "TRL", micro_batch)):
            share = entry[f"{side}_share"]
            rows.append(
                [
                    entry["name"],
                    name,
                    _spread(entry, f"{side}_generated_tokens_per_second", ".0f"),
                    *(f"{100 * share[phase]:.0f} %" for phase in ("sample", "grade", "learn")),
                    f"{100 * entry[f'{side}_signal_share']:.0f} %",
                    str(entry["steps"]),
                    batch,
                ]
            )
    return _table(head, rows)


def _limits(limits: _Record) -> str:
    """Sampling and training beside their bounds, by thread count."""
    rows = []
    for by_threads in limits.values():
        threads = str(by_threads["setting"]["threads"])
        for count, entry in by_threads["sampling"].items():
            what, unit = f"sampling, {count} rows", "tokens"
            rows.append([what, threads, *_against_bound(entry, unit), entry["larger_bound"]])
        training = by_threads["training"]
        what = f"training, {training['nodes']} nodes"
        rows.append([what, threads, *_against_bound(training, "nodes"), "products"])
    return _table(
        ["what", "threads", "ours, a second", "bound, a second", "share", "bound by"], rows
    )


def _against_bound(entry: _Record, unit: str) -> list[str]:
    ours, bound = entry[f"{unit}_per_second"], entry[f"bound_{unit}_per_second"]
    share = {name: 100 * value for name, value in entry["share_of_bound"].items()}
    return [_range(ours, ".0f"), _range(bound, ".0f"), _range(share, ".0f") + " %"]


def _llama(limits: _Record) -> str:
    head = [
        "weights",
        "threads",
        "llama.cpp, tokens/s",
        "ours in fp32 over it",
        "equal greedy tokens",
    ]
    rows = [
        [
            name.upper(),
            str(by_threads["setting"]["threads"]),
            _range(entry["tokens_per_second"], ".0f"),
            _range(entry["ours_over_llama"], ".2f"),
            entry["equal_greedy_tokens"],
        ]
        for by_threads in limits.values()
        if isinstance(by_threads["llama_cpp"], dict)
        for name, entry in by_threads["llama_cpp"].items()
    ]
    return _table(head, rows) if rows else _NOT_MEASURED


def _profile(profiles: _Record) -> str:
    """Shares of a training step, by thread count."""
    kinds = list(next(iter(profiles.values()))["shares"])
    rows = [
        [
            str(by_threads["setting"]["threads"]),
            f"{by_threads['seconds']:.1f}",
            *(f"{100 * by_threads['shares'][kind]:.0f} %" for kind in kinds),
        ]
        for by_threads in profiles.values()
    ]
    return _table(["threads", "seconds", *kinds], rows)


def _memory(memory: _Record) -> str:
    """Peak against `microbatch_tokens`, then growth over the steps of a run."""
    tables = []
    for by_threads in memory.values():
        peaks = [
            [limit, f"{entry['before_mib']:.0f}", f"{entry['peak_mib']:.0f}"]
            for limit, entry in by_threads["microbatch_tokens"].items()
        ]
        tables.append(_table(["microbatch_tokens", "before, MiB", "peak of an update, MiB"], peaks))
        steps, tiny = by_threads["steps"], by_threads["steps_of_tiny_model"]
        tables.append(
            f"Resident memory after steps 1, 10 and 20 of a run: "
            f"{_at(steps['resident_mib'], 0, 9, 19)} MiB. Over 400 steps of a tiny model it grew "
            f"by {tiny['growth_mib_per_step_first_quarter']} MiB a step in the first quarter, "
            f"{tiny['growth_mib_per_step_last_quarter']} in the last."
        )
    return "\n\n".join(tables)


def _at(values: Sequence[float], *places: int) -> str:
    return ", ".join(f"{values[place]:.0f}" for place in places)


def _range(entry: _Record, form: str) -> str:
    """A median with its range, as `measuring.summary` keeps them."""
    return f"{entry['median']:{form}} ({entry['low']:{form}} to {entry['high']:{form}})"


def _learning(runs: list[_Record]) -> str:
    head = ["side", "seeds", "steps", "seconds", "reward, first three steps", "last three steps"]
    rows = []
    for side, name in (("ours", "ours"), ("trl", "TRL")):
        curves = [run[side] for run in runs]
        seconds = [curve["seconds"][-1] for curve in curves]
        first = [statistics.fmean(curve["reward"][:3]) for curve in curves]
        last = [statistics.fmean(curve["reward"][-3:]) for curve in curves]
        steps = str(len(curves[0]["reward"]))
        texts = [f"{statistics.fmean(seconds):.0f}", _interval_text(first), _interval_text(last)]
        rows.append([name, str(len(runs)), steps, *texts])
    return _table(head, rows)


def _interval_text(values: Sequence[float]) -> str:
    mean, half = _interval(values)
    return f"{mean:.3f} ± {half:.3f}"


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds, and half the width of its 95 % interval; 0 with a single seed."""
    count = len(values)
    if count < 2:
        return values[0], 0.0
    return statistics.fmean(values), _STUDENT_95[count] * statistics.stdev(values) / count**0.5


# --- plots ----------------------------------------------------------------------------------


def _plot_speed(workloads: list[_Record], path: Path) -> None:
    """Bars of completions per second, on a log scale, with the range of the steps."""
    figure, axes = pyplot.subplots(figsize=(7.5, 1.2 + 0.45 * len(workloads)), layout="constrained")
    for side, label, colour, shift in (("ours", "ours", _OURS, -0.2), ("trl", "TRL", _TRL, 0.2)):
        key = f"{side}_completions_per_second"
        medians = [entry[key] for entry in workloads]
        below = [entry[key] - entry[f"{key}_low"] for entry in workloads]
        above = [entry[f"{key}_high"] - entry[key] for entry in workloads]
        places = [i + shift for i in range(len(workloads))]
        axes.barh(places, medians, 0.38, xerr=[below, above], color=colour, label=label, capsize=2)
    for i, entry in enumerate(workloads):
        place = (entry["ours_completions_per_second_high"], i - 0.2)
        text = f"{entry['ratio']:.1f}x"
        axes.annotate(text, place, (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(workloads)), [entry["name"] for entry in workloads], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="completions a second, median and range")
    _log_axis(axes)
    axes.margins(x=0.1)
    axes.legend(fontsize=8, frameon=False)
    _finish(figure, axes, path)


def _plot_learning(runs: list[_Record], path: Path) -> None:
    """Mean training reward over the seeds, by the mean time at which a step ended."""
    figure, axes = pyplot.subplots(figsize=(7.5, 3.6), layout="constrained")
    for side, label, colour in (("ours", "ours", _OURS), ("trl", "TRL", _TRL)):
        curves = [run[side] for run in runs]
        steps = zip(*(curve["seconds"] for curve in curves), strict=True)
        seconds = [statistics.fmean(step) for step in steps]
        rewards = zip(*(curve["reward"] for curve in curves), strict=True)
        means, halves = zip(*map(_interval, rewards), strict=True)
        low = [max(0.0, mean - half) for mean, half in zip(means, halves, strict=True)]
        high = [min(1.0, mean + half) for mean, half in zip(means, halves, strict=True)]
        axes.plot(seconds, means, color=colour, marker=".", label=f"{label}, {len(runs)} seeds")
        axes.fill_between(seconds, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="seconds since the beginning", ylabel="mean training reward", ylim=(0, None))
    _log_axis(axes)
    axes.legend(fontsize=8, frameon=False)
    _finish(figure, axes, path)


def _log_axis(axes: Any) -> None:
    """Seconds or rates on a log scale, written as plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _finish(figure: Any, axes: Any, path: Path) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
