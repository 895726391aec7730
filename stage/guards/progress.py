"""Which phase this process is in, since when. One for the process: whoever does something says so, nobody waits.

with phase("rollout"): …        # within it; afterwards the phase around it continues
here.at("update", step=12)      # from now on, until the next
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """The phases that are running, the innermost last, and when the last one began or ended."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.step = 0
        "The optimiser step that is running, or was the last one."
        self._phases = ["start"]
        self._raised: str | None = None
        self._moved = clock()

    @property
    def phase(self) -> str:
        return self._phases[-1]

    @property
    def broken(self) -> str:
        """The phase in which the error being handled was raised; without one, `phase`."""
        return self._raised or self.phase

    @property
    def seconds(self) -> float:
        """Since something has happened here."""
        return self.clock() - self._moved

    def moved(self) -> None:
        """Something has happened."""
        self._moved = self.clock()

    def at(self, phase: str, step: int | None = None) -> None:
        """An outermost phase begins, which ends what was before."""
        self._phases, self._raised = [phase], None
        self.step = self.step if step is None else step
        self.moved()

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        around = self._phases
        self._phases, self._raised = [*around, phase], None
        self.moved()
        try:
            yield
        except BaseException:
            self._raised = self._raised or phase
            raise
        finally:
            self._phases = around
            self.moved()


here = Progress()
phase = here.within
