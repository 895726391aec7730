"""Masks on a grid as text: runs of one value within each row, as RSCoVLM and Text4Seg write them.

    rows         runs "0*4;0*1,1*2,0*1;0*4;"       labels   "others *4\\n others *1| dam *2| others *1\\n others *4\\n"

both between `<seg>` and `</seg>`. A text that is not written so is mended, and each mending counted:

    prose     words before or behind the one block
    tags      `<seg>` is missing, or both are, and all of the text is rows
    cut       `</seg>` is missing: cut off at the end. A last row that is not closed counts as broken
    closed    the last row is not closed
    broken    a row with anything but runs in it, and one that is empty, is background
    rows      rows that are missing are background, those beyond the grid are dropped: how many
    short     a row with fewer cells than the grid is wide goes on as background
    long      a row with more is cut
    labels    (labels) runs of another label than the one that was asked for are background; where that is not known,
              runs of a second label and further ones count as object

Rows that are broken, missing or beyond may be a quarter of the grid's (`OFF`), whatever the cause: else the text is
unreadable, as it is without one proper row, with two blocks, or with none and anything but rows. So what is mended is
background or what was written, and no text is cheaper for what it leaves out. Text4Seg's own reader goes on with the
last label where cells are missing, and shifts all rows behind a short one.

Blanks between runs and rows are free. Counts are never expanded: a row is as wide as its grid, whatever it says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

OFF = 0.25
"""Share of a grid's rows that may be broken, missing or too many."""
OPEN, CLOSE = "<seg>", "</seg>"
OTHERS = "others"
"""Text4Seg's label of the background."""
_VALUE = re.compile(r"([01])\s*\*\s*(\d+)")
_LABEL = re.compile(r"([^|*\n]*[^|*\s])\s*\*\s*(\d+)")

Run = tuple[bool, int]
"""(object?, cells)."""


def row_runs(row: np.ndarray) -> list[Run]:
    """Runs of one row (gw,) of a mask."""
    places = np.concatenate(([0], np.flatnonzero(np.diff(row)) + 1, [len(row)])).tolist()
    return [(bool(row[start]), end - start) for start, end in zip(places[:-1], places[1:], strict=True)]


def write_values(grid: np.ndarray) -> str:
    """RSCoVLM's rows; grid: (gh, gw) bool.

    Source: `encode_mask` of rscovlm/training/data/refgeo_dataset.py in VisionXLab/RSCoVLM at bfc2ff7.
    """
    rows = (",".join(f"{value:d}*{count}" for value, count in row_runs(row)) for row in grid)
    return f"{OPEN}{';'.join(rows)};{CLOSE}"


def write_labels(grid: np.ndarray, label: str) -> str:
    """Text4Seg's rows; label: what the object is called.

    Source: `encode_mask` of playground/data/create_json/utils.py in mc-lan/Text4Seg at 069a7f7.
    """
    names = (OTHERS, label)
    rows = ("| ".join(f"{names[value]} *{count}" for value, count in row_runs(row)) for row in grid)
    return OPEN + "\n ".join(rows) + f"\n{CLOSE}"


def block(text: str, repairs: Counter[str]) -> tuple[str, bool] | None:
    """What stands between the tags, and whether it is cut off; None where there is not one clear block."""
    opened, closed = text.count(OPEN), text.count(CLOSE)
    if opened > 1 or closed > 1 or (opened and closed and text.index(CLOSE) < text.index(OPEN)):
        return None
    before, _, rest = text.rpartition(OPEN)
    inside, _, behind = rest.partition(CLOSE)
    repairs["prose"] += bool(before.strip()) + bool(behind.strip())
    repairs["tags"] += not opened
    repairs["cut"] += bool(opened and not closed)
    return inside, bool(opened and not closed)


def read_values(text: str, shape: tuple[int, int], repairs: Counter[str]) -> np.ndarray | None:
    """The grid (gh, gw) of RSCoVLM's rows; None where unreadable."""
    if (found := block(text.strip(), repairs)) is None:
        return None
    *rows, rest = found[0].split(";")
    return _grid([_runs(row, ",", _VALUE) for row in _last(rows, rest, *found, repairs)], shape, repairs, "1")


def read_labels(text: str, shape: tuple[int, int], repairs: Counter[str], label: str | None) -> np.ndarray | None:
    """The grid (gh, gw) of Text4Seg's rows; None where unreadable. label: what the object is called, if known."""
    if (found := block(text.strip(), repairs)) is None:
        return None
    *rows, rest = found[0].lstrip("\n").split("\n")
    named = [_runs(row, "|", _LABEL) for row in _last(rows, rest, *found, repairs)]
    labels = Counter(name for row in named for name, _ in row or () if name != OTHERS)
    if label is None:
        repairs["labels"] += labels.total() - (labels.most_common(1)[0][1] if labels else 0)
        wanted = set(labels)
    else:
        wanted = {name for name in labels if name.casefold() == " ".join(label.casefold().split())}
        repairs["labels"] += sum(count for name, count in labels.items() if name not in wanted)
    return _grid(named, shape, repairs, *wanted)


def _last(rows: list[str], rest: str, inside: str, cut: bool, repairs: Counter[str]) -> list[str]:
    """All rows, given those that are closed and what stands behind the last one."""
    if not rest.strip():
        return rows
    repairs["closed"] += not cut
    return [*rows, "" if cut else rest]


def _runs(row: str, joint: str, one: re.Pattern[str]) -> list[tuple[str, int]] | None:
    """(name, cells) of each run; None for a row with anything else."""
    found = []
    for text in row.split(joint):
        match = one.fullmatch(text.strip())
        if match is None:
            return None
        name, count = match.groups()
        found.append((" ".join(name.split()), int(count.lstrip("0")[:10] or 0)))  # ten digits are wider than any grid
    return found


def _grid(
    rows: Sequence[list[tuple[str, int]] | None], shape: tuple[int, int], repairs: Counter[str], *wanted: str
) -> np.ndarray | None:
    height, width = shape
    repairs["broken"] += sum(row is None for row in rows[:height])
    repairs["rows"] += abs(len(rows) - height)
    if repairs["broken"] + repairs["rows"] > OFF * height or all(row is None for row in rows[:height]):
        return None
    grid = np.zeros(shape, bool)
    for cells, row in zip(grid, rows, strict=False):
        at = 0
        for name, count in row or ():
            end = min(at + count, width)
            if name in wanted:
                cells[at:end] = True
            repairs["long"] += (over := at + count > width)
            at = end
            if over:
                break
        repairs["short"] += row is not None and at < width
    return grid
