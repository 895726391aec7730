"""Grids: cells counted from runs, against pixels counted one by one."""

import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from tests.vlm.masks.drawn_masks import drawn_masks, pixel_cells
from vlm.masks import SaidMask, cells, pixels_of, rings_to_runs, runs_of
from vlm.masks.cells import borders, nearest, owners, pooled, sampled, spread, spread_runs


@pytest.mark.parametrize(
    ("side", "count"), [(1, 1), (1, 36), (7, 3), (10, 4), (28, 1), (30_000, 36), (5, 36), (36, 36)]
)
def test_a_pixel_is_in_the_cell_that_its_centre_lies_in(side, count):
    expected = [int((Fraction(x) + Fraction(1, 2)) * count / side) for x in range(side)]
    assert owners(side, count).tolist() == expected
    first = borders(side, count)
    assert first[0] == 0 and first[-1] == side
    assert [sum(cell == n for cell in expected) for n in range(count)] == np.diff(first).tolist()
    centres = [int((Fraction(n) + Fraction(1, 2)) * side / count) for n in range(count)]
    assert sampled(side, count).tolist() == centres


def test_counts_overlaps_and_spreading_are_those_of_pixels():
    rng = np.random.default_rng(0)
    for mask in drawn_masks(600, rng, sides=(1, 70)):
        height, width = mask.shape
        grid = tuple(int(count) for count in rng.integers(1, 37, 2))
        rows, columns = pixel_cells(height, grid[0]), pixel_cells(width, grid[1])
        true, every = np.zeros(grid, int), np.zeros(grid, int)
        np.add.at(true, (rows[:, None], columns), mask)
        np.add.at(every, (rows[:, None], columns), 1)
        runs = runs_of(mask)
        found = cells(runs, grid)
        assert np.array_equal(found[0], true) and np.array_equal(found[1], every)
        said = rng.random(grid) < rng.random()
        wide = said[rows][:, columns]
        assert np.array_equal(spread(said, (width, height)), wide)
        assert spread_runs(said, (width, height)) == runs_of(wide)
        one = SaidMask(said, size=(width, height))
        assert one.overlap(runs) == ((wide & mask).sum(), (wide | mask).sum())
        assert one.runs() == runs_of(wide) and np.array_equal(one.pixels(), wide)


def test_nearest_is_pillows():
    """At 16 cells a side; where a centre lies on a pixel's border, 24 differ in Pillow's rounding."""
    for mask in drawn_masks(300, np.random.default_rng(1), sides=(1, 90)):
        expected = Image.fromarray(mask.astype(np.uint8)).resize((16, 16), Image.Resampling.NEAREST)
        assert np.array_equal(nearest(runs_of(mask), (16, 16)), np.asarray(expected) > 0)


def test_spreading_is_pillows():
    """But for pixels whose centre lies right on a border, where Pillow's sums round either way."""
    rng = np.random.default_rng(2)
    for _ in range(100):
        said, size = rng.random((16, 8)) < 0.5, tuple(int(side) for side in rng.integers(1, 90, 2))
        expected = Image.fromarray(said.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        clear = [(2 * np.arange(side) + 1) * count % (2 * side) > 0 for side, count in zip(size, (8, 16), strict=True)]
        differs = spread(said, size) != (np.asarray(expected) > 0)
        assert not (differs & clear[1][:, None] & clear[0]).any()


def test_a_grid_finer_than_its_picture_repeats_pixels():
    mask = np.array([[True, False], [False, True]])
    assert np.array_equal(pooled(runs_of(mask), (4, 6)), mask.repeat(2, 0).repeat(3, 1))


def test_rings_overlap_as_their_pixels_do():
    rng = np.random.default_rng(3)
    for mask in drawn_masks(200, rng, sides=(2, 60)):
        height, width = mask.shape
        rings = [(rng.random((5, 2)) * (width, height)).ravel().tolist() for _ in range(2)]
        said = SaidMask(None, rings, size=(width, height))
        pixels = pixels_of(rings_to_runs(rings, (width, height)))
        assert said.overlap(runs_of(mask)) == ((pixels & mask).sum(), (pixels | mask).sum())
        doubled = [[2 * number for number in ring] for ring in rings]
        assert said.runs((2 * width, 2 * height)) == rings_to_runs(doubled, (2 * width, 2 * height))


def test_what_is_unreadable_is_an_empty_mask():
    nothing = SaidMask(readable=False, size=(5, 4))
    assert not nothing.pixels().any() and nothing.pixels().shape == (4, 5)
    assert nothing.overlap(runs_of(np.ones((4, 5), bool))) == (0, 20)
    assert nothing.overlap(runs_of(np.zeros((4, 5), bool))) == (0, 0)


def test_a_scene_of_30_000_pixels_a_side_is_not_expanded():
    """A tilted stripe, closed form: columns x hold rows 3,000 + x / 10 to 9,000 + x / 10, by centres."""
    side = 30_000
    runs = rings_to_runs([[0, 3_000, side, 6_000, side, 12_000, 0, 9_000]], (side, side))
    began = time.process_time()
    true, every = cells(runs, (36, 36))
    assert time.process_time() - began < 1
    assert true.sum() == side * 6_000 and every.sum() == side * side
    said = SaidMask(true > 0, size=(side, side))
    both, either = said.overlap(runs)
    assert both == side * 6_000 and either == every[true > 0].sum()
    again = cells(runs, (36, 36))
    assert again[0] is true, "a group shares its truth"
