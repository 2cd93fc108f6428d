"""What the loop does about alerts: tell them with their evidence, note, pause, stop or go back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from torch import Tensor

from tunestone.config import TrainConfig
from tunestone.core.checkpoint import load_checkpoint
from tunestone.core.evidence import examples_for
from tunestone.core.loop_state import PAUSED, LoopState
from tunestone.health.rules import RULES
from tunestone.health.watch import ACTIONS, Action, Alert, HealthWatch
from tunestone.runlog import RunFolder, checkpoint_steps, read_lines

_ROLLBACKS = 3
"""After so many the run is stopped: at an eighth of the learning rate, that is not the fault."""


def rollback_window(config: TrainConfig) -> int:
    """Most steps that the evidence for a rollback can span; 0 when no alert asks for one."""
    windows = [r.window for r in RULES if config.on_alert.get(r.code) == "rollback"]
    return max(windows, default=0)


@final
class Guard:
    """Holds the health watch of a run, and acts on what it says.

    `restore` puts a checkpoint's weights and optimizer back; `tell` shows an alert to a person.
    """

    def __init__(
        self,
        run: RunFolder,
        config: TrainConfig,
        *,
        restore: Callable[[Mapping[str, Tensor]], None],
        tell: Callable[[Alert], None],
    ) -> None:
        self._run = run
        self._config = config
        self._restore = restore
        self._tell = tell
        self._health = HealthWatch()

    def open(self, state: LoopState) -> None:
        """Watch on from here: all that is remembered comes from the logs."""
        own = [r for r in read_lines(self._run.metrics) if r["step"] > state.watched_from]
        self._health = HealthWatch(r for r in own if not state.is_abandoned(r["step"]))

    def heed(
        self, state: LoopState, record: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
    ) -> None:
        """Tell the signs of a step, and do the gravest of what the config wants done about them.

        `record` and `samples`: the step's line of metrics.jsonl and its lines of samples.jsonl.
        """
        alerts = self._health.add(record)
        actions: list[Action] = [self._config.on_alert.get(alert.code, "note") for alert in alerts]
        gravest: Action = min(actions, key=ACTIONS.index, default="note")
        if state.stopped and not state.stopped_on_request:
            gravest = "note"  # early stopping has ended the run anyway
        for alert, action in zip(alerts, actions, strict=True):
            done = action if action == gravest else "note"
            examples = examples_for(alert.code, samples)
            self._run.event(
                "alert", alert.message, **alert.details(), action=done, examples=examples
            )
            self._tell(alert)
        if gravest == "note":
            return
        alert = alerts[actions.index(gravest)]
        if gravest == "stop":
            state.stopped = f"alert {alert.code}"
        elif gravest == "pause":
            state.stopped = f"{PAUSED} {alert.code}"
        else:
            self._roll_back(state, alert)

    def _roll_back(self, state: LoopState, alert: Alert) -> None:
        """To the newest good checkpoint from before the alert's window; stop when it was too often.

        What came after it is abandoned, the best of it too. The next steps draw other prompts and
        other completions, since both follow from the number of the step, which goes on.
        """
        if len(state.rollbacks) == _ROLLBACKS:
            state.stopped = f"alert {alert.code} after {_ROLLBACKS} rollbacks"
            return
        ways = state.checkpoints_before(alert.first)
        found = next(filter(None, (load_checkpoint(self._run.checkpoints, s) for s in ways)), None)
        if found is None:
            state.stopped = f"alert {alert.code}, and no good checkpoint to go back to"
            return
        self._restore(found.tensors)
        state.return_to(found.state["loop"], kept=checkpoint_steps(self._run.checkpoints))
        rate = self._config.learning_rate * state.rate_factor
        message = f"Back to step {found.step} ({alert.code}), with learning rate {rate:g}."
        details = {"step": state.step, "to_step": found.step, "code": alert.code}
        self._run.event("rolled_back", message, **details)
        self.open(state)
