"""Hands the recipe's `tracking:` to a trainer: labels, the table of completions, alerts."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stage.runs import Run
from stage.tracking.alerts import Alerts
from stage.tracking.samples import Samples
from stage.tracking.table import Reading
from stage.tracking.trackers import labels, running

Logs = dict[str, float] | None


def samples_of(run: Run, recipe: Any) -> Samples:
    """The table of completions as the recipe wants it."""
    reading = Reading(recipe.prompt.notation, recipe.prompt.style != "direct", recipe.prompt.masks)
    return Samples(run, recipe.tracking.samples, reading, recipe.tracking.report_to)


@runtime_checkable
class Shows(Protocol):
    """A trainer that makes completions."""

    def show_samples(self, samples: Samples) -> None: ...


def attach(trainer: Trainer, run: Run, recipe: Any) -> None:
    """After the trainer's own callbacks, which open the trackers' runs."""
    samples = samples_of(run, recipe) if isinstance(trainer, Shows) else None
    if samples is not None:
        trainer.show_samples(samples)
    trainer.add_callback(TrackingCallback(run, recipe, samples))


class TrackingCallback(TrainerCallback):
    """Works in the main process alone."""

    def __init__(self, run: Run, recipe: Any, samples: Samples | None = None):
        self.recipe, self.samples, tracking = recipe, samples, recipe.tracking
        self.alerts = None if tracking.alerts is None else Alerts(run, tracking.alerts, tracking.report_to)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self.samples is not None:
            self.samples.rewind(state.global_step)
        if self.alerts is not None:
            self.alerts.begin(state.global_step, state.log_history)
        for tracker in self.recipe.tracking.report_to:
            label(tracker, labels(self.recipe))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Logs = None, **_: Any
    ) -> None:
        if state.is_world_process_zero and self.alerts is not None and logs:
            self.alerts.see(state.global_step, logs)


def label(tracker: str, values: dict[str, Any]) -> None:
    """Adds to the configuration that wandb or trackio shows of its run, where it has one."""
    if (run := running(tracker)) is not None:
        run.config.update(values, allow_val_change=True)
