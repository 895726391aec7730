"""Checkpoint folders: written aside, put in place by one rename, deleted out of sight.

    runs/r1/.unfinished/checkpoint-120/    while it is written, and while it is deleted
    runs/r1/checkpoint-120/                a whole one, from one moment to the next

A process that dies at any moment leaves whole checkpoints and perhaps `.unfinished`, which the next save or start
clears away. One process of a run does what stands here; the file system must be shared by all of them.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

from stage.checkpoints import manifest

logger = logging.getLogger(__name__)

ASIDE = ".unfinished"
OWNED = re.compile(r"(?:run_state|rng_state|optimizer|zero_pp_rank)_(\d+)")
"""What files are called that each process writes for itself: ours, transformers', FSDP's and DeepSpeed's."""


def clear(run: Path) -> None:
    """Remove what a dead process, or a save that failed, has left."""
    if (run / ASIDE).is_dir():
        shutil.rmtree(run / ASIDE, ignore_errors=True)


def begin(run: Path, step: int) -> Path:
    """An empty folder to write the checkpoint of this step into."""
    clear(run)
    folder = run / ASIDE / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    return folder


def flush_own(folder: Path, rank: int) -> None:
    """Bring to the disk what this process has written of a checkpoint, while the others do the same.

    `commit` then finds nothing left to wait for. A file without a process's number is the main one's.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            number = OWNED.search(path.name)
            if rank == (int(number[1]) if number else 0):
                _flush(path)


def commit(run: Path, folder: Path) -> Path:
    """Put the finished `folder` in its place, on the disk for good; returns where it lies now.

    What lies there already (a broken checkpoint, or one that a resume from an earlier step has written again) goes.
    """
    for path in sorted(folder.rglob("*")):
        _flush(path)
    _flush(folder)
    place = run / folder.name
    if place.exists():
        _remove(run, place)
    folder.rename(place)
    _flush(run)
    clear(run)
    return place


def prune(run: Path, keep: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints beyond the last `keep` (None, 0: none is deleted); the best one stays as well.

    Folders that are not whole are counted nowhere and left to be looked at.
    """
    if not keep or keep < 1:
        return
    paths = [path for path in manifest.folders(run) if (path / manifest.MANIFEST).is_file()]
    for path in paths[:-keep]:
        if best is None or path.name != Path(best).name:
            _remove(run, path)


def room(run: Path) -> int:
    """Bytes free on the disk of a run folder, which need not be there yet."""
    there = run.expanduser().absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def _remove(run: Path, path: Path) -> None:
    """Delete a checkpoint so that at no moment a part of it has its name."""
    aside = run / ASIDE
    aside.mkdir(exist_ok=True)
    gone = aside / f"old-{path.name}"
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    if not any(aside.iterdir()):
        aside.rmdir()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
