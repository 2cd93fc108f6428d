"""THE LOOP: sample, grade, compare, learn.

A run is a pure function of its config, data, reward and thread count: prompt order and every draw
follow from (seed, step) alone, so a run that is killed anywhere and resumed from its last
checkpoint repeats the lost steps exactly and ends with the same bits.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from tunestone.config import TrainConfig
from tunestone.core.checkpoint import (
    keep_only,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    writing_weights,
)
from tunestone.core.constraint import answer_grammar
from tunestone.core.evaluate import Example, answer, refuse_failing
from tunestone.core.guard import Guard, rollback_window
from tunestone.core.learner import Group, Learner
from tunestone.core.loop_state import ON_REQUEST, LoopState
from tunestone.core.loss import ALGORITHMS
from tunestone.core.model import Policy
from tunestone.core.records import (
    Graded,
    describe,
    describe_validation,
    sample_records,
    validation_records,
)
from tunestone.core.sampler import CompletionSampler, SamplingParams
from tunestone.errors import RewardError
from tunestone.health.watch import Alert
from tunestone.runlog import RunFolder, append_lines
from tunestone.types import Grader, Sample

_ORDER, _DRAW = 1, 2  # purposes of random numbers, part of every seed
_BEST = 3
"""Checkpoints that are kept besides the last, by validation reward (as OpenAI's service does)."""
_SHADOWED = 64
"""Completions of a step that the shadow reward is asked about: it may be a judge that costs."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """Everything a run is made of. `prepare.py` builds it."""

    run: RunFolder
    config: TrainConfig
    policy: Policy
    learner: Learner
    sampler: CompletionSampler
    grader: Grader
    reward_sha256: str
    """Of the reward's source: scores of another one cannot be compared."""
    training: Sequence[Example]
    validation: Sequence[Example]
    steps: int
    eval_every: int
    shadow_grader: Grader | None = None
    """Never trained on; see `shadow_reward`."""

    def train(
        self,
        *,
        watch: Callable[[Mapping[str, Any]], None],
        stop_requested: Callable[[], bool],
        tell: Callable[[Alert], None] = lambda alert: None,
        leave_on_request: bool = False,
    ) -> LoopState:
        """Run to the end and leave the best weights in the policy; returns the final state.

        `watch` sees each step, `tell` each sign of trouble. `leave_on_request`: a stop on request
        leaves a checkpoint and nothing else, which is quick.
        """
        state = self._restore()
        guard = Guard(self.run, self.config, restore=self._load, tell=tell)
        guard.open(state)
        while state.step < self.steps and not state.stopped:
            state.step += 1
            clock = Stopwatch()
            graded_P: list[Graded] = []
            for attempt in range(1 + self.config.refill_limit):
                wanted = self.config.batch_size - sum(graded.has_signal for graded in graded_P)
                if wanted == 0:
                    break
                with clock("sample"):  # draw a group of completions for each of the next prompts
                    fresh_P = self._sample(state, wanted, attempt)
                with clock("grade"):  # ask the reward what each is worth
                    self._grade(fresh_P)
                with clock("compare"):  # each completion against its own group
                    self._compare(fresh_P)
                graded_P += fresh_P
            self._refuse_failing(state, graded_P)
            with clock("grade"):
                self._grade_shadow(graded_P)
            with clock("learn"):  # make the better ones likelier
                learned = self._learn(state, graded_P)
            if self._is_evaluation(state.step):
                with clock("validate"):
                    learned |= self._validate(state)
            if stop_requested() and not state.stopped:
                state.stopped = ON_REQUEST
            record, samples = self._log(state, graded_P, learned, clock)
            watch(record)
            guard.heed(state, record, samples)
            if self._is_evaluation(state.step) or state.stopped or state.rolled_back:
                self._save(state)
        if leave_on_request and state.stopped_on_request:
            return state
        return self._finish(state)

    def _sample(self, state: LoopState, count: int, attempt: int) -> list[Graded]:
        examples = [self.training[i] for i in self._next_prompts(state, count)]
        groups = self.sampler.sample(
            [example.tokens for example in examples],
            self.config.group_size,
            sampling_params(self.config),
            seed=(self.config.seed, _DRAW, state.step, attempt),
        )
        return [
            Graded(example, completions_G)
            for example, completions_G in zip(examples, groups, strict=True)
        ]

    def _next_prompts(self, state: LoopState, count: int) -> list[int]:
        """Indices from the endless stream of shuffled epochs; the last batch is filled from the
        next epoch rather than cut short."""
        total = len(self.training)
        positions = range(state.drawn, state.drawn + count)
        orders = {
            epoch: np.random.default_rng([self.config.seed, _ORDER, epoch]).permutation(total)
            for epoch in {position // total for position in positions}
        }
        state.drawn += count
        return [int(orders[position // total][position % total]) for position in positions]

    def _grade(self, graded_P: Sequence[Graded]) -> None:
        size = self.config.group_size
        grades = self.grader.grade([_sample(x, g) for x in graded_P for g in range(size)])
        for p, graded in enumerate(graded_P):
            graded.grades_G = grades[p * size : (p + 1) * size]

    def _grade_shadow(self, graded_P: Sequence[Graded]) -> None:
        """Ask the shadow reward about the first completions of every group, then the second ..."""
        if self.shadow_grader is None:
            return
        size = self.config.group_size
        places = [(graded, g) for g in range(size) for graded in graded_P][:_SHADOWED]
        grades = self.shadow_grader.grade([_sample(graded, g) for graded, g in places])
        for graded in graded_P:
            graded.shadows_G = [None] * size
        for (graded, g), grade in zip(places, grades, strict=True):
            graded.shadows_G[g] = grade

    def _refuse_failing(self, state: LoopState, graded_P: Sequence[Graded]) -> None:
        """Stop the run when most grades of the step failed, with the evidence in samples.jsonl."""
        try:
            refuse_failing([grade for graded in graded_P for grade in graded.grades_G])
        except RewardError:
            append_lines(self.run.samples, list(sample_records(state.step, graded_P)))
            raise

    def _compare(self, graded_P: Sequence[Graded]) -> None:
        rewards_PG = torch.tensor(
            [[math.nan if g.reward is None else g.reward for g in x.grades_G] for x in graded_P]
        )
        advantages_PG = ALGORITHMS[self.config.algorithm].advantage(rewards_PG).tolist()
        for graded, advantages_G in zip(graded_P, advantages_PG, strict=True):
            graded.advantages_G = [
                None if grade.reward is None else advantage
                for grade, advantage in zip(graded.grades_G, advantages_G, strict=True)
            ]

    def _learn(self, state: LoopState, graded_P: Sequence[Graded]) -> dict[str, Any]:
        # With refilling the batch is the groups with signal; without, all groups share the loss.
        chosen = [x for x in graded_P if x.has_signal or not self.config.refill_limit]
        groups = [Group(list(x.example.tokens), x.completions_G, x.advantages_G) for x in chosen]
        rate = self.config.learning_rate * min(1.0, state.step / max(1, self.config.warmup_steps))
        rate *= state.rate_factor
        return {**self.learner.update(groups, learning_rate=rate), "learning_rate": rate}

    def _is_evaluation(self, step: int) -> bool:
        return step % self.eval_every == 0 or step == self.steps

    def _validate(self, state: LoopState) -> dict[str, Any]:
        """Greedy mean reward on the validation prompts; remembers the best and when to give up."""
        answered = answer(self.sampler, self.validation, self.grader, self.config)
        records = validation_records(state.step, self.validation, answered)
        append_lines(self.run.validation, list(records))
        reward = answered.graded_reward
        if state.step:
            ranking = [*state.ranking, (state.step, reward)]
            state.ranking = sorted(ranking, key=lambda entry: -entry[1])[:_BEST]
        if reward > state.best_reward:
            state.best_reward, state.best_step, state.stale = reward, state.step, 0
        else:
            state.stale += 1
        if self.config.patience and state.stale >= self.config.patience:
            state.stopped = f"no better validation reward in {state.stale} validations"
        return {
            "validation_reward": reward,
            "validation_errors": answered.errors,
            **describe_validation(answered),
        }

    def _log(
        self,
        state: LoopState,
        graded_P: Sequence[Graded],
        learned: Mapping[str, Any],
        clock: "Stopwatch",
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The step's line of metrics.jsonl and its lines of samples.jsonl, written."""
        record: dict[str, Any] = {
            "step": state.step,
            "steps": self.steps,
            "epoch": state.drawn / len(self.training),
            **describe(graded_P),
            **learned,
            "seconds": clock.seconds,
        }
        record["tokens_per_second"] = record["completion_tokens"] / clock.seconds["sample"]
        samples = list(sample_records(state.step, graded_P))
        append_lines(self.run.samples, samples)  # first: who sees the step looks for them
        append_lines(self.run.metrics, [record])
        return record, samples

    def _save(self, state: LoopState) -> None:
        tensors = {f"weights.{name}": value for name, value in self.policy.weights().items()}
        tensors |= self.learner.optimizer_tensors()
        window = rollback_window(self.config)
        if window and (self._is_evaluation(state.step) or state.rolled_back):
            state.note_checkpoint(window)  # not those of stops: they would change the run's course
        record = {
            "loop": asdict(state),
            "log_lengths": self.run.lengths(),
            "reward_sha256": self.reward_sha256,
        }
        result = self.policy.save if state.step else None  # step 0 is the base, or where it starts
        save_checkpoint(self.run.checkpoints, state.step, tensors, record, save_result=result)
        ranked = [step for step, _ in state.ranking]
        keep_only(self.run.checkpoints, {state.step, state.best_step, *ranked, *state.needed})
        if state.step:
            self.run.event("checkpoint", f"Checkpoint of step {state.step}.", step=state.step)

    def _restore(self) -> LoopState:
        """State of the newest good checkpoint, or of the beginning."""
        found = newest_checkpoint(self.run.checkpoints)
        if found is None:
            self.run.cut_back({})
            state = LoopState()
            self._validate_base(state)
            return state
        self._load(found.tensors)
        self.run.cut_back(found.state["log_lengths"])
        self.run.event("resumed", f"Continuing after step {found.step}.", step=found.step)
        state = LoopState(**found.state["loop"])
        if state.stopped_on_request:  # to resume takes that request back; early stopping stands
            state.stopped = ""
        if found.state["reward_sha256"] != self.reward_sha256:
            self.run.event("reward_changed", "The reward was edited; the best is sought anew.")
            state.forget_rewards()
            self._save(state)  # so that nothing leads back to the old reward's scores
        return state

    def _validate_base(self, state: LoopState) -> None:
        """The base's validation reward: what every checkpoint has to beat to be chosen."""
        reward = self._validate(state)["validation_reward"]
        message = f"Validation reward of the base model: {reward:.3f}."
        self.run.event("base_validated", message, validation_reward=reward)
        self._save(state)

    def _finish(self, state: LoopState) -> LoopState:
        """Put the best weights into the policy and write the result."""
        if state.stopped_on_request and not self._is_evaluation(state.step):
            # Only for this result: the saved state is untouched, so a resumed run keeps its bits.
            state = replace(state)
            self._validate(state)
        if state.best_step != state.step:
            best = load_checkpoint(self.run.checkpoints, state.best_step)
            if best is not None:
                self._load_weights(best.tensors)
            else:
                lost = f"The checkpoint of step {state.best_step}, the best, is damaged."
                self.run.event("checkpoint_damaged", lost, step=state.best_step)
                state.best_step = state.step
        with writing_weights(self.run.adapter) as unfinished:
            self.policy.save(unfinished)
        why = f" ({state.stopped})" if state.stopped else ""
        message = f"Ended after step {state.step}{why}; the result is step {state.best_step}."
        self.run.event("trained", message, step=state.step, best_step=state.best_step)
        return state

    def _load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Weights and optimizer, as a checkpoint has them."""
        self._load_weights(tensors)
        self.learner.load_optimizer_tensors(tensors)

    def _load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        prefix = "weights."
        self.policy.load_weights(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )


def _sample(graded: Graded, g: int) -> Sample:
    """Completion g as a grader sees it."""
    completion = graded.completions_G[g]
    return Sample(graded.example.prompt, completion.text, completion.finish_reason == "length")


class Stopwatch:
    """Wall seconds by phase; a phase entered twice adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self.seconds[phase] = self.seconds.get(phase, 0.0) + spent


def sampling_params(config: TrainConfig) -> SamplingParams:
    """How completions are drawn in training."""
    return SamplingParams(
        max_tokens=config.max_completion_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        stop=config.stop,
        grammar=answer_grammar(config.response_format),
    )
