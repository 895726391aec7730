"""The texts that masks are written as.

| form       | text                                               | grid                                   | pool    |
|------------|----------------------------------------------------|----------------------------------------|---------|
| rscovlm    | ``<seg>0*4;0*1,1*2,0*1;0*4;</seg>``                | 28 pixels of the resized image a cell  | max     |
| grid32     | the same                                           | 32 x 32                                | max     |
| text4seg   | ``<seg>others *1| dam *2| others *13\\n …\\n</seg>`` | 16 x 16                                | nearest |
| text4seg24 | the same                                           | 24 x 24                                | nearest |
| polygon    | ``[[[120,40],[180,40],[180,90]]]``, per mille      | none: outlines                         |         |

Read off VisionXLab/RSCoVLM (rscovlm/training/data/refgeo_dataset.py at bfc2ff7) and mc-lan/Text4Seg (playground/data/
create_json, llava/eval/model_refer_seg.py, at fdd1188 and 069a7f7).

`polygon` is ours (`vlm.masks.outlines`).

RSCoVLM's preparation of masks before the grid is `vlm.masks.prepared`, and is not done here. It then takes the nearest
pixels of the resized picture and the largest of each cell; here a cell holds 1 if any pixel of the original does, so no
object is lost. Where the resized picture is no multiple of 28, as with models of other visual tokens, the nearest count
of cells covers it evenly.

Text4Seg takes the pixel at the centre of each cell, which loses objects between centres: a mask that would be lost
altogether is pooled as RSCoVLM's is. Its published files have a sentence before the mask; none is written, any is read.

GeoGround (zytx121/GeoGround, arXiv 2411.11904) is refused by name: its code was never stored where it could be read,
and the two descriptions of its text that could be (run lengths by row; values one by one, in a service of others)
contradict each other. `grid32` is RSCoVLM's text on a grid of its size, and no reading of its files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vlm.common.errors import DataError, RecipeError
from vlm.masks.asking import ASKING, AskingMask
from vlm.masks.cells import nearest, pooled
from vlm.masks.outlines import PolygonForm
from vlm.masks.runs import Runs
from vlm.masks.said import SaidMask
from vlm.masks.texts import CLOSE, OPEN, OTHERS, read_labels, read_values, write_labels, write_values
from vlm.pictures.places import TAG

CELL = 28
"""Pixels of the resized picture along a cell's side: a visual token of Qwen2.5-VL (`refgeo_dataset.py`)."""
SIDES = 2**16
"""Pixels along a side that no model sees: a grid of more would fill the memory."""
_REFUSED = {
    "geoground": "its code and files could not be read, and what is told of its text contradicts itself; grid32 has "
    "RSCoVLM's run lengths on its 32 x 32 cells"
}


@dataclass(frozen=True)
class GridForm:
    """Masks on a grid, row by row."""

    name: str
    cells: int | None = None
    "Along both sides; None: as many as the resized picture has squares of 28 pixels."
    pool: Literal["max", "nearest"] = "max"
    labelled: bool = False
    "Whether runs have labels (Text4Seg) for values."

    @property
    def resized(self) -> bool:
        """Whether it counts pixels of the picture as the model sees it."""
        return self.cells is None

    def shape(self, resized: Sequence[float] | None = None) -> tuple[int, int]:
        """(rows, columns); resized: (width, height) of the picture as the model sees it.

        Raises: DataError where the form needs it and it is not given.
        """
        if self.cells is not None:
            return self.cells, self.cells
        if resized is None:
            raise DataError(
                f"the mask form {self.name} counts cells of {CELL} pixels of the resized image: its size is needed "
                "(`resized`, as with boxes in the frame `resized`)"
            )
        width, height = resized
        if not (0 < width < SIDES and 0 < height < SIDES):  # false of NaN, too
            raise DataError(
                f"found resized [{width}, {height}], expected [width, height] in pixels of the image as the model sees "
                "it"
            )
        return max(1, round(height / CELL)), max(1, round(width / CELL))

    def gridded(self, mask: Runs, resized: Sequence[float] | None = None) -> np.ndarray:
        """The grid (gh, gw) that a mask is written as."""
        shape = self.shape(resized)
        some = nearest(mask, shape) if self.pool == "nearest" else None
        return some if some is not None and some.any() else pooled(mask, shape)

    def text(self, said: SaidMask, name: str | None = None) -> str:
        """The text of a grid; name: what the object is called, for labels."""
        assert said.grid is not None
        if not self.labelled:
            return write_values(said.grid)
        label = _label(name) or ""
        if not label or any(mark in label for mark in ("|", "*", OPEN, CLOSE)) or label == OTHERS:
            raise DataError(
                f"found {name!r} for what the mask describes: the form {self.name} writes it as a label, expected some "
                f"text without |, * and tags, other than {OTHERS!r}"
            )
        return write_labels(said.grid, label)

    def write(self, mask: Runs, resized: Sequence[float] | None = None, name: str | None = None) -> str:
        return self.text(SaidMask(self.gridded(mask, resized)), name)

    def read(
        self, text: str, size: Sequence[int], resized: Sequence[float] | None = None, name: str | None = None
    ) -> SaidMask:
        shape, repairs = self.shape(resized), Counter[str]()
        grid = read_labels(text, shape, repairs, _label(name)) if self.labelled else read_values(text, shape, repairs)
        return SaidMask(grid, None, grid is not None, dict(+repairs), (int(size[0]), int(size[1])))


def _label(name: str | None) -> str | None:
    """What a question calls the object: without the places of pictures, which are no words for an answer; None where
    nothing is left, as of predictions that do not tell their question."""
    return " ".join((name or "").replace(TAG, " ").split()) or None


DEFAULT_FORM = "rscovlm"
"""The form where nothing says another."""
Form = GridForm | PolygonForm
FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        GridForm("rscovlm"),
        GridForm("grid32", 32),
        GridForm("text4seg", 16, "nearest", True),
        GridForm("text4seg24", 24, "nearest", True),
        PolygonForm("polygon"),
    )
}


def check_form(name: str) -> None:
    """Raises: RecipeError for what is no form of masks, with the names that are."""
    if name in FORMS:
        return
    why = f" ({_REFUSED[name]})" if name in _REFUSED else ""
    raise RecipeError(f"prompt.masks: found {name!r}{why}, expected one of {', '.join(FORMS)}")


def asking(form: str) -> AskingMask:
    """How a mask is asked for in a form."""
    check_form(form)
    return ASKING[form]


def write_mask(mask: Runs, form: str, resized: Sequence[float] | None = None, name: str | None = None) -> str:
    """The text of a mask.

    resized: (width, height) of the picture as the model sees it, which `rscovlm` needs. name: what the mask describes,
    which Text4Seg's labels need.

    Raises: DataError where one of these is missing; RecipeError for another form.
    """
    check_form(form)
    return FORMS[form].write(mask, resized, name)


def read_mask(
    text: str, form: str, size: Sequence[int], resized: Sequence[float] | None = None, name: str | None = None
) -> SaidMask:
    """What an answer states; unreadable it states nothing, and is an empty mask. Takes time linear in the text.

    size: (width, height) of the original image in pixels. resized, and what is raised, as `write_mask`. name: what the
    mask describes, so that runs of other labels are background; without it they are object.
    """
    check_form(form)
    return FORMS[form].read(text, size, resized, name)


def written_overlap(
    mask: Runs, form: str, size: Sequence[int], resized: Sequence[float] | None = None, name: str | None = None
) -> tuple[int, int]:
    """(intersection, union) in pixels of a mask and of what its own text says: what the form loses. As `write_mask`."""
    return read_mask(write_mask(mask, form, resized, name), form, size, resized, name).overlap(mask)
