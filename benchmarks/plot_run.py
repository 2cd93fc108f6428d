"""Draw the reward of a run as an SVG: training, validation, and the held-out result.

.venv/bin/python benchmarks/plot_run.py RUN docs/images/quickstart.svg
"""

import sys
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from tunestone.runlog import RunFolder, read_lines


def main(run_path: str, image: str) -> None:
    """Read the run folder and write the image."""
    pyplot.switch_backend("agg")
    matplotlib.rcParams["svg.hashsalt"] = "tunestone"  # the same run gives the same file
    run = RunFolder.open(Path(run_path))
    steps = read_lines(run.metrics)
    events = read_lines(run.events)
    report = run.report()
    figure, axes = pyplot.subplots(figsize=(7.5, 3.6), layout="constrained")
    axes.plot(
        [record["step"] for record in steps],
        [record["reward_mean"] for record in steps],
        color="#9aa5b1",
        marker=".",
        label="training reward (sampled, this step's prompts)",
    )
    start = [(0, e["validation_reward"]) for e in events if e["kind"] == "base_validated"][-1:]
    validated = [(r["step"], r["validation_reward"]) for r in steps if "validation_reward" in r]
    axes.plot(
        *zip(*start, *validated, strict=True), color="#1f6feb", marker="o", label="validation"
    )
    if report is not None:
        last = steps[-1]["step"]
        for step, name, colour in ((0, "base", "#d9480f"), (last, "tuned", "#2b8a3e")):
            scores = report[name]
            low, high = scores["ci95"]
            value = scores["accuracy"]
            error = [[value - low], [high - value]]
            label = f"{name}: {100 * value:.0f} % of {report['n']} held-out problems"
            axes.errorbar(
                [step], [value], yerr=error, fmt="D", color=colour, capsize=4, label=label
            )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="step", ylabel="reward = share of right answers", ylim=(0, 1))
    axes.set_title("Reinforcement on word problems, SmolLM2-135M, 2 CPU cores", fontsize=10)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(image, metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
