"""Who hangs, in which phase, where in the code.

Each process tells what it does in `heartbeats/rank-N.json` of the run folder, by a thread of its own:

    {"rank": 1, "host": "node3", "pid": 4711, "step": 120, "phase": "rewards", "seconds": 1812.4, "collectives": 9120,
     "waits": false, "at": "judge.py:31 in ask", "time": 1760000000.0}

`seconds`: since something has happened there. `collectives`: the calls in which processes meet that it has begun
(`stage.parallel.agreement.begun`). `at`: the innermost line that is no library's. `waits`: it is inside of
torch.distributed or DeepSpeed's communication. When nothing has happened in a process for `watchdog.minutes`, it writes
the stacks of its threads to stderr and to `heartbeats/rank-N.txt`; the first of those that stand still also writes a
line for each process, and names those to look at first: silent ones, and those that do not wait for others.

Who waits: under NCCL a process waits in `.item()` or a backward pass, which look like work, so that the numbers decide.
Who has begun fewer collectives than another has not come to where that one is, and all others wait for it. Where all
have begun the same, or nobody counts, `waits` decides: a guess, and the stacks are the facts.

A process whose interpreter is blocked by C code that keeps Python's lock can tell nothing; the others tell how long it
has been silent. The run folder must be shared by all processes, as checkpoints need it too.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stage.guards import progress
from stage.guards.progress import Progress
from stage.parallel.agreement import begun
from stage.recipe.sections import WatchdogSection
from vlm.common.errors import RESUMABLE
from vlm.common.files import replace
from vlm.common.processes import processes

FOLDER = "heartbeats"
INTERVAL = 15.0
"""Seconds between two heartbeats."""
COMMUNICATION = (os.path.join("torch", "distributed"), os.path.join("deepspeed", "comm"))


class Watchdog:
    """Watches the thread that makes it. `look` does one round; `watching` has a thread do rounds."""

    def __init__(
        self,
        section: WatchdogSection,
        run: Path,
        rank: int,
        here: Progress,
        count: int = 1,
        now: Callable[[], float] = time.time,
        end: Callable[[int], Any] = os._exit,
    ):
        self.section, self.folder, self.rank, self.here, self.count = section, run / FOLDER, rank, here, count
        self.now, self.end = now, end
        self.limit = section.minutes * 60
        self.thread = threading.get_ident()
        self._spoken = False

    @property
    def file(self) -> Path:
        return self.folder / f"rank-{self.rank}.json"

    def look(self) -> None:
        """Write the heartbeat, and speak where it has come to that; once until something happens again."""
        own = self.state()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace(self.file, json.dumps(own) + "\n")
        except OSError:  # a full disk: what there is to say goes to stderr all the same
            pass
        if own["seconds"] < self.limit:
            self._spoken = False
        elif not self._spoken:
            self._spoken = True
            self._speak(own)
            if self.section.abort:
                self.end(RESUMABLE)

    def state(self) -> dict[str, Any]:
        at, waits = place(sys._current_frames().get(self.thread))
        return {
            "rank": self.rank, "host": socket.gethostname(), "pid": os.getpid(), "step": self.here.step,
            "phase": self.here.phase, "seconds": round(self.here.seconds, 1), "collectives": begun(),
            "waits": waits, "at": at, "time": round(self.now(), 1),
        }  # fmt: skip

    def _speak(self, own: dict[str, Any]) -> None:
        states = {**self._others(), self.rank: own}
        still = [rank for rank, state in states.items() if state["seconds"] >= self.limit]
        if min(still) == self.rank:
            print(report(states, self.now(), self.limit), file=sys.stderr, flush=True)
        print(f"watchdog: the threads of rank {self.rank}:", file=sys.stderr, flush=True)
        try:
            with open(self.file.with_suffix(".txt"), "w", encoding="utf-8") as file:
                file.write(f"{report(states, self.now(), self.limit)}\n\n")
                file.flush()
                faulthandler.dump_traceback(file)
        except OSError:
            pass
        faulthandler.dump_traceback(sys.__stderr__ or 2)

    def _others(self) -> dict[int, dict[str, Any]]:
        return told(self.folder, self.count, self.now())


def told(folder: Path, count: int, now: float) -> dict[int, dict[str, Any]]:
    """What the processes have told last, by rank, their seconds carried on until now. folder: of heartbeats."""
    found = {}
    for path in folder.glob("rank-*.json"):
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["rank"] >= count:  # of an earlier run of more processes
            continue
        silent = max(0.0, now - state["time"])
        found[state["rank"]] = state | {"seconds": state["seconds"] + silent, "silent": silent}
    return found


def compared(states: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The states, with `behind`, the collectives that a process has yet to begin and another has, and `waits` as that
    says; both by their places in the code where all have begun the same, or one does not count."""
    counts = [state["collectives"] for state in states.values() if state.get("collectives") is not None]
    if len(counts) < len(states) or len(set(counts)) < 2:
        return states
    most = max(counts)
    return {
        rank: state | {"behind": most - state["collectives"], "waits": state["collectives"] > min(counts)}
        for rank, state in states.items()
    }


def doing(state: dict[str, Any]) -> str:
    """Where a process is, e.g. `step 3, rewards for 41 s, at judge.py:31 in ask`."""
    what = f"step {state['step']}, {state['phase']} for {_minutes(state['seconds'])}"
    return what + (", waiting for other processes" if state["waits"] else f", at {state['at']}" if state["at"] else "")


def place(frame: FrameType | None) -> tuple[str, bool]:
    """(innermost line of a thread that is in no installed library, whether it waits for other processes)."""
    waits, innermost = False, None
    while frame is not None:
        path = frame.f_code.co_filename
        waits = waits or any(part in path for part in COMMUNICATION)
        if "site-packages" not in path and os.path.isabs(path) and not path.startswith(os.path.dirname(os.__file__)):
            innermost = frame
            break
        frame = frame.f_back
    if innermost is None:
        return "", waits
    return f"{Path(innermost.f_code.co_filename).name}:{innermost.f_lineno} in {innermost.f_code.co_name}", waits


def report(states: dict[int, dict[str, Any]], now: float, limit: float) -> str:
    """A line for each process, and which of them have stopped."""
    states = compared(states)
    lines, silent = [], [rank for rank, state in states.items() if state.get("silent", 0) > 4 * INTERVAL]
    for rank, state in sorted(states.items()):
        what = doing(state)
        if state.get("collectives") is not None:
            what += f"; {state['collectives']} collectives begun"
        what += f"; silent for {_minutes(state['silent'])}" if rank in silent else ""
        lines.append(f"  rank {rank} ({state['host']}, process {state['pid']}): {what}")
    counted = any("behind" in state for state in states.values())
    # who merely waits for others is not what stopped the run; nor who still moves, unless the others wait for it
    stopped = [
        rank
        for rank, state in states.items()
        if rank in silent or (not state["waits"] and (counted or state["seconds"] >= limit))
    ]
    stopped.sort(key=lambda rank: (rank not in silent, -states[rank]["seconds"], rank))
    named = ", ".join(f"rank {rank} in {states[rank]['phase']}" for rank in stopped)
    verdict = f"look first at {named}" if stopped else "all wait for each other"
    if counted:
        verdict += "; who has begun fewest collectives is whom the others wait for"
    elif len(states) > 1 and all(state.get("collectives") for state in states.values()):
        verdict += "; all have begun the same collectives, so the numbers name nobody, and it may be the network"
    return "\n".join([f"watchdog: nothing has happened for {_minutes(limit)}; {verdict}", *lines])


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


class Phases(TrainerCallback):
    """Says where a transformers Trainer is; what happens within a step, `rl.counters` says."""

    def __init__(self, here: Progress):
        self.here = here

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.here.at("first batch", state.global_step)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.here.at("update", state.global_step + 1)

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.here.moved()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.here.at("evaluation" if control.should_evaluate else "save" if control.should_save else "next batch")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.here.at("evaluation")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.here.at("save" if control.should_save else "next batch")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.here.at("next batch")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.here.at("end")


@contextmanager
def watching(section: WatchdogSection | None, run: Path, rank: int, trainer: Any) -> Iterator[None]:
    """Within, a thread watches this one. section: None for no watchdog."""
    if section is None:
        yield
        return
    trainer.add_callback(Phases(progress.here))
    dog, done = Watchdog(section, run, rank, progress.here, processes()), threading.Event()

    def rounds() -> None:
        dog.look()
        while not done.wait(min(INTERVAL, dog.limit / 4)):
            dog.look()

    thread = threading.Thread(target=rounds, name="watchdog", daemon=True)
    progress.here.at("start")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if sys.exc_info()[0] is None:  # of a run that failed, what each process did last is worth keeping
            dog.file.unlink(missing_ok=True)
