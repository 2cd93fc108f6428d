"""Untrusted code in child processes: reward functions, handlers, and code that models write.

A `Sandbox` loads a `Program` once in each of its workers and calls it with one payload at a time,
each call in a fresh fork of the loaded worker: whatever a call does (changes globals, exits, loops,
fills memory, forks) ends with it, and the next call finds the program as it was loaded.
"""

from tunestone.rewards.sandbox.mechanism import Mechanism, choose_mechanism
from tunestone.rewards.sandbox.pool import Limits, Outcome, Program, Sandbox

__all__ = ["Limits", "Mechanism", "Outcome", "Program", "Sandbox", "choose_mechanism"]
