"""DOTA submissions: a file for each class, a line for each object, as DOTA's server takes them
(CAPTAIN-WHU/DOTA_devkit, dota_evaluation_task1.py at 62891d3, dota_evaluation_task2.py at fcbc1fc).

    Task1_small-vehicle.txt    P0706 0.912 812 40.5 860 40.5 860 70.25 812 70.25    image, score, four corners
    Task2_small-vehicle.txt    P0706 0.912 812 40.5 860 70.25                       image, score, x1 y1 x2 y2

The files lie in a folder or a zip. What does not fit the truth wholly is refused with file and line: a picture or class
that it does not have, another count of numbers, a score outside 0–1.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from evals.scoring.detectors.found import Found
from evals.scoring.detectors.truth import Truth
from samples.readers.rows import show
from vlm.boxes import spoken
from vlm.common.errors import DataError

FILE = re.compile(r"Task(?P<task>[12])_(?P<name>.+)\.txt")
COUNTS = {1: 8, 2: 4}
"""Task → numbers behind image and score."""


def task(path: Path) -> int:
    """1 (oriented) or 2 (boxes). Raises: DataError for a folder or zip that has no such files, or both."""
    tasks = {int(one["task"]) for name in _names(path) if (one := FILE.fullmatch(PurePosixPath(name).name))}
    if len(tasks) != 1:
        found = "files of both tasks" if tasks else "no file of that name"
        raise DataError(f"{path}: found {found}, expected Task1_<class>.txt for each class, or Task2_<class>.txt")
    return tasks.pop()


def read(path: Path, truth: Truth) -> tuple[dict[str, Found], list[str]]:
    """What was found in each picture, and what to say of it. Raises: DataError naming file and line."""
    count, spellings = COUNTS[task(path)], {name: name for name in truth.classes}
    out = {name: Found() for name in truth.pictures}
    seen: dict[str, str] = {}
    for name, lines in _files(path):
        match = FILE.fullmatch(PurePosixPath(name).name)
        assert match is not None
        label = spellings.get(spoken(match["name"]))
        if label is None:
            known = ", ".join(truth.classes)
            raise DataError(f"{path}, {name}: found the class {match['name']!r}, expected one of the truth: {known}")
        if label in seen:
            raise DataError(f"{path}: found {seen[label]} and {name}, expected one file for the class {label}")
        seen[label] = name
        for number, line in enumerate(lines, 1):
            if line.strip():
                _add(out, line, label, count, f"{path}, {name}, line {number}")
    missing = [name for name in truth.classes if name not in seen]
    return out, [f"no file for {', '.join(missing)}: as if none was found"] if missing else []


def _add(out: Mapping[str, Found], line: str, label: str, count: int, where: str) -> None:
    image, *texts = line.split()
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if len(numbers) != 1 + count or not all(math.isfinite(one) for one in numbers):
        raise DataError(f"{where}: found {show(line.strip())}, expected image, score and {count} numbers")
    if not 0 <= numbers[0] <= 1:
        raise DataError(f"{where}: found the score {numbers[0]:g}, expected 0 to 1")
    if image not in out:
        raise DataError(f"{where}: found the picture {image!r}, which the truth does not have (names have no ending)")
    out[image].add(numbers[1:], label, numbers[0])


def _names(path: Path) -> list[str]:
    if path.is_dir():
        return sorted(entry.name for entry in path.iterdir() if entry.is_file())
    try:
        with zipfile.ZipFile(path) as file:
            return sorted(name for name in file.namelist() if not name.endswith("/"))
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a folder or a zip of Task1_<class>.txt") from error


def _files(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(name, lines) of those that are named as results."""
    names = [name for name in _names(path) if FILE.fullmatch(PurePosixPath(name).name)]
    for name in names:
        try:
            if path.is_dir():
                data = (path / name).read_bytes()
            else:
                with zipfile.ZipFile(path) as file:
                    data = file.read(name)
            yield name, data.decode().splitlines()
        except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
            raise DataError(f"{path}, {name}: cannot be read ({error})") from error
