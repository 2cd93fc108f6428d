"""The command line, and the only place that wires the rooms together."""

from tunestone.cli import rewards, run_job, serving, training
from tunestone.cli.app import app, main

__all__ = ["app", "main", "rewards", "run_job", "serving", "training"]
