"""Stages are started as their needs are met and a slot is free; one that fails does not stop the others.

A signal (Ctrl-C, SIGTERM, SIGUSR1, SIGHUP) is passed on to the running stages, which write a checkpoint; nothing more
is started. Killed with -9, an ablation leaves its stages running: the next one waits for them and continues.
"""

from __future__ import annotations

import os
import queue
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from studies.matrix import commands, marks
from studies.matrix.planning import Stage

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@dataclass
class Outcome:
    """What became of the stages that were to be run."""

    finished: list[Stage] = field(default_factory=list)
    failed: dict[Stage, int] = field(default_factory=dict)
    "And their exit codes."
    stopped: list[Stage] = field(default_factory=list)
    "They continue where they stopped, when the same command is given again."
    waiting: list[Stage] = field(default_factory=list)
    "Not started: what they need has failed, or a signal came before."


@dataclass(frozen=True)
class Event:
    """The end of a process: of ours, or of one that another ablation started."""

    stage: Stage
    code: int | None
    "The exit code of ours."


@dataclass
class _Under:
    process: subprocess.Popen
    slot: str | None
    lock: int
    began: float


class Runner:
    """Runs stages in slots.

    slots: one for each stage that may run at a time: the GPUs it sees ("0,1"), or None for whatever there is.
    command: of a stage. say: prints one line.
    """

    def __init__(self, slots: list[str | None], command: Callable[[Stage], list[str]], say: Callable[[str], None]):
        self.free, self.at_once = list(slots), len(slots)
        self.command, self.say = command, say
        # its put may be called in a signal's handler
        self.events: queue.SimpleQueue[Event | signal.Signals] = queue.SimpleQueue()
        self.under: dict[Stage, _Under] = {}
        self.elsewhere: set[Stage] = set()
        self.stopping = False

    def run(self, stages: Iterable[Stage]) -> Outcome:
        """stages: in order; those that have finished are left alone."""
        todo = [stage for stage in stages if marks.ended(stage) is None]
        outcome, total = Outcome(), len(todo)
        with self._listening():
            while True:
                if not self.stopping:
                    self._start(todo, outcome)
                if not self.under and (self.stopping or not self.elsewhere):
                    break
                self._take(self.events.get(), todo, outcome, total)
        outcome.waiting = todo + [stage for stage in self.elsewhere if stage not in todo]
        return outcome

    def _start(self, todo: list[Stage], outcome: Outcome) -> None:
        for stage in list(todo):
            if not self.free:
                return
            if marks.ended(stage) is not None:  # another ablation was quicker
                todo.remove(stage)
                outcome.finished.append(stage)
            elif all(marks.ended(one) is not None for one in stage.needs):
                todo.remove(stage)
                self._launch(stage)

    def _launch(self, stage: Stage) -> None:
        lock = marks.claim(stage)
        if lock is None:
            self.elsewhere.add(stage)
            self.say(f"{stage.key}: runs already, started by another ablation; waiting for it")
            threading.Thread(target=self._watch_lock, args=(stage,), daemon=True).start()
            return
        if marks.ended(stage) is not None:  # another ablation has finished it a moment ago
            os.close(lock)
            return self.events.put(Event(stage, None))
        command, slot = self.command(stage), self.free.pop(0)
        marks.begin(stage, command)
        with marks.log(stage).open("ab") as log:
            log.write(f"\n# {time.strftime('%Y-%m-%d %H:%M:%S')}\n$ {shlex.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                commands.started(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=commands.environment(slot, self.at_once),
                pass_fds=(lock,),  # held as long as the process lives, also where this one dies first
                start_new_session=True,  # a terminal's Ctrl-C reaches it through us, once
            )
        self.under[stage] = _Under(process, slot, lock, time.monotonic())
        threading.Thread(target=self._watch_process, args=(stage, process), daemon=True).start()
        on = "" if slot is None else f" on GPU {slot}"
        self.say(f"{stage.key}: started{on}; log: {marks.log(stage)}")

    def _watch_process(self, stage: Stage, process: subprocess.Popen) -> None:
        self.events.put(Event(stage, process.wait()))

    def _watch_lock(self, stage: Stage) -> None:
        if (lock := marks.claim(stage, wait=True)) is not None:
            os.close(lock)
        self.events.put(Event(stage, None))

    def _take(self, event: Event | signal.Signals, todo: list[Stage], outcome: Outcome, total: int) -> None:
        if isinstance(event, signal.Signals):
            self.stopping = True
            self.say(f"{event.name}: {len(self.under)} stages are asked to stop, with a checkpoint")
            for under in self.under.values():
                # who listens to none but Ctrl-C and SIGTERM gets one of them
                under.process.send_signal(signal.SIGINT if event == signal.SIGINT else signal.SIGTERM)
            return
        stage, code = event.stage, event.code
        if code is None:
            self.elsewhere.discard(stage)
            todo.insert(0, stage)  # finished: taken out at once; died: to be continued
            return
        under = self.under.pop(stage)
        marks.end(stage, code)
        os.close(under.lock)
        self.free.append(under.slot)
        took = marks.clock(time.monotonic() - under.began)
        if marks.ended(stage) is not None:
            outcome.finished.append(stage)
            self.say(f"{stage.key}: finished in {took} ({len(outcome.finished)} of {total})")
        elif marks.stopped(stage, code):
            outcome.stopped.append(stage)
            self.say(f"{stage.key}: stopped after {took}; it continues from there when started again")
        else:
            outcome.failed[stage] = code
            self.say(f"{stage.key}: FAILED after {took} with exit code {code}; log: {marks.log(stage)}")

    @contextmanager
    def _listening(self) -> Iterator[None]:
        def noted(number: int, frame: object) -> None:
            self.events.put(signal.Signals(number))

        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # by nohup
        listened = [number for number in STOPPING if not (ignored and number == signal.SIGHUP)]
        before = {number: signal.signal(number, noted) for number in listened}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
