"""Round trips of every form over 10,000 masks of sides 1 to 40 (outlines: to 12), on grids of 1 x 1 to 36 x 36; texts
against a plain second writer."""

from functools import cache
from itertools import groupby

import numpy as np
import pytest
from scipy import ndimage

from tests.vlm.masks.drawn_masks import drawn_masks, pixel_cells
from vlm.masks import FORMS, pixels_of, read_mask, runs_of, write_mask
from vlm.masks.outlines import GOOD, POINTS

MASKS = 10_000
NAME = "the dam, left of a bridge"


@cache
def members(side, count):
    """(count, side): which pixels each cell along a side has; one without any, those of the cell of the pixel that its
    centre lies in."""
    owner, centre = pixel_cells(side, count), pixel_cells(count, side)
    own = owner == np.arange(count)[:, None]
    return np.array([one if one.any() else own[owner[centre[cell]]] for cell, one in enumerate(own)], np.float32)


def pooled(mask, grid):
    rows, columns = (members(side, count) for side, count in zip(mask.shape, grid, strict=True))
    return rows @ mask.astype(np.float32) @ columns.T > 0


def nearest(mask, grid):
    found = mask[pixel_cells(grid[0], mask.shape[0])][:, pixel_cells(grid[1], mask.shape[1])]
    return found if found.any() else pooled(mask, grid)


def plain(grid, names, one, run, row, end):
    lines = (
        run.join(one.format(names[value], len(list(some))) for value, some in groupby(line)) for line in grid.tolist()
    )
    return "<seg>" + row.join(lines) + end + "</seg>"


def drawn(seed, side=40):
    rng = np.random.default_rng(seed)
    for number, mask in enumerate(drawn_masks(MASKS, rng, sides=(1, side))):
        rows, columns = (int(count) for count in rng.integers(1, 37, 2))
        yield number, mask, (28 * columns, 28 * rows)


@pytest.mark.parametrize("form", ["rscovlm", "grid32", "text4seg", "text4seg24"])
def test_grids_come_back(form):
    """Write, read, write: the same text, and the grid of a plain pooling; the text of a plain writer."""
    cells = {"grid32": 32, "text4seg": 16, "text4seg24": 24}.get(form)
    for number, mask, resized in drawn(cells or 0):
        size, runs = mask.shape[::-1], runs_of(mask)
        text = write_mask(runs, form, resized, NAME)
        said = read_mask(text, form, size, resized, NAME)
        assert said.readable and not said.repairs and said.rings is None
        assert FORMS[form].text(said, NAME) == text
        assert write_mask(said.runs(), form, resized, NAME) == text
        grid = (cells, cells) if cells else (resized[1] // 28, resized[0] // 28)
        expected = (nearest if "text4seg" in form else pooled)(mask, grid)
        assert np.array_equal(said.grid, expected)
        if number % 10 == 0 and "text4seg" in form:
            assert text == plain(expected, ("others", NAME), "{} *{}", "| ", "\n ", "\n")
        elif number % 10 == 0:
            assert text == plain(expected, "01", "{}*{}", ",", ";", ";")


def corners(mask):
    """Points of the outlines along the pixels' borders: 2 x 2 windows with one or three pixels, and twice those with
    two across."""
    wide = np.pad(mask, 1).astype(int)
    four = wide[1:, 1:] + wide[1:, :-1] + wide[:-1, 1:] + wide[:-1, :-1]
    across = (four == 2) & (wide[1:, 1:] == wide[:-1, :-1])
    return int((four % 2).sum() + 2 * across.sum())


def test_outlines_come_back():
    """The text of the rings that were read is the text. IoU with the mask: GOOD at least where the whole outline has
    POINTS points, and no hole; 0.9 in the mean over all, specks and chequers included."""
    overlaps = []
    for number, mask, _ in drawn(1, 12):
        height, width = mask.shape
        runs = runs_of(mask)
        text = write_mask(runs, "polygon")
        said = read_mask(text, "polygon", (width, height))
        assert said.readable and not said.repairs and said.grid is None
        assert sum(map(len, said.rings)) <= 2 * POINTS
        assert FORMS["polygon"].text(said) == text
        both, either = said.overlap(runs)
        if number % 50 == 0:
            pixels = pixels_of(said.runs())
            assert (both, either) == ((pixels & mask).sum(), (pixels | mask).sum())
        assert (both > 0) == mask.any()
        overlaps.append(both / either if either else 1.0)
        if corners(mask) <= POINTS and not (ndimage.binary_fill_holes(mask) & ~mask).any():
            assert overlaps[-1] >= GOOD, (number, text)
    assert np.mean(overlaps) > 0.9
