"""The command line, and the only place that wires the rooms together."""

from tunestone.cli import evaluation, rewards, run_job, serving, sweep, training, viewing
from tunestone.cli.app import app, main

__all__ = [
    "app",
    "evaluation",
    "main",
    "rewards",
    "run_job",
    "serving",
    "sweep",
    "training",
    "viewing",
]
