"""Masks as text, by name of the form: how a mask is written, read, and asked for.

    rscovlm   <seg>0*4;0*1,1*2,0*1;0*4;</seg>    rows of a grid, of 28 pixels a cell of the picture as the model sees it
    grid32    the same on a grid of 32 x 32, whatever the picture

RSCoVLM: VisionXLab/RSCoVLM, rscovlm/training/data/refgeo_dataset.py at bfc2ff7.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vlm.common.errors import DataError, RecipeError
from vlm.masks.cells import cell_of, filled
from vlm.masks.runs import Runs, pixels_of, runs_of


@dataclass(frozen=True)
class Asking:
    """How a mask is asked for."""

    wording: str
    "With `{question}`, what it is a mask of."
    system: str | None = None
    "The system prompt that tells of the text form, for the style `direct`."
    told: str = ""
    "A line behind the question that tells of it where that system prompt cannot stand."


@dataclass(frozen=True)
class SaidMask:
    """The mask that an answer states."""

    grid: np.ndarray | None
    "(rows, columns) booleans: cells that it covers; None where it is rings, or cannot be read."
    readable: bool = True
    repairs: dict[str, int] = field(default_factory=dict)
    "What was mended → how often."
    rings: list[list[float]] | None = None

    def pixels(self, size: Sequence[int]) -> np.ndarray:
        """(height, width) booleans of an image of `size` (width, height)."""
        width, height = size
        if self.grid is None:
            return np.zeros((height, width), dtype=bool)
        rows, columns = self.grid.shape
        return self.grid[cell_of(height, rows)][:, cell_of(width, columns)]

    def runs(self, size: Sequence[int]) -> Runs:
        return runs_of(self.pixels(size))

    def overlap(self, truth: Runs) -> tuple[int, int]:
        """(intersection, union) with a true mask, in pixels of the original image: exact."""
        if self.grid is None:
            said = self.pixels(truth["size"][::-1])
            true = pixels_of(truth)
            return int((said & true).sum()), int((said | true).sum())
        inside, whole = filled(truth, self.grid.shape)
        inner = int(inside[self.grid].sum())
        return inner, int(inside.sum()) + int(whole[self.grid].sum()) - inner


@dataclass(frozen=True)
class Form:
    """Run lengths row by row on a grid."""

    name: str
    asking: Asking
    cells: tuple[int, int] | None = None
    "(rows, columns) of the grid; None: of 28 pixels a cell of the picture as the model sees it."

    @property
    def resized(self) -> bool:
        """Whether it counts pixels of the picture as the model sees it."""
        return self.cells is None

    def grid(self, resized: Sequence[int] | None) -> tuple[int, int]:
        """(rows, columns). Raises: DataError where it needs the size that the model sees."""
        if self.cells is not None:
            return self.cells
        if resized is None:
            raise DataError(
                f"the mask form {self.name} counts pixels of the picture as the model sees it: no 'resized'"
            )
        return max(1, round(resized[1] / UNIT)), max(1, round(resized[0] / UNIT))

    def write(self, mask: Runs, resized: Sequence[int] | None, name: str | None) -> str:
        touched = filled(mask, self.grid(resized))[0] > 0
        return f"<seg>{''.join(_row(one) + ';' for one in touched)}</seg>"

    def read(self, text: str, resized: Sequence[int] | None) -> SaidMask:
        rows, columns = self.grid(resized)
        repairs: Counter[str] = Counter()
        found = _SEG.search(text)
        if found is None or text.count("<seg>") != 1:
            return SaidMask(None, readable=False)
        lines = [line for line in found[1].split(";") if line.strip()]
        grid = np.zeros((rows, columns), dtype=bool)
        repairs["rows"] += abs(len(lines) - rows)
        for number, line in enumerate(lines[:rows]):
            start = 0
            for run in line.split(","):
                part = _RUN.fullmatch(run)
                if part is None:
                    return SaidMask(None, readable=False)
                count = min(int(part[2][:6]), columns)
                grid[number, start : start + count] = part[1] == "1"
                start += count
            repairs["columns"] += start != columns
        return SaidMask(grid, True, dict(+repairs))


UNIT = 28
"""Pixels of a side that one cell covers (RSCoVLM's Qwen2.5-VL)."""
_SEG = re.compile(r"\s*<seg>([\d*,;\s]*)(?:</seg>)?\s*")
_RUN = re.compile(r"\s*([01])\*(\d+)\s*")
_SYSTEM = (
    "As an AI assistant, you specialize in segmentation, delivering segmentation results as Row-wise RLE format. Each "
    "row is represented as '<value>*<count>', and rows are separated by ';'. The last row ends with a semicolon. For "
    "example, '0*1,1*2;0*3;' represents the mask."
)
"""As RSCoVLM was trained with it."""
_TOLD = "Answer with <seg>, rows of value*count with commas between, each row closed by ;, and </seg>."
_ASKING = Asking("Locate the {question}, output the segmentation mask", _SYSTEM, _TOLD)
FORMS: dict[str, Form] = {one.name: one for one in (Form("rscovlm", _ASKING), Form("grid32", _ASKING, (32, 32)))}


def _row(cells: np.ndarray) -> str:
    edges = [0, *(np.flatnonzero(np.diff(cells)) + 1).tolist(), len(cells)]
    return ",".join(f"{int(cells[a])}*{b - a}" for a, b in zip(edges, edges[1:], strict=False))


def check_form(name: str) -> None:
    """Raises: RecipeError for a name of no form."""
    if name not in FORMS:
        raise RecipeError(f"found the mask form {name!r}, expected one of {', '.join(FORMS)}")


def asking(form: str) -> Asking:
    """How masks are asked for in a form."""
    return FORMS[form].asking


def write_mask(mask: Runs, form: str, resized: Sequence[int] | None = None, name: str | None = None) -> str:
    """Text of a mask. resized: (width, height) at which the model sees the picture. name: what it is a mask of.

    Raises: DataError for a form that needs the size and has none.
    """
    return FORMS[form].write(mask, resized, name)


def read_mask(text: str, form: str, size: Sequence[int], resized: Sequence[int] | None = None) -> SaidMask:
    """What an answer states; never None. size: (width, height) of the original image."""
    return FORMS[form].read(text, resized)
