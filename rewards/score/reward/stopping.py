"""End a training run whose score model is gone: with a checkpoint, in all processes at once, and with the cause."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import TrainerCallback

from rewards.score.reward.faults import Failures
from rewards.score.reward.score import Score
from stage.parallel.agreement import anywhere


class StopOnFailures(TrainerCallback):
    """Give it to the trainer: `callbacks=[StopOnFailures(learned(rewards))]`.

    Without it, a `score` that failed too often raises ScoringFailed immediately, without a checkpoint. With it the step
    that is running ends (its failed rows are masked), every process agrees to stop, the trainer saves a checkpoint,
    whatever its `save_strategy`, and only then ScoringFailed is raised, in all of them. It is also raised where
    training ends and a reward has failed on each of its rows, however few they were.
    """

    def __init__(self, scores: Sequence[Score]):
        self.failures: list[Failures] = [score.failures for score in scores]
        self.stopping = False

    def on_train_begin(self, args, state, control, **kwargs):
        for failures in self.failures:
            failures.watched = True

    def on_step_end(self, args, state, control, **kwargs):
        here = any(failures.exceeded for failures in self.failures)
        self.stopping = anywhere(here, args.device)
        control.should_save = control.should_save or self.stopping

    def on_train_end(self, args, state, control, **kwargs):
        for failures in self.failures if not self.stopping else ():
            failures.at_the_end()

    def on_save(self, args, state, control, **kwargs):
        if self.stopping:
            raise next((f for f in self.failures if f.exceeded), self.failures[0]).error()
