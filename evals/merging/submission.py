"""The files that DOTA's evaluation server takes: one for each class, and all of them zipped.

    Task1_small-vehicle.txt    P0706 1.0 812.00 40.50 860.00 40.50 860.00 70.25 812.00 70.25     oriented
    Task2_small-vehicle.txt    P0706 1.0 812.00 40.50 860.00 70.25                               axis-aligned

Image, score, corners in pixels of the scene (CAPTAIN-WHU/DOTA_devkit, readme.md at 50cae84, dota_evaluation_task1.py
at 62891d3 and …task2.py at fcbc1fc). A class without any object has an empty file. Classes are spelled as in DOTA's
labels, hyphens between words.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from evals.merging.shifting import Placed
from samples.tiles.objects import written
from vlm.boxes import hull
from vlm.common.errors import UserError
from vlm.common.files import replace

TASKS = {1: "oriented", 2: "axis-aligned"}


def write(folder: Path, task: int, objects: Iterable[Placed], classes: Sequence[str]) -> Path:
    """The files of a task in `folder`/Task<task>/ and zipped beside it; returns the zip.

    Of a box of Task 2, what goes around the object. Files of other classes from an earlier merge are removed.
    Raises: UserError for a scene whose name cannot stand in a line.
    """
    objects = list(objects)
    for scene in {one.scene for one in objects}:
        check_name(scene)
    lines: dict[str, list[str]] = {file_name(task, name): [] for name in classes}
    for one in objects:
        shape = one.quad if task == 1 else hull(one.quad)
        numbers = " ".join(f"{value:.2f}" for value in shape)
        lines[file_name(task, one.label)].append(f"{one.scene} 1.0 {numbers}\n")
    place = folder / f"Task{task}"
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob(f"Task{task}_*.txt"):
        if old.name not in lines:
            old.unlink()
    for name, content in lines.items():
        replace(place / name, "".join(content))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in sorted(lines.items()):
            # with a fixed time, so that the same answers give the same bytes
            file.writestr(zipfile.ZipInfo(name), "".join(content), zipfile.ZIP_DEFLATED)
    replace(folder / f"Task{task}.zip", packed.getvalue())
    return folder / f"Task{task}.zip"


def check_name(scene: str) -> None:
    """Raises: UserError for the name of a scene that has a blank in it: lines are split there."""
    if len(scene.split()) != 1 or scene != scene.strip():
        raise UserError(
            f"the scene {scene!r} has a blank in its name, where lines of a submission are split; rename its file, and "
            "cut it again"
        )


def file_name(task: int, label: str) -> str:
    """Of a class. Raises: UserError for one that would lead to another folder, as a downloaded file may."""
    if any(mark in label for mark in "/\\\0"):
        raise UserError(f"the class {label!r} cannot name a file of a submission; leave it out: --classes plane,ship")
    return f"Task{task}_{written(label)}.txt"
