"""Masks on a grid as text: runs of one value within each row, as RSCoVLM and Text4Seg write them.

    rows         runs "0*4;0*1,1*2,0*1;0*4;"       labels   "others *4\\n others *1| dam *2| others *1\\n others *4\\n"

both between `<seg>` and `</seg>`. A text that is not written so is mended, and each mending counted:

    prose     words before or behind the one block
    tags      `<seg>` is missing, or both are, and all of the text is rows: none is broken
    cut       `</seg>` is missing: cut off at the end. A last row that is not closed is broken, unless it is as wide as
              the grid
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
_VALUE = re.compile(r"([01])\s*\*\s*([0-9]+)")
_LABEL = re.compile(r"([^|*\n]*[^|*\s])\s*\*\s*([0-9]+)")


def _joined(grid: np.ndarray, names: tuple[str, str], mark: str, run: str, row: str) -> str:
    """Runs of a grid (gh, gw) as text: name, mark, cells; `run` behind each but a row's last, and `row` behind that."""
    begins = np.ones(grid.shape, bool)
    begins[:, 1:] = grid[:, 1:] != grid[:, :-1]
    places = np.append(np.flatnonzero(begins), grid.size)
    last = places[1:] % grid.shape[1] == 0
    values = grid.ravel()[places[:-1]].tolist()
    each = zip(values, np.diff(places).tolist(), last.tolist(), strict=True)
    return "".join(f"{names[value]}{mark}{count}{row if ends else run}" for value, count, ends in each)


def write_values(grid: np.ndarray) -> str:
    """RSCoVLM's rows; grid: (gh, gw) bool.

    Source: `encode_mask` of rscovlm/training/data/refgeo_dataset.py in VisionXLab/RSCoVLM at bfc2ff7.
    """
    return f"{OPEN}{_joined(grid, ('0', '1'), '*', ',', ';')}{CLOSE}"


def write_labels(grid: np.ndarray, label: str) -> str:
    """Text4Seg's rows; label: what the object is called.

    Source: `encode_mask` of playground/data/create_json/utils.py in mc-lan/Text4Seg at 069a7f7.
    """
    text = _joined(grid, (OTHERS, label), " *", "| ", "\n ")
    return f"{OPEN}{text.removesuffix(' ')}{CLOSE}"


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
    return _grid(_rows(found, ";", ",", _VALUE, shape[1], repairs), shape, repairs, "1")


def read_labels(text: str, shape: tuple[int, int], repairs: Counter[str], label: str | None) -> np.ndarray | None:
    """The grid (gh, gw) of Text4Seg's rows; None where unreadable. label: what the object is called, if known."""
    if (found := block(text.strip(), repairs)) is None:
        return None
    named = _rows((found[0].lstrip("\n"), found[1]), "\n", "|", _LABEL, shape[1], repairs)
    labels = Counter(name for row in named for name, _ in row or () if name != OTHERS)
    if label is None:
        repairs["labels"] += labels.total() - (labels.most_common(1)[0][1] if labels else 0)
        wanted = set(labels)
    else:
        wanted = {name for name in labels if name.casefold() == " ".join(label.casefold().split())}
        repairs["labels"] += sum(count for name, count in labels.items() if name not in wanted)
    return _grid(named, shape, repairs, *wanted)


def _rows(
    found: tuple[str, bool], end: str, joint: str, one: re.Pattern[str], width: int, repairs: Counter[str]
) -> list[list[tuple[str, int]] | None]:
    """The runs of each row of a block; None for a row that is broken."""
    inside, cut = found
    *closed, last = inside.split(end)
    rows = [_runs(row, joint, one) for row in closed]
    if last.strip():
        runs = _runs(last, joint, one)
        whole = runs is not None and sum(count for _, count in runs) == width
        rows.append(runs if whole or not cut else None)
        repairs["closed"] += not cut
    return rows


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
    off = repairs["broken"] + repairs["rows"]
    if off > OFF * height or (repairs["tags"] and None in rows) or all(row is None for row in rows[:height]):
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
