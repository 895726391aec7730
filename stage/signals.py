"""Signals that ask a run to stop: it ends its optimiser step, writes a checkpoint, and leaves with RESUMABLE.

    SIGTERM, SIGUSR1 (`#SBATCH --signal=USR1@600`), SIGINT (Ctrl-C)

All processes stop at the same step, whichever got the signal. A second Ctrl-C ends it immediately, with no checkpoint.
`interrupted.json` in the run folder tells a job script that the run is to be started again, for `accelerate launch` and
torchrun do not pass on their processes' exit codes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_bool
from multiprocessing.sharedctypes import RawValue
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stage.parallel.agreement import anywhere
from stage.runs import Run
from vlm.common.errors import RESUMABLE, Interrupted

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
DOUBLE = 1.0
"""Seconds before another Ctrl-C counts as a second one: a launcher may pass on what the terminal has sent already."""


class Watch:
    """Which signal has asked this process to stop, if any did."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._owner, self._since = os.getpid(), 0.0
        self.over = RawValue(c_bool, False)
        "Whether the owner no longer watches; workers see it too."

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a worker of the data loader: it continues until its owner ends it
            if number == signal.SIGTERM and self.over.value:
                os._exit(1)  # the owner waits for it
            return
        now = time.monotonic()
        if self.received is None:
            self._since = now
            self.received = signal.Signals(number)
            message = f"{self.received.name}: the run stops after this step, with a checkpoint"
            print(f"{message}; Ctrl-C ends it immediately", file=sys.stderr, flush=True)
        elif number == signal.SIGINT and now - self._since >= DOUBLE:
            raise KeyboardInterrupt


@contextmanager
def watching() -> Iterator[Watch]:
    """Within, the signals of STOPPING are noted instead of ending the process; a thread beside the main one can't."""
    watch = Watch()
    if threading.current_thread() is not threading.main_thread():
        yield watch
        return
    before = {number: signal.signal(number, watch) for number in STOPPING}
    try:
        yield watch
    finally:
        watch.over.value = True
        for number, handler in before.items():
            signal.signal(number, handler)


class StopOnSignal(TrainerCallback):
    """Ends the training in all processes after the step in which one of them was asked to, with a checkpoint."""

    def __init__(self, watch: Watch, run: Run):
        self.watch, self.run = watch, run
        self.stopping = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.stopping = anywhere(self.watch.received is not None, args.device)
        control.should_save = control.should_save or self.stopping

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self.stopping:
            return
        name = self.watch.received.name if self.watch.received else "a signal to another process"
        self.run.interrupt(step=state.global_step, signal=name, exit_code=RESUMABLE)
        raise Interrupted(f"stopped by {name} after step {state.global_step}")
