"""One evaluation by several processes, as `accelerate launch` or torchrun start them: questions are dealt out, each
process writes what it answers to a file of its own, and the main one puts the files together in the order of the
questions.

    predictions.jsonl               what is finished and put together
    predictions.rank1-of-2.jsonl    what a process is writing, or left when it was killed

Any number of processes may continue what any number began.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals import predictions
from evals.predictions import Prediction
from stage.parallel.team import Team
from vlm.common.files import replace
from vlm.common.processes import is_main_process

FILE = "predictions.jsonl"
PARTS = "predictions.rank*-of-*.jsonl"
CONTROLLED = "controls"
"""Folder of the folders in which controls (`evals.controls`) have files of the same names."""


def part(folder: Path, team: Team) -> Path:
    """The file that this process writes; the one file itself where it is alone."""
    return folder / (FILE if team.size == 1 else f"predictions.rank{team.rank}-of-{team.size}.jsonl")


def gather(folder: Path, order: Sequence[str] | None = None) -> list[Prediction]:
    """Put the parts into `predictions.jsonl` and return what it holds; for the main process, while no other writes.

    A line that was not finished is cut off. order: the questions' keys; without it rows stay as they come. The file is
    at every moment the old one or the new one, and parts go when it is there.
    """
    whole, parts = folder / FILE, sorted(folder.glob(PARTS))
    found: dict[str, Prediction] = {}
    for path in (*([whole] if whole.exists() else []), *parts):
        # one killed between replacing the file and removing the parts left rows that are in both
        found |= {row.key: row for row in predictions.resume(path) if row.key not in found}
    if not parts and order is None:
        return list(found.values())
    if order is not None:
        place = {key: number for number, key in enumerate(order)}
        found = dict(sorted(found.items(), key=lambda item: place.get(item[0], len(place))))
    replace(whole, "".join(predictions.line(row) + "\n" for row in found.values()))
    for path in parts:
        path.unlink()
    return list(found.values())


def discard(folder: Path) -> None:
    """Remove what an earlier run answered, its own questions and those of controls; for the main process."""
    if is_main_process():
        for place in (folder, *folder.glob(f"{CONTROLLED}/*/")):
            for path in (place / FILE, *place.glob(PARTS)):
                path.unlink(missing_ok=True)
