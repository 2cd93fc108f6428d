"""The command line, and the only place that wires the rooms together."""

from tunestone.cli import rewards, training
from tunestone.cli.app import app, main

__all__ = ["app", "main", "rewards", "training"]
