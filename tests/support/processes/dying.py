"""A training stage in a process of its own that dies by SIGKILL at a chosen place, or is told to stop there.

The processes are forked (`tests.support.processes.forked`), so each starts in a moment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from tests.support.processes.commands import ROOT
from tests.support.processes.forked import context, program

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
    process = context().Process(target=_train, args=(stage, argv, place, call, send))
    process.start()
    process.join(120)
    assert process.exitcode is not None, f"{stage} at {place}: the process hangs"
    return process.exitcode


def _train(stage: str, argv: list[str], place: str | None, call: int, send: int) -> None:
    if place is not None:
        _arm(*PLACES[place], call, send)
    program([str(ROOT / f"launch/{stage}.py"), *argv])


def _arm(target: str, when: str, call: int, send: int) -> None:
    from pkgutil import resolve_name

    owner, _, name = target.rpartition(".")
    holder: Any = resolve_name(owner)
    plain: Callable = getattr(holder, name)
    calls = 0

    def armed(*positional, **named):
        nonlocal calls
        calls += 1
        if when == "before" and calls == call:
            os.kill(os.getpid(), send)
        result = plain(*positional, **named)
        if when == "after" and calls == call:
            os.kill(os.getpid(), send)
        return result

    setattr(holder, name, armed)
