"""A training stage in a process of its own that dies by SIGKILL at a chosen place, or is told to stop there.

The processes are forked (`tests.support.processes.forked`), so each starts in a moment.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes.commands import ROOT
from tests.support.processes.forked import context, program

LIMIT = 120
"""Seconds after which a process counts as hung."""
PLACES = {
    "rollout": ("rl.trainer.GRPOTrainer._generate_single_turn", "after"),
    "rewards": ("rl.trainer.GRPOTrainer._calculate_rewards", "before"),
    "backward": ("accelerate.Accelerator.backward", "after"),
    "optimiser": ("accelerate.optimizer.AcceleratedOptimizer.step", "after"),
    "log": ("stage.runs.Run.log", "after"),
    "writing": ("transformers.Trainer._save_optimizer_and_scheduler", "before"),
    "manifest": ("stage.checkpoints.manifest.write", "after"),
    "renaming": ("stage.checkpoints.folders.commit", "before"),
    "renamed": ("stage.checkpoints.folders.commit", "after"),
    # of a resumed run: the environment's record, the checkpoint into its place, the oldest one out of its own
    "deleting": ("pathlib.Path.rename", "after"),
    "final": ("stage.runs.Run.finish", "before"),
}
"""Name → (what is called there, whether the process dies before or after the call)."""


def run(stage: str, argv: list[str], place: str | None = None, call: int = 1, send: int = signal.SIGKILL) -> int:
    """The exit code of `launch/STAGE.py argv`, minus the signal's number for one that was killed.

    place, call: where the process gets the signal `send`: at the so manieth call.
    """
    with begun(stage, argv, place, call, send) as process:
        return process.end()


class Begun:
    """A launcher that runs. said: the file of what it says."""

    def __init__(self, process: Any, said: Path | None):
        self.process, self.said, self.pid = process, said, process.pid

    def until(self, what: Callable[[], Any]) -> Any:
        """The first value that is true of `what()`, which is asked again and again."""
        for _ in range(20 * LIMIT):
            if found := what():
                return found
            time.sleep(0.05)
        raise AssertionError(f"nothing within {LIMIT} s\n{self.said.read_text() if self.said else ''}")

    def stopped(self) -> None:
        """Wait until a signal has stopped it (SIGSTOP)."""
        stat = Path(f"/proc/{self.pid}/stat")
        self.until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")

    def says(self, words: str) -> None:
        """Wait until it has said this."""
        assert self.said is not None
        self.until(lambda: words in self.said.read_text())

    def end(self) -> int:
        self.process.join(LIMIT)
        assert self.process.exitcode is not None, f"{self.process.name}: the process hangs"
        return self.process.exitcode


@contextmanager
def begun(
    stage: str,
    argv: list[str],
    place: str | None = None,
    call: int = 1,
    send: int = signal.SIGKILL,
    said: Path | None = None,
) -> Iterator[Begun]:
    """As `run`, while it runs; killed at the end where it still does."""
    if said is not None:
        said.touch()
    process = context().Process(target=_train, args=(stage, argv, place, call, send, said), name=f"{stage} at {place}")
    process.start()
    try:
        yield Begun(process, said)
    finally:
        if process.exitcode is None:
            process.kill()
            process.join()


def _train(stage: str, argv: list[str], place: str | None, call: int, send: int, said: Path | None) -> None:
    if said is not None:
        for number in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), number)
    if place is not None:
        arm(*PLACES[place], call, lambda: os.kill(os.getpid(), send))
    program([str(ROOT / f"launch/{stage}.py"), *argv])


def arm(target: str, when: str, call: int, act: Callable[[], None]) -> None:
    from pkgutil import resolve_name

    owner, _, name = target.rpartition(".")
    holder: Any = resolve_name(owner)
    plain: Callable = getattr(holder, name)
    calls = 0

    def armed(*positional, **named):
        nonlocal calls
        calls += 1
        if when == "before" and calls == call:
            act()
        result = plain(*positional, **named)
        if when == "after" and calls == call:
            act()
        return result

    setattr(holder, name, armed)
