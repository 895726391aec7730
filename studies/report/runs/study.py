"""The runs of a matrix by label, from its study.json (launch/ablate.py):

    {"runs": [{"label": "R1-with", "seed": 0, "stages": {"sft": "SFT/seed-0/sft", "grpo": "R1-with/seed-0/grpo", …}}],
     "matrix": {"stages": {"sft": {"launch": "sft", …}, …}}}

Folders are seen from the study's. A label's curves are those of the last stage that trains; an earlier one stands by
itself, unless it is another label's last; evaluations go to the label. What several labels share stands once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studies.report.runs import folders
from studies.report.runs.folders import Folder
from vlm.common.errors import DataError

FILE = "study.json"
TRAINERS = ("sft", "grpo", "score")
"""Launchers that train."""


def read(folder: Path) -> dict[str, list[Folder]]:
    """Label (or stage) → its runs; stages that have not begun are left out.

    Raises: DataError where none has begun, or the file is not as described.
    """
    path = folder / FILE
    content = folders.of_json(path)
    try:
        placed = _places(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected runs with label and stages, and the matrix's stages ({error!r})") from error
    found: dict[str, list[Folder]] = {}
    for place, (name, seed) in placed.items():
        if folders.is_run(folder / place):
            run = folders.read(folder / place, place)
            if seed is not None:
                run.seed = str(seed)
            found.setdefault(name, []).append(run)
    if not found:
        raise DataError(f"{folder}: none of the runs of {FILE} has begun; start them with launch/ablate.py")
    return found


def _places(content: dict[str, Any]) -> dict[str, tuple[str, int | None]]:
    """Folder of a stage → the name of its curve, and the matrix's seed."""
    kinds = {name: section.get("launch") for name, section in content["matrix"]["stages"].items()}
    mains: dict[str, tuple[str, int | None]] = {}
    others: dict[str, tuple[str, int | None]] = {}
    for run in content["runs"]:
        trained = [name for name in run["stages"] if kinds.get(name) in TRAINERS]
        for name, place in run["stages"].items():
            if trained and name == trained[-1]:
                mains.setdefault(place, (run["label"], run.get("seed")))
            else:
                others.setdefault(place, (name if name in trained else run["label"], run.get("seed")))
    return {**mains, **{place: found for place, found in others.items() if place not in mains}}
