"""What the loop carries from step to step, besides weights and optimizer; part of a checkpoint.

A run may go back to a checkpoint (`on_alert = {... = "rollback"}`): its weights and its best do,
the step number goes on, so that data and draws differ from those that led astray. The steps in
between are abandoned; `rollbacks` says which they were.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

ON_REQUEST = "stop requested"
PAUSED = "paused by the alert"
"""Beginnings of `stopped` for ends that a resumed run takes back."""


@dataclass(slots=True)
class LoopState:
    """Where a run is."""

    step: int = 0
    drawn: int = 0
    """Prompts taken from the endless shuffled stream so far."""
    best_step: int = 0
    best_reward: float = -math.inf
    ranking: list[tuple[int, float]] = field(default_factory=list)
    """Steps with their validation rewards, the best three, best first; not the untrained base."""
    stale: int = 0
    """Validations since the best one."""
    stopped: str = ""
    """Why the run ended before its last step."""
    rollbacks: list[tuple[int, int]] = field(default_factory=list)
    """(step of the checkpoint gone back to, step after which); each halved the learning rate."""
    ways_back: list[tuple[int, int]] = field(default_factory=list)
    """Checkpoints that a rollback may want, oldest first, each with the best step of its time."""
    watched_from: int = 0
    """Steps up to this one were paid by another reward, which the health watch does not compare."""

    @property
    def stopped_on_request(self) -> bool:
        """Whether someone, or the health watch, asked for an end after which the run may go on."""
        return self.stopped.startswith((ON_REQUEST, PAUSED))

    @property
    def paused(self) -> bool:
        """Whether it was the health watch."""
        return self.stopped.startswith(PAUSED)

    @property
    def rate_factor(self) -> float:
        """What rollbacks have made of the learning rate: half of it each time."""
        return 0.5 ** len(self.rollbacks)

    @property
    def rolled_back(self) -> bool:
        """Whether the weights are not those that the newest step made."""
        return bool(self.rollbacks) and self.rollbacks[-1][1] == self.step

    def forget_rewards(self) -> None:
        """Seek the best anew from here: what was earned before was another reward."""
        self.best_reward, self.best_step, self.stale = -math.inf, self.step, 0
        self.ranking, self.ways_back = [], []
        self.watched_from = self.step

    def is_abandoned(self, step: int) -> bool:
        """Whether the weights owe nothing to this step."""
        return any(to < step <= after for to, after in self.rollbacks)

    def note_checkpoint(self, window: int) -> None:
        """Note the checkpoint of this step as a way back, and forget those not needed any more.

        `window`: steps that the evidence for a rollback can span. An alert after the next step
        needs a checkpoint from before its window, and an alert about validation the best one.
        """
        self.ways_back = [way for way in self.ways_back if way[0] < self.step]
        self.ways_back.append((self.step, self.best_step))
        course = [n for n in range(1, self.step + 1) if not self.is_abandoned(n)]
        begins = [*course, self.step + 1][-window:][0]
        before = [step for step, _ in self.ways_back if step < begins]
        oldest = before[-1] if before else self.ways_back[0][0]
        self.ways_back = [
            way for way in self.ways_back if way[0] >= oldest or way[0] == self.best_step
        ]

    @property
    def needed(self) -> set[int]:
        """Steps whose checkpoints a rollback may need."""
        return {step for way in self.ways_back for step in way}

    def checkpoints_before(self, step: int) -> list[int]:
        """Ways back from before a step, newest first; the oldest there is where none is."""
        steps = [way for way, _ in self.ways_back]
        return [way for way in reversed(steps) if way < step] or steps[:1]

    def return_to(self, then: Mapping[str, Any], *, kept: Collection[int]) -> None:
        """Take over what was best at an earlier state, as its checkpoint has it, and go on here.

        `kept`: steps whose checkpoints there still are.
        """
        self.rollbacks.append((then["step"], self.step))
        self.best_step, self.best_reward = then["best_step"], then["best_reward"]
        self.ranking = [(step, reward) for step, reward in then["ranking"] if step in kept]
        self.stale = then["stale"]
        self.ways_back = [way for way in self.ways_back if way[0] <= then["step"]]
