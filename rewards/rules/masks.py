"""Masks: how far the one that an answer states is that of the picture, with a border of which little is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from rewards.registry import register
from rewards.rules.rows import Column, Inside, given, name_of, per_row
from vlm.common.errors import DataError, RecipeError
from vlm.masks import DEFAULT_FORM, FORMS, Runs, SaidMask, area, check_form, check_runs, read_mask
from vlm.masks.cells import nearest, owners, sampled

if TYPE_CHECKING:
    import numpy as np

    Form = str
else:
    Form = Literal[tuple(FORMS)]  # a name that is not known is refused with the options

_MOST = 2048**2
"""Pixels of a picture that are measured; of a larger one, this many, evenly spaced."""
_KEPT = 8
"""True masks whose weights are kept, up to 32 MiB each: the completions of a group share theirs."""


@register("mask")
def mask(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    mask: Column = None,
    form: Column = None,
    named: Column = None,
    resized: Column = None,
    task: Column = None,
    border: float = 0.02,
    masks: Form = DEFAULT_FORM,
    applies_to: Sequence[str] = ("segmentation",),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """IoU of the mask that the answer states with the true one, with a soft border, in [0, 1].

        r = Σ w over said ∩ true / Σ w over said ∪ true        w = min(1, d / b)

    over pixels of the original image; d is a pixel's distance to the true outline, on either side, and b the width of
    the border: `border` times the diagonal of the picture, but no more than the distance of the object's innermost
    pixel, so that a thin object has a core that weighs 1. Grids of 28 pixels a cell cannot follow an outline, nor can
    those who drew it agree on it: there the mask earns little and costs little. border = 0: IoU itself, exact.

    True is nothing: 1 for an empty mask, 0 for any other. Said is nothing, or a text that is no mask: 0. What
    `vlm.masks.read_mask` mends earns the same. form: how the text is written, a column that rows have
    (`prompt.masks`); masks: the same for rows that do not say; named: what the row asks for, which labels are read by;
    resized: the picture as the model saw it, which forms need that count its pixels.

    Of a picture of more than 2048² pixels that many are measured, evenly spaced, by their distances in pixels of the
    original; an object that lies between these is measured by IoU.

    Hacking: the whole picture earns Σ w over the object / Σ w over the picture: hardly more than the object's share of
    the area, and less for a small object, whose pixels are nearly all border; a checkerboard earns less than that, and
    nothing earns 0. Growing or shrinking a mask by g pixels costs as g² while g < b, and as g beyond; each pixel weighs
    something, so that r is 1 for the true mask alone. `tests/rewards/test_mask_hacks.py` plays these. Where it does not
    hold: an object of half of the picture is worth half to whoever says all of it, as with IoU; and on a grid the best
    mask of a small object may earn little, and as much as another one.

    What SFT learns is not the best on a grid: RSCoVLM's cells are those with any pixel of the object, which earn 0.47
    in the scenes of that test, where cells that are object by half earn 0.67. GRPO leads from the first to the second.
    """
    if not 0 <= border < 1:
        raise RecipeError(f"reward 'mask': border is {border}; expected a share of the diagonal in [0, 1), 0 for none")
    read: dict[int, SaidMask] = {}

    def judge(row: int, said: str) -> float | None:
        if not given("mask", row, task, columns, mask=mask):
            return None
        assert mask is not None
        written = form[row] if form is not None and form[row] else masks
        check_form(written)
        if FORMS[written].resized and (resized is None or resized[row] is None):
            raise DataError(
                f"{name_of(row, columns)}: the mask form {written} counts pixels of the resized image, and the row has "
                "no column 'resized' with its [width, height]; rows made by samples.rows have it"
            )
        try:
            height, width = check_runs(mask[row])
        except DataError as fault:
            raise DataError(f"{name_of(row, columns)}, field 'mask': {fault}") from fault
        seen, name = (None if one is None else one[row] for one in (resized, named))
        found = read[row] = read_mask(said, written, (width, height), seen, name)
        return agreement(found, mask[row], border) if found.readable else 0.0

    return per_row(
        "mask",
        completions,
        columns,
        task,
        applies_to,
        inside,
        judge,
        readable=lambda row, said: read[row].readable,
    )


def agreement(said: SaidMask, truth: Runs, border: float = 0.02) -> float:
    """What a mask that could be read earns (`mask`)."""
    if not area(truth):
        return float(not said.overlap(truth)[1])  # rings around no pixel's centre say nothing, as in the metric
    weights = weighed(truth, border) if border else None
    if weights is None:
        both, union = said.overlap(truth)
        return both / union
    hits, others = weights.of(said)
    return hits / (weights.total + others)


@dataclass(frozen=True)
class Weights:
    """What the pixels of a true mask's picture weigh."""

    true: np.ndarray
    "(H, W) float32: w of pixels of the object, 0 of others."
    others: np.ndarray
    "(H, W) float32: the other way round."
    total: float
    "Σ w over the object; above 0."
    size: tuple[int, int]
    "(height, width) of the picture; H and W are less where not every pixel is measured."
    cells: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]
    "(rows, columns) of a grid → Σ w of `true` and of `others` in each cell."

    def of(self, said: SaidMask) -> tuple[float, float]:
        """(Σ w over what is said of the object, Σ w over what is said beside it)."""
        if said.grid is None:
            height, width = self.size
            taken = nearest(said.runs((width, height)), (self.true.shape[0], self.true.shape[1]))
            return float(self.true[taken].sum(dtype=float)), float(self.others[taken].sum(dtype=float))
        shape = (said.grid.shape[0], said.grid.shape[1])
        if shape not in self.cells:
            self.cells[shape] = _by_cell(self.true, self.size, shape), _by_cell(self.others, self.size, shape)
        true, others = self.cells[shape]
        return float(true[said.grid].sum()), float(others[said.grid].sum())


def weighed(truth: Runs, border: float) -> Weights | None:
    """Weights of a mask that is not empty; None where it lies between the pixels that are measured."""
    height, width = check_runs(truth)
    return _weighed(truth["counts"], height, width, border)


@lru_cache(_KEPT)
def _weighed(counts: str, height: int, width: int, border: float) -> Weights | None:
    import numpy as np

    step = math.sqrt(max(1.0, height * width / _MOST))
    rows, columns = max(1, int(height / step)), max(1, int(width / step))
    true = nearest({"size": [height, width], "counts": counts}, (rows, columns))
    if not true.any():
        return None
    spacing = (height / rows, width / columns)
    weight = _border(true, border * math.hypot(height, width), spacing)
    inside, outside = (np.where(some, weight, 0).astype(np.float32) for some in (true, ~true))
    return Weights(inside, outside, float(inside.sum(dtype=float)), (height, width), {})


def _border(true: np.ndarray, most: float, spacing: tuple[float, float]) -> np.ndarray:
    """w of every pixel, (H, W); most: the greatest width of the border, spacing: of pixels, down and across."""
    import numpy as np
    from scipy.ndimage import distance_transform_edt as distances

    weight = np.ones(true.shape)
    if true.all():
        return weight  # no outline: what lies beyond the picture is not asked
    half = min(spacing) / 2  # the outline lies between the centres of two pixels
    reach = [math.ceil(most / one) + 1 for one in spacing]
    near = tuple(
        slice(max(0, int(some[0]) - margin), int(some[-1]) + margin + 1)
        for some, margin in ((np.flatnonzero(true.any(axis)), reach[1 - axis]) for axis in (1, 0))
    )  # further off w is 1
    part = true[near]
    apart = np.where(part, distances(part, spacing), distances(~part, spacing)) - half
    weight[near] = np.minimum(1.0, apart / min(most, apart[part].max()))
    return weight


def _by_cell(values: np.ndarray, size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Sums over the cells of a grid, (rows, columns); a pixel is its cell's that its centre lies in."""
    import numpy as np

    for axis in (0, 1):
        cell = owners(size[axis], shape[axis])[sampled(size[axis], values.shape[axis])]
        before = np.insert(np.cumsum(values, axis, dtype=float), 0, 0.0, axis)
        values = np.diff(before.take(np.searchsorted(cell, np.arange(shape[axis] + 1)), axis), axis=axis)
    return values
