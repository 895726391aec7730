"""Watches for signs of collapse while a run trains, and tells: in the log, in alerts.jsonl, by wandb and trackio.

{"step": 240, "time": 1760000000.0, "sign": "entropy", "since": 237, "title": "The policy's entropy has collapsed",
 "text": "Since step 237 the entropy is 0.041, after 0.62 at first. Completions of a group …"}
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stage.runs import Run, append, drop_after
from stage.tracking.section import AlertSection
from stage.tracking.signs import SIGNS, History
from stage.tracking.trackers import running

logger = logging.getLogger(__name__)
FILE = "alerts.jsonl"


@dataclass(frozen=True)
class Alert:
    step: int
    sign: str
    since: int
    "The first step at which it showed."
    title: str
    text: str


@dataclass
class Showing:
    """A sign's own memory."""

    logs: int = 0
    "How many logs in a row it has shown, or (once reported) not shown."
    since: int = 0
    told: bool = False


class Watch:
    """Sees each log once, in order, and says what is new. What it says depends on nothing else, so that a resumed run
    which sees its history again continues as if it had not stopped."""

    def __init__(self, limits: AlertSection):
        self.limits, self.history = limits, History()
        self.signs = {name: Showing() for name in SIGNS}

    def see(self, step: int, logs: Mapping[str, Any]) -> list[Alert]:
        self.history.add(logs)
        return [alert for name in SIGNS if (alert := self._look(name, step)) is not None]

    def _look(self, name: str, step: int) -> Alert | None:
        memory, sign = self.signs[name], SIGNS[name]
        seen = sign.shows(self.history, self.limits)
        if (seen is None) != memory.told:  # nothing new: still absent, or told and still there
            memory.logs = 0
            return None
        memory.logs += 1
        if memory.told:
            if memory.logs >= self.limits.window:
                self.signs[name] = Showing()
            return None
        memory.since = step if memory.logs == 1 else memory.since
        if memory.logs < self.limits.patience:
            return None
        self.signs[name] = Showing(told=True)
        text = f"Since step {memory.since} {seen}. {sign.advice}"
        return Alert(step, name, memory.since, sign.title, text)


class Alerts:
    """A run's watch. report_to: the recipe's; of these wandb and trackio are alerted."""

    def __init__(self, run: Run, limits: AlertSection, report_to: Sequence[str] = ()):
        self.run, self.limits = run, limits
        self.trackers = [name for name in ("wandb", "trackio") if name in report_to]
        self.watch = Watch(limits)

    def begin(self, step: int, history: Sequence[Mapping[str, Any]]) -> None:
        """At the start or after a resume at this step: alerts after it are dropped, the logs until it seen again."""
        self.watch = Watch(self.limits)
        for logs in history:
            if logs.get("step", 0) <= step:
                self.watch.see(logs.get("step", 0), logs)
        drop_after(self.run.folder / FILE, step)

    def see(self, step: int, logs: Mapping[str, Any]) -> None:
        for alert in self.watch.see(step, logs):
            logger.warning("%s. %s", alert.title, alert.text)
            self._write(alert)
            for tracker in self.trackers:
                tell(tracker, alert)

    def _write(self, alert: Alert) -> None:
        line = {"step": alert.step, "time": round(time.time(), 3), "sign": alert.sign, "since": alert.since}
        line |= {"title": alert.title, "text": alert.text}
        append(self.run.folder / FILE, [line])


def tell(tracker: str, alert: Alert) -> None:
    """The tracker sends mail or a chat message, where its user has asked it to."""
    if (run := running(tracker)) is not None:
        # trackio's level is WARN by default
        run.alert(alert.title, alert.text, **({"level": "WARN", "wait_duration": 1} if tracker == "wandb" else {}))
