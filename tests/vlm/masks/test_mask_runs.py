"""Run lengths: COCO's, read by its own code; rings against pixel centres tested one by one."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from vlm.common.errors import DataError
from vlm.masks import area, check_runs, overlap, pixels_of, rings_to_runs, runs_of
from vlm.masks.runs import runs_from_spans, spans

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@settings(max_examples=300, deadline=None)
@given(MASKS)
def test_runs_are_cocos(mask):
    runs = runs_of(mask)
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert runs == {"size": list(mask.shape), "counts": expected["counts"].decode()}
    assert np.array_equal(pixels_of(runs), mask) and pixels_of(runs).dtype == bool
    assert area(runs) == mask.sum() and check_runs(runs) == mask.shape
    flat, (starts, ends) = mask.ravel(order="F"), spans(runs)
    filled = np.zeros(mask.size, bool)
    for start, end in zip(starts, ends, strict=True):
        assert (
            not filled[start:end].any() and (start == 0 or not flat[start - 1]) and (end == mask.size or not flat[end])
        )
        filled[start:end] = True
    assert np.array_equal(filled, flat)
    assert runs_from_spans(starts[::-1], ends[::-1], mask.shape[::-1]) == runs


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_overlap_is_that_of_pixels(height, width, data):
    one, other = (data.draw(arrays.arrays(bool, (height, width))) for _ in range(2))
    assert overlap(runs_of(one), runs_of(other)) == ((one & other).sum(), (one | other).sum())


def test_long_runs_have_numbers_of_several_groups():
    """65,536 zeros, 3 ones, 999,933,461 zeros: numbers of up to six groups of five bits, and a difference."""
    runs = runs_from_spans(np.array([65_536]), np.array([65_539]), (31_623, 31_620))
    assert [found.tolist() for found in spans(runs)] == [[65_536], [65_539]]
    assert area(runs) == 3 == coco.area(runs)
    full = runs_from_spans(np.array([0]), np.array([65_535 * 65_535]), (65_535, 65_535))
    assert area(full) == 65_535**2 == 4_294_836_225


def test_a_run_length_that_shrinks_is_a_negative_difference():
    """Counts 9, 1, 1, 1, 4: the fourth is written as 1 - 1 = 0, the fifth as 4 - 1 = 3; and with 2, 8, 1, 1, 4: 1 - 8 =
    -7."""
    for counts in ([9, 1, 1, 1, 4], [2, 8, 1, 1, 4], [0, 7, 2, 3, 4]):
        runs = {"size": [4, 4], "counts": coco.frPyObjects({"size": [4, 4], "counts": counts}, 4, 4)["counts"].decode()}
        starts, ends = spans(runs)
        places = np.cumsum(counts)
        assert starts.tolist() == places[0:-1:2].tolist() and ends.tolist() == places[1::2].tolist()


@pytest.mark.parametrize(
    "runs",
    [
        {},
        {"size": [4], "counts": "`0"},
        {"size": [4, 0], "counts": "0"},
        {"size": [4, 4.0], "counts": "`0"},
        {"size": [4, 4], "counts": b"`0"},
        {"size": [4, 4], "counts": ""},
        {"size": [4, 4], "counts": "`"},  # cut within a number
        {"size": [4, 4], "counts": "``0"},
        {"size": [5, 4], "counts": "`0"},  # 16 pixels
        {"size": [4, 4], "counts": "`0O1"},  # 16, -1, 1
        {"size": [4, 4], "counts": "`0 "},
        {"size": [4, 4], "counts": "`0é"},
        {"size": [4, 4], "counts": "p" * 40 + "0"},  # a number of 200 bits
        None,
        "masks/P1.png",
    ],
)
def test_what_is_no_run_lengths_is_refused(runs):
    for read in (check_runs, area, pixels_of):
        with pytest.raises(DataError, match=r"expected (run lengths|COCO's compressed text)"):
            read(runs)


def test_masks_of_two_sizes_do_not_overlap():
    with pytest.raises(DataError, match=r"\[3, 4\] and \[4, 3\]"):
        overlap(runs_of(np.ones((3, 4), bool)), runs_of(np.ones((4, 3), bool)))


def test_rectangles_hold_the_pixels_between_their_borders():
    runs = rings_to_runs([[1, 2, 4, 2, 4, 5, 1, 5]], (6, 7))
    expected = np.zeros((7, 6), bool)
    expected[2:5, 1:4] = True
    assert np.array_equal(pixels_of(runs), expected)
    half = rings_to_runs([[1.5, 2.5, 4.5, 2.5, 4.5, 5.5, 1.5, 5.5]], (6, 7))  # centres on the border: left, upper in
    assert np.array_equal(pixels_of(half), expected)


def test_rings_are_a_union_and_a_crossed_ring_is_odd_inside():
    two = rings_to_runs([[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]], (8, 8))
    assert area(two) == 16 + 16 - 4
    inner = rings_to_runs([[0, 0, 8, 0, 8, 8, 0, 8], [2, 2, 6, 2, 6, 6, 2, 6]], (8, 8))
    assert area(inner) == 64, "a ring in a ring is no hole"
    twice = [0, 0, 8, 0, 8, 8, 0, 8, 0, 0, 4, 0, 4, 4, 0, 4]  # around the lower-left part twice
    assert area(rings_to_runs([twice], (8, 8))) == 64 - 16
    assert area(rings_to_runs([], (8, 8))) == 0
    outside = rings_to_runs([[-50, -50, 3, -50, 3, 90, -50, 90]], (8, 8))
    assert area(outside) == 3 * 8
    assert area(rings_to_runs([[9, 9, 12, 9, 12, 12]], (8, 8))) == 0


def test_rings_hold_the_centres_that_shapely_says():
    rng = np.random.default_rng(0)
    for _ in range(200):
        width, height = (int(side) for side in rng.integers(1, 60, 2))
        shapes, rings = [], []
        for _ in range(rng.integers(1, 4)):
            middle, count = rng.uniform(-5, 60, 2), rng.integers(3, 12)
            angles, away = np.sort(rng.uniform(0, 2 * np.pi, count)), rng.uniform(1, 40, count)
            points = middle + away[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1)
            shape = shapely.Polygon(points)
            if shape.is_valid:
                shapes.append(shape)
                rings.append(points.ravel().tolist())
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        expected = shapely.contains_xy(shapely.union_all(shapes), x, y) if shapes else np.zeros_like(x, bool)
        assert np.array_equal(pixels_of(rings_to_runs(rings, (width, height))), expected)


@pytest.mark.parametrize("ring", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, float("nan")], []])
def test_what_is_no_ring_is_refused(ring):
    with pytest.raises(DataError, match="a ring "):
        rings_to_runs([[0, 0, 1, 0, 1, 1], ring], (8, 8))


def test_a_picture_beyond_cocos_counts_is_refused():
    with pytest.raises(DataError, match="65536 x 65536"):
        rings_to_runs([], (65_536, 65_536))
