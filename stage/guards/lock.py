"""One run in a folder at a time, on file systems that several machines share, whoever dies.

    hold(folder)      → claim it, or UserError that says who holds it since when
    release(folder)   → at the end of the run; the end of the process does it, too

    <folder>/.lock-<claim>.json   {"host", "machine", "pid", "started", "since", "launch", "held"}
    <folder>/.lock-made           the folder was made for a claim: whoever releases it last removes it, if empty

A process writes a claim under a name of its own and then looks which others there are. It holds the folder where no
other one is of a living process; else it takes its own back. Of two that come together, the later one always sees the
earlier, so both may give way and try again, and never both hold it. It needs no more of a file system than that: no
locks, which some network file systems only pretend to have. What the dead have left needs no lock to be removed, for a
name is used once.

Who lives: on the same machine the process with this number and start; elsewhere one whose claim was touched within
STALE seconds, by the file system's own clock. An owner that was suspended for longer finds its claim gone, and ends.

Only the main process of a run claims; its other processes wait until it can.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import random
import shlex
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from vlm.common import files
from vlm.common.console import EXIT_USER_ERROR
from vlm.common.errors import UserError
from vlm.common.processes import is_main_process
from vlm.common.redaction import redact_command

logger = logging.getLogger(__name__)
T = TypeVar("T")

PATTERN = ".lock-*.json"
MADE = ".lock-made"
"""A file and no field of a claim: of several that come together, one makes the folder and another holds it."""
BEAT, STALE = 15.0, 300.0
"""Seconds between two touches of a claim, and after which one from another machine counts as left by a dead process:
long calls of C code, a slow file server and its caches must fit in between."""
OFTEN = 1000
"""Times that a folder may vanish under a claim; where none can be made at all (/proc), it always does."""
LOOK = 2.0
"""Seconds between two looks of one that waits."""
LAUNCHED = (
    "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
)  # fmt: skip
"""Environment variables by which the processes of one launch know each other."""


@dataclass(frozen=True)
class Claim:
    host: str
    machine: str
    "This start of this computer, and the namespace in which its processes have their numbers."
    pid: int
    started: str
    "Of the process, in the clock ticks of its machine: a number is given again."
    since: str
    command: str
    launch: str
    held: bool = False
    "False while its process looks for others."

    @classmethod
    def mine(cls) -> Claim:
        return cls(
            platform.node(), _machine(), os.getpid(), _started(os.getpid()),
            datetime.now().astimezone().isoformat(timespec="seconds"), shlex.join(redact_command(sys.argv)), _launch(),
        )  # fmt: skip

    def who(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since} ({self.command})"


_held: dict[Path, Path] = {}
"""Folder → the claim of this process."""
_guard = threading.RLock()
_owner = os.getpid()


def hold(folder: str | Path, wait: bool = False, main: bool | None = None) -> None:
    """Claim a run folder for this process, until `release` or its end; nothing happens where it is held already.

    wait: until the other run ends, instead of refusing. main: whether this process claims; by default rank 0.
    Raises: UserError where another run holds it.
    """
    folder = Path(folder).resolve()
    if not (is_main_process() if main is None else main):
        _after_main(folder, wait)
        return
    with _guard:
        _forget_parent()
        if folder in _held:
            return
    claim, told, gone = Claim.mine(), False, 0
    while True:
        path = folder / PATTERN.replace("*", uuid.uuid4().hex)
        try:
            _make(folder)
            _write(path, claim)
        except FileNotFoundError as error:  # another one has left, and taken the empty folder with it
            gone += 1
            if gone == OFTEN:
                raise UserError(f"{folder}: cannot be written to ({error}); choose another output") from error
            continue
        there = list(folder.glob(PATTERN))
        others = [other for _, other in _living(folder) if (other.machine, other.pid) != (claim.machine, claim.pid)]
        if not others:
            break
        path.unlink()
        holder = next((other for other in others if other.held), None)
        if holder is not None:
            told = _refuse_or_wait(folder, holder, wait, told)
        else:  # they give way, too; who comes first is chance
            time.sleep(random.uniform(0.01, 0.3))
    _write(path, replace(claim, held=True))
    alive = [place for place, _ in _living(folder)]
    for left in there:
        if left not in alive:
            left.unlink(missing_ok=True)
    with _guard:
        _held[folder] = path
    _begin_beating()


def _make(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        (folder / MADE).touch()


def _remove_if_empty(folder: Path) -> None:
    """The folder that was made for a claim and that nobody wrote to."""
    made = folder / MADE
    try:
        made.unlink()
    except OSError:  # made by somebody else
        return
    try:
        folder.rmdir()
    except OSError:  # not empty
        if list(folder.glob(PATTERN)):  # the next one is there: it removes the folder
            with contextlib.suppress(OSError):
                made.touch()


def _write(path: Path, claim: Claim) -> None:
    files.replace(path, json.dumps(asdict(claim)) + "\n")


def release(folder: str | Path) -> None:
    """Give it free; nothing happens where it is not held by this process."""
    with _guard:
        _forget_parent()
        folder = Path(folder).resolve()
        if folder not in _held:
            return
        _held.pop(folder).unlink(missing_ok=True)
        _remove_if_empty(folder)


def released(run: Callable[..., T]) -> Callable[..., T]:
    """Decorates a stage's `run(recipe, …)`: what it holds of the recipe's `output` is free again, however it ends."""

    @functools.wraps(run)
    def whole(recipe: Any, *positional: Any, **named: Any) -> T:
        try:
            return run(recipe, *positional, **named)
        finally:
            release(recipe.output)

    return whole


@atexit.register
def release_all() -> None:
    """What this process still holds."""
    for folder in list(_held):
        release(folder)


def _after_main(folder: Path, wait: bool) -> None:
    """Return when no other launch holds the folder: the main process of this one has it then, or will, or had it."""
    told = False
    while True:
        foreign = [claim for _, claim in _living(folder) if claim.held and claim.launch != _launch()]
        if not foreign:
            return
        told = _refuse_or_wait(folder, foreign[0], wait, told)


def _refuse_or_wait(folder: Path, holder: Claim, wait: bool, told: bool) -> bool:
    if not wait:
        raise UserError(
            f"{folder}: another run writes there: {holder.who()}. Wait for its end, or stop it, or choose another "
            f"output; resume=auto waits for it in training. (If that machine is dead, start again after {STALE:.0f} s)"
        )
    if not told:
        logger.warning("%s: another run writes there: %s; waiting until it ends", folder, holder.who())
    time.sleep(LOOK)
    return True


def _living(folder: Path) -> list[tuple[Path, Claim]]:
    """The claims of living processes, this one's included."""
    found, now = [], None
    for path in sorted(folder.glob(PATTERN)):
        claim = _read(path)
        if claim is None:
            continue
        if claim.machine == _machine():
            if claim.started == _started(claim.pid):
                found.append((path, claim))
            continue
        now = _clock(folder) if now is None else now
        with contextlib.suppress(FileNotFoundError):
            with path.open("rb") as file:  # opened, so that a network file system asks its server
                age = now - os.fstat(file.fileno()).st_mtime
            if age < STALE:
                found.append((path, claim))
    return found


def _read(path: Path) -> Claim | None:
    """None of one that was taken back meanwhile."""
    try:
        return Claim(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: found no claim of a run ({error}); if no run writes into {path.parent}, delete the file"
        ) from None


def _clock(folder: Path) -> float:
    """What the file system takes for the present time; machines disagree."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        file.write(b"\n")
        file.flush()
        return os.fstat(file.fileno()).st_mtime


def _machine() -> str:
    def read(path: str) -> str:
        return Path(path).read_text(encoding="utf-8").strip() if Path(path).is_file() else ""

    namespace = "/proc/self/ns/pid"
    numbers = os.readlink(namespace) if os.path.islink(namespace) else ""
    return f"{read('/proc/sys/kernel/random/boot_id') or platform.node()} {numbers}".strip()


def _started(pid: int) -> str:
    """When the process began, in its machine's clock ticks; "" where it runs no more, "?" where that cannot be told."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return "?"
    try:
        # the name, in brackets, may hold anything
        said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = said.split()
    return "" if state in "ZX" else fields[18]


def _launch() -> str:
    return hashlib.sha256(json.dumps([os.environ.get(name) for name in LAUNCHED]).encode()).hexdigest()[:16]


# the heartbeat

_beating: threading.Thread | None = None
_asleep = threading.Event()


def _begin_beating() -> None:
    global _beating
    if _beating is None or not _beating.is_alive():
        _beating = threading.Thread(target=_beat, name="lock", daemon=True)
        _beating.start()


def _beat() -> None:
    while not _asleep.wait(BEAT):
        touch()


def touch() -> None:
    """Say of each claim that its owner lives. Ends the process where another run has taken the folder."""
    with _guard:
        for folder, path in list(_held.items()):
            try:
                os.utime(path)
            except FileNotFoundError:
                _lost(folder, path)
            except OSError as error:  # a file server that is away for a while
                logger.warning("%s: the claim of this run could not be renewed (%s)", path, error)


def _lost(folder: Path, path: Path) -> None:
    """The claim is gone: taken for dead, or removed with the folder or by hand."""
    if not folder.is_dir():
        _held.pop(folder)
        return
    holder = next((claim for other, claim in _living(folder) if claim.held and other != path), None)
    if holder is None:
        _write(path, replace(Claim.mine(), held=True))
        return
    print(
        f"error: {folder}: this run was taken for dead, for it gave no sign for {STALE:.0f} s, and another one has "
        f"taken the folder: {holder.who()}. This one ends, and writes nothing more",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT_USER_ERROR)


def _forget_parent() -> None:
    """In a forked process: what the parent holds is the parent's."""
    global _owner
    if _owner != os.getpid():
        _held.clear()
        _owner = os.getpid()
