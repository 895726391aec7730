"""IoU of boxes and quadrilaterals against clipping of our own, and all pairs at once against one at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import clipping
from vlm.boxes import corners, iou, ious, match_ious, quad_from_obb, quad_iou, quad_ious

BLOCK = 10
"""Shapes that lie together: each of a block is compared with each of another."""


@st.composite
def proper_boxes(draw, limit: float = 1000.0):
    x1, x2 = sorted(draw(st.lists(st.floats(0, limit), min_size=2, max_size=2)))
    y1, y2 = sorted(draw(st.lists(st.floats(0, limit), min_size=2, max_size=2)))
    return [x1, y1, x2, y2]


# --- boxes


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [5, 0, 15, 10], 50 / 150),
        ([0, 0, 10, 10], [2, 2, 8, 8], 36 / 100),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),  # they touch; a "+1" arithmetic would give more than 0
        ([0, 0, 10, 10], [20, 20, 30, 30], 0.0),
        ([5, 5, 5, 9], [5, 5, 5, 9], 0.0),  # no area
        ([10, 10, 0, 0], [10, 10, 0, 0], 0.0),  # inverted
        ([0, 0, 10, 10], [float("nan"), 0, 10, 10], 0.0),
        ([0, 0, 1e308, 1e308], [0, 0, 1e308, 1e308], 0.0),  # areas overflow
    ],
)
def test_iou_by_hand(a, b, expected):
    assert iou(a, b) == pytest.approx(expected, abs=1e-12)
    assert ious([a], [b])[0, 0] == pytest.approx(expected, abs=1e-12)


def pixel_counts(boxes: np.ndarray, side: int) -> np.ndarray:
    """Boxes with whole-number corners as masks of pixels (N, side·side)."""
    place = np.arange(side)
    x = (place >= boxes[:, :1]) & (place < boxes[:, 2:3])
    y = (place >= boxes[:, 1:2]) & (place < boxes[:, 3:4])
    return (y[:, :, None] & x[:, None, :]).reshape(len(boxes), -1).astype(np.float32)


def test_iou_of_100_000_pairs_equals_counting_pixels():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 17, (317, 4)) for _ in range(2))
    for boxes in (a, b):  # a third stays as it was drawn, mostly inverted or without area
        proper = np.arange(len(boxes)) % 3 > 0
        boxes[proper] = np.sort(boxes[proper].reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    first, second = pixel_counts(a, 16), pixel_counts(b, 16)
    shared = first @ second.T
    union = first.sum(1)[:, None] + second.sum(1)[None] - shared
    expected = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    plain = np.array([[iou(one, other) for other in b.tolist()] for one in a.tolist()])
    assert expected.size >= 100_000 and (expected > 0).sum() > 15_000
    assert np.abs(plain - expected).max() < 1e-6
    assert np.array_equal(ious(a, b), plain)


@given(st.lists(st.floats(), min_size=8, max_size=8))
def test_iou_is_bounded_whatever_the_numbers(numbers):
    value = iou(numbers[:4], numbers[4:])
    assert 0 <= value <= 1
    assert ious([numbers[:4]], [numbers[4:]])[0, 0] == value


# --- quadrilaterals


def obbs(rng, count):
    """Oriented boxes near the origin."""
    drawn = rng.uniform([-9, -9, 1, 1, -180], [9, 9, 20, 20, 180], (count, 5))
    return np.array([quad_from_obb(*one) for one in drawn.tolist()]).reshape(-1, 4, 2)


def convex(rng, count):
    """Four points of an ellipse, in order around it, either way."""
    angles = np.sort(rng.uniform(0, 2 * math.pi, (count, 4)), axis=1)
    around = np.stack([np.cos(angles) * 12, np.sin(angles) * 7], axis=-1) + rng.uniform(-5, 5, (count, 1, 2))
    return np.where(rng.random((count, 1, 1)) < 0.5, around, around[:, ::-1])


def concave(rng, count):
    """A triangle with one side bent inwards to a point near its middle."""
    triangle = rng.uniform(-15, 15, (count, 3, 2))
    shares = rng.dirichlet([4, 4, 4], count)[..., None]
    return np.concatenate([triangle, (triangle * shares).sum(axis=1, keepdims=True)], axis=1)


def upright(rng, count):
    """Boxes with whole-number corners: many touch, coincide, or lie within one another."""
    low, sides = rng.integers(-10, 8, (count, 2)), rng.integers(1, 6, (count, 2))
    return np.array([corners([*one, *(one + by)]) for one, by in zip(low, sides, strict=True)], float).reshape(-1, 4, 2)


def slivers(rng, count):
    drawn = rng.uniform([-3, -3, 5, 1e-3, -180], [3, 3, 20, 1e-2, 180], (count, 5))
    return np.array([quad_from_obb(*one) for one in drawn.tolist()]).reshape(-1, 4, 2)


def nothing(rng, count):
    """What has no area: lines, points, corners that fall together, edges that cross."""
    quads = upright(rng, count)
    quads[0::4, 2:] = quads[0::4, 1::-1]  # there and back
    quads[1::4] = quads[1::4, :1]
    quads[2::4] = quads[2::4][:, [0, 2, 1, 3]]  # a bow tie
    quads[3::4, :, 1] = quads[3::4, :1, 1]
    return quads


PROPER = (obbs, convex, concave, upright, slivers)


def blocks(pairs: int):
    """(a, b, independent IoUs) of blocks of shapes of every two kinds, in all at least so many pairs."""
    rng = np.random.default_rng(1)
    kinds = list(itertools.combinations_with_replacement((*PROPER, nothing), 2))
    each = math.ceil(pairs / len(kinds) / BLOCK**2)
    for first, second in kinds:
        a, b = first(rng, each * BLOCK), second(rng, each * BLOCK)
        b[::7] = a[::7]  # some coincide
        one = np.repeat(a.reshape(each, BLOCK, 4, 2), BLOCK, axis=1).reshape(-1, 4, 2)
        other = np.tile(b.reshape(each, BLOCK, 4, 2), (1, BLOCK, 1, 1)).reshape(-1, 4, 2)
        expected = clipping.ious(one, other).reshape(each, BLOCK, BLOCK)
        empty = np.zeros((2, each * BLOCK), bool)
        empty[0], empty[1] = first is nothing, second is nothing
        empty[1, ::7] = first is nothing
        gone = empty[0].reshape(each, BLOCK, 1) | empty[1].reshape(each, 1, BLOCK)
        expected = np.where(gone, 0.0, expected)
        yield from zip(a.reshape(each, BLOCK, 8), b.reshape(each, BLOCK, 8), expected, strict=True)


def test_quad_iou_of_100_000_pairs_equals_clipping():
    """Convex and concave shapes, slivers, shapes that touch or coincide; those without area or with crossing edges
    overlap nothing, themselves included."""
    pairs, overlapping = 0, 0
    for number, (a, b, expected) in enumerate(blocks(100_000)):
        found = quad_ious(a, b)
        assert np.abs(found - expected).max() < 1e-6
        pairs, overlapping = pairs + found.size, overlapping + (found > 0).sum()
        if number % 10 == 0:  # the plain path, on some of every kind
            plain = np.array([[quad_iou(one, other) for other in b.tolist()] for one in a.tolist()])
            assert np.abs(plain - found).max() < 1e-12
    assert pairs >= 100_000 and overlapping > 40_000


def test_clipping_by_hand():
    """What the check is checked with."""
    unit = np.array(corners([0, 0, 2, 2]), float).reshape(1, 4, 2)
    moved = unit + [1, 0]
    dart = np.array([[[0, 0], [4, 0], [1, 1], [0, 4]]], float)  # two triangles of 2 each
    assert clipping.ious(unit, moved) == pytest.approx([2 / 6])
    assert clipping.areas(dart) == pytest.approx([4.0])
    # Of the dart, 0..1 × 0..1 and two triangles with the corners (1, 0), (1, 1), (2, 2/3) lie in the unit square.
    expected = shapely.Polygon(dart[0]).intersection(shapely.box(0, 0, 2, 2)).area
    assert clipping.ious(dart, unit) == pytest.approx([expected / (8 - expected)])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (corners([0, 0, 10, 10]), corners([5, 0, 15, 10]), 1 / 3),
        ([0, 0, 4, 0, 4, 4, 0, 4], [2, 0, 4, 2, 2, 4, 0, 2], 0.5),  # the square within, on its corner
        ([0, 0, 4, 0, 1, 1, 0, 4], [0, 0, 4, 0, 1, 1, 0, 4], 1.0),  # a dart
        ([0, 0, 4, 4, 4, 0, 0, 4], [0, 0, 4, 4, 4, 0, 0, 4], 0.0),  # edges cross
        ([1, 1] * 4, [1, 1] * 4, 0.0),
        ([0, 0, 4, 0, 4, float("nan"), 0, 4], corners([0, 0, 4, 4]), 0.0),
        ([0, 0, 1e300, 0, 1e300, 1e300, 0, 1e300], corners([0, 0, 4, 4]), 0.0),
    ],
)
def test_quad_iou_by_hand(a, b, expected):
    assert quad_iou(a, b) == pytest.approx(expected, abs=1e-9)
    assert quad_ious([a], [b])[0, 0] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60)
@given(st.lists(st.floats(), min_size=16, max_size=16))
def test_quad_iou_is_bounded_whatever_the_numbers(numbers):
    value = quad_iou(numbers[:8], numbers[8:])
    assert 0 <= value <= 1
    assert quad_ious([numbers[:8]], [numbers[8:]])[0, 0] == pytest.approx(value, abs=1e-9)


DART = [0, 0, 10, 0, 10, 10, 8, 2]
"""Concave."""


def test_of_many_pairs_only_concave_ones_go_to_geos(monkeypatch):
    """GEOS takes 30 µs a pair, some 6 s for 2,000 shapes against 100: convex ones are clipped all at once."""
    asked = []
    intersection = shapely.intersection
    monkeypatch.setattr(shapely, "intersection", lambda a, b: asked.append(len(a)) or intersection(a, b))
    rng = np.random.default_rng(7)
    shapes = [quad_from_obb(*rng.uniform(4, 6, 2), *rng.uniform(2, 9, 2), rng.uniform(-90, 90)) for _ in range(120)]
    shapes[:2] = [DART, [*DART[6:], *DART[4:6], *DART[2:4], *DART[:2]]]  # either way round
    shapes[2] = shapes[3]  # equal ones: all their sides coincide
    table = quad_ious(shapes, shapes[:12])
    assert sum(asked) <= 2 * 120 + 2 * 12 - 4
    assert table == pytest.approx(np.array([[quad_iou(a, b) for b in shapes[:12]] for a in shapes]), abs=1e-12)


def test_all_pairs_of_nothing():
    assert ious([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert quad_ious([corners([0, 0, 1, 1])], []).shape == (1, 0)


# --- matching


@settings(max_examples=60)  # the first example imports scipy
@given(st.lists(proper_boxes(10.0), max_size=4), st.lists(proper_boxes(10.0), max_size=4))
def test_matching_is_the_best_of_all_permutations(predicted, truth):
    short, long = sorted((predicted, truth), key=len)
    best = max(
        sum(iou(a, b) for a, b in zip(short, chosen, strict=True))
        for chosen in itertools.permutations(long, len(short))
    )
    matched = match_ious(predicted, truth)
    assert len(matched) == len(short)
    assert sum(matched) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(("overlap", "count"), [(iou, 3), (iou, 12), (quad_iou, 1), (quad_iou, 5)])
def test_matching_is_the_same_pair_by_pair_and_all_at_once(overlap, count):
    rng = np.random.default_rng(count)
    shapes = upright(rng, 2 * count).reshape(-1, 8)
    shapes = [[*quad[:2], *quad[4:6]] for quad in shapes.tolist()] if overlap is iou else shapes.tolist()
    predicted, truth = shapes[:count], shapes[count:]
    assert match_ious(predicted, truth, overlap) == match_ious(predicted, truth, lambda a, b: overlap(a, b))
