"""The recipe's sections `guards:` and `watchdog:`."""

from __future__ import annotations

from dataclasses import dataclass

from vlm.common.errors import RecipeError


@dataclass
class GuardSection:
    """Steps whose loss or gradient is NaN or infinite (`stage.guards.finite`)."""

    skip: int = 5
    "Such a step changes no weight; the run ends when more than so many come one after another. 0: at the first."
    dumps: int = 3
    "Dump the first so many of them (`stage.replay.dumps`), to be computed again by `launch/replay.py`."

    def check(self) -> None:
        if self.skip < 0 or self.dumps < 0:
            raise RecipeError(f"skip = {self.skip}, dumps = {self.dumps}; expected numbers of steps, 0 or more")


@dataclass
class WatchdogSection:
    """Tells when a run stands still, and where (`stage.guards.watchdog`)."""

    minutes: float = 30.0
    "Speak when a process has come no further for so long; longer than your longest rollout, evaluation or save."
    abort: bool = False
    "Then end the process too (exit code 75), so that a scheduler can start the run again with `resume: auto`."

    def check(self) -> None:
        if not self.minutes > 0:
            raise RecipeError(f"minutes = {self.minutes}; expected more than 0, or `watchdog: null` for none")
