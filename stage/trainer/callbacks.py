"""What the trainer tells while it runs: rows in metrics.jsonl, and a progress bar with the reward in it."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from tqdm.auto import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from stage.runs import Run
from vlm.pictures.resizing import Resizing

Logs = dict[str, float] | None

# What is shown after the bar, in this order, when the trainer logs it: (key in the log, word shown).
SHOWN = (
    ("reward", "reward"),
    ("loss", "loss"),
    ("mean_token_accuracy", "accuracy"),
    ("kl", "kl"),
    ("completions/mean_length", "length"),
    ("eval_reward", "eval reward"),
    ("eval_loss", "eval loss"),
)


def attach(trainer: Trainer, run: Run, name: str = "train") -> None:
    """Gives `trainer` the metrics rows and our progress display in place of transformers' own two."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(MetricsCallback(run))
    trainer.add_callback(BarCallback(name))


class MetricsCallback(TrainerCallback):
    """Writes each log of the trainer (its averages since the log before) to the run's metrics.jsonl."""

    def __init__(self, run: Run):
        self.run = run

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # After a resume state.global_step is the checkpoint's; what lies beyond it will be measured again.
        if state.is_world_process_zero:
            self.run.rewind(state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Logs = None, **_: Any
    ) -> None:
        if state.is_world_process_zero and logs:
            self.run.log(state.global_step, logs)


class PassCallback(TrainerCallback):
    """Tells a table of training rows which pass over the data begins, so that each pass draws picture sizes again."""

    def __init__(self, sizes: Resizing):
        self.sizes = sizes

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # After a resume within a pass state.epoch is a fraction; at the end of one, a hair off a whole number perhaps.
        self.sizes.passed = int((state.epoch or 0.0) + 1e-6)


class BarCallback(TrainerCallback):
    """A bar on a terminal; elsewhere (a log file, a pipe) one line every `seconds`. Silent on other ranks."""

    def __init__(self, name: str = "train", stream: TextIO | None = None, seconds: float = 30.0):
        self.name, self.seconds = name, seconds
        self.stream = stream or sys.stderr
        self.on_terminal = self.stream.isatty()
        self.latest: dict[str, Any] = {}
        self.bar: tqdm | None = None
        self.evaluated = 0  # evaluation batches done in the evaluation that runs
        self.begun, self.first_step, self.said = 0.0, 0, float("-inf")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.begun, self.first_step, self.said = time.monotonic(), state.global_step, float("-inf")
        if self.on_terminal:
            self.bar = tqdm(
                desc=self.name,
                total=state.max_steps,
                initial=state.global_step,
                file=self.stream,
                dynamic_ncols=True,
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
        elif time.monotonic() - self.said >= self.seconds:
            self._say(state)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Logs = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self.latest |= {key: value for key, value in (logs or {}).items() if value is not None}
        if self.bar is not None:
            self.bar.set_postfix_str(summary(self.latest))

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.evaluated += 1
        if self.bar is not None:
            self.bar.set_description_str(f"{self.name} (evaluating, batch {self.evaluated})")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.evaluated = 0
        if self.bar is not None:
            self.bar.set_description_str(self.name)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        elif state.is_world_process_zero:
            self._say(state)

    def _say(self, state: TrainerState) -> None:
        """One line, e.g. `grpo: step 40/170, 1.7 s a step, 3:40 left; reward 0.661, loss 0.0123`."""
        self.said = time.monotonic()
        text = f"{self.name}: step {state.global_step}/{state.max_steps}"
        if done := state.global_step - self.first_step:
            pace = (self.said - self.begun) / done
            text += f", {pace:.2g} s a step"
            if left := state.max_steps - state.global_step:
                text += f", {tqdm.format_interval(left * pace)} left"
        if shown := summary(self.latest):
            text += f"; {shown}"
        print(text, file=self.stream, flush=True)


def summary(logs: dict[str, Any]) -> str:
    """The numbers of `logs` worth watching, e.g. "reward 0.661, loss 0.0123"."""
    return ", ".join(f"{word} {logs[key]:.3g}" for key, word in SHOWN if isinstance(logs.get(key), int | float))
