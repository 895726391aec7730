"""What has become of a stage: read from its run folder, and from the record beside it.

    R1-with/seed-0/grpo.json   {"command": [...], "inputs": {"SFT/seed-0/sft": 1760000000.0},
                                "attempts": [{"began": …, "ended": …, "exit_code": 0}]}

`inputs` are the ends of the stages it began from: one that was run again since makes what was made from it stale. The
lock beside it (grpo.lock) is held by whoever starts the stage and by the stage's own process, so a stage that outlives
the ablation that started it is not started twice.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stage import runs
from stage.checkpoints import manifest
from studies.matrix.planning import Plan, Stage
from vlm.common.errors import RESUMABLE, UserError

Kind = Literal["finished", "running", "begun", "to do"]
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""A file system without locks: nobody is kept from starting a stage twice there."""


@dataclass(frozen=True)
class State:
    kind: Kind
    step: int | None = None
    "Of the last checkpoint."
    seconds: float | None = None
    "What a finished stage took; None where nobody saw one of its attempts end."
    failed: bool = False
    "Whether its last attempt did."

    def __str__(self) -> str:
        if self.kind == "finished":
            return "finished" if self.seconds is None else f"finished {clock(self.seconds)}"
        at = "" if self.step is None else f", step {self.step}"
        return f"{self.kind}{at}" + (", failed" if self.failed else "")


def clock(seconds: float) -> str:
    """65 → 1:05, and hours where there are some."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def beside(stage: Stage, suffix: str) -> Path:
    return stage.folder.parent / f"{stage.folder.name}{suffix}"


def log(stage: Stage) -> Path:
    return beside(stage, ".log")


def record(stage: Stage) -> dict[str, Any]:
    path = beside(stage, ".json")
    if not path.is_file():
        return {"command": None, "inputs": {}, "attempts": []}
    return json.loads(path.read_text(encoding="utf-8"))


def write(stage: Stage, content: dict[str, Any]) -> None:
    path = beside(stage, ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.replace(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def ended(stage: Stage) -> float | None:
    """When it was finished (Unix seconds); None where it is not. A command is, where its last attempt ended with 0."""
    if stage.words:
        last = (record(stage)["attempts"] or [{}])[-1]
        return last["ended"] if last.get("exit_code") == 0 else None
    path = stage.folder / runs.FINISHED
    return float(json.loads(path.read_text(encoding="utf-8"))["time"]) if path.is_file() else None


def state(stage: Stage) -> State:
    attempts = record(stage)["attempts"]
    spent = [one["ended"] - one["began"] for one in attempts if "ended" in one]
    if ended(stage) is not None:
        return State("finished", seconds=sum(spent) if spent and len(spent) == len(attempts) else None)
    failed = bool(attempts) and attempts[-1].get("exit_code", 0) != 0 and not stopped(stage, attempts[-1]["exit_code"])
    if running(stage):
        return State("running")
    saved = [path for path in manifest.folders(stage.folder) if (path / manifest.MANIFEST).is_file()]
    if saved:
        return State("begun", manifest.header(saved[-1]).step, failed=failed)
    begun = (stage.folder / runs.RECIPE).is_file() or (bool(stage.words) and bool(attempts))
    return State("begun" if begun else "to do", failed=failed)


def stopped(stage: Stage, code: int) -> bool:
    """Whether the last attempt, which ended with this exit code, was stopped by a signal and continues when started
    again."""
    if code in (RESUMABLE, 130, -signal.SIGINT, -signal.SIGTERM):
        return True
    # launchers of several processes do not pass on exit codes: `stage.signals` leaves a mark in the folder
    mark = stage.folder / runs.INTERRUPTED
    return (
        mark.is_file()
        and json.loads(mark.read_text(encoding="utf-8"))["time"] >= record(stage)["attempts"][-1]["began"]
    )


def check(plan: Plan) -> None:
    """Raises: UserError naming every stage that was made from something which is not there any more as it was."""
    faults = []
    for stage in plan.stages:
        found = record(stage)
        if stage.words and found["command"] not in (None, stage.words):
            faults.append(f"  {stage.folder} was made by {found['command']}, and now it is {stage.words}")
        for one in stage.needs:
            before, now = found["inputs"].get(one.key), ended(one)
            if before is not None and before != now and state(stage).kind != "to do":
                what = "has been run again since" if now is not None else "is not there any more, or not finished"
                faults.append(f"  {stage.folder} was made from {one.folder}, which {what}")
    if faults:
        raise UserError(
            "\n".join(["stale:", *faults, "Remove these folders (and their .json), or put back what is gone"])
        )


def claim(stage: Stage, wait: bool = False) -> int | None:
    """The stage's lock as an open file, to be handed to its process; None where somebody else holds it."""
    path = beside(stage, ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return descriptor


def running(stage: Stage) -> bool:
    """Whether somebody holds its lock."""
    if not beside(stage, ".lock").exists():
        return False
    descriptor = claim(stage)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def begin(stage: Stage, command: list[str]) -> None:
    """Note that an attempt begins. The first one, or one that begins again, notes what it begins from."""
    content = record(stage)
    content["command"] = stage.words or command
    content["inputs"] = {one.key: ended(one) for one in stage.needs}
    content["attempts"].append({"began": round(time.time(), 3)})
    write(stage, content)


def end(stage: Stage, code: int) -> None:
    content = record(stage)
    content["attempts"][-1] |= {"ended": round(time.time(), 3), "exit_code": code}
    write(stage, content)
