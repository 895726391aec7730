"""Boxes: shapes and what becomes of them by hand, frames there and back."""

from __future__ import annotations

import itertools
import math

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.boxes import FRAMES, clip, convert, corners, hull, iou, obb_from_quad, ordered, quad_from_obb

SIZE = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@st.composite
def proper_boxes(draw, limit: float = 1000.0):
    x1, x2 = sorted(draw(st.lists(st.floats(0, limit), min_size=2, max_size=2)))
    y1, y2 = sorted(draw(st.lists(st.floats(0, limit), min_size=2, max_size=2)))
    return [x1, y1, x2, y2]


@st.composite
def image_with_boxes(draw):
    width, height = draw(SIZE)
    fractions = draw(st.lists(proper_boxes(1.0), min_size=1, max_size=4))
    return (width, height), [[x1 * width, y1 * height, x2 * width, y2 * height] for x1, y1, x2, y2 in fractions]


# --- shapes


def test_an_oriented_box_turns_clockwise_as_seen():
    assert quad_from_obb(10, 20, 6, 2, 0) == pytest.approx([7, 19, 13, 19, 13, 21, 7, 21])
    # y points down: a quarter turn from x towards y brings the left upper corner to the right upper one.
    assert quad_from_obb(10, 20, 6, 2, 90) == pytest.approx([11, 17, 11, 23, 9, 23, 9, 17])
    assert quad_from_obb(0, 0, 2 * math.sqrt(2), 0, 45)[2:4] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("obb", "expected"),
    [
        ((10, 20, 6, 2, 30), [10, 20, 6, 2, 30]),
        ((10, 20, 2, 6, 30), [10, 20, 6, 2, -60]),  # the longer side counts
        ((10, 20, 6, 2, 90), [10, 20, 6, 2, -90]),  # -90 ≤ θ < 90
        ((10, 20, 6, 2, 150), [10, 20, 6, 2, -30]),
        ((10, 20, 6, 0, 30), [10, 20, 6, 0, 30]),
    ],
)
def test_oriented_boxes_by_hand(obb, expected):
    found = obb_from_quad(quad_from_obb(*obb))
    assert found[:4] == pytest.approx(expected[:4], abs=1e-9)
    assert (found[4] - expected[4] + 90) % 180 == pytest.approx(90, abs=1e-6)  # -90 and 90 - 1e-14 are the same


def test_a_point_and_an_uneven_quadrilateral_by_hand():
    assert obb_from_quad([3, 4] * 4) == [3, 4, 0, 0, 0]
    # A right triangle with sides 3, 4, 5: along each of the shorter ones 3 × 4, along the longest 5 × 2.4.
    cx, cy, width, height, _ = obb_from_quad([0, 0, 4, 0, 0, 3, 0, 0])
    assert width * height == pytest.approx(12)
    with pytest.raises(ValueError, match="finite"):
        obb_from_quad([0, 0, 4, 0, 0, math.nan, 0, 0])


@settings(max_examples=200)
@given(st.lists(st.integers(-50, 50), min_size=8, max_size=8))
def test_the_least_rectangle_is_shapelys(quad):
    points = shapely.multipoints([quad[place : place + 2] for place in range(0, 8, 2)])
    cx, cy, width, height, degrees = obb_from_quad(quad)
    assert -90 <= degrees < 90 and width >= height >= 0
    if points.convex_hull.area > 0:
        assert width * height == pytest.approx(shapely.oriented_envelope(points).area, rel=1e-9)
    rectangle = quad_from_obb(cx, cy, width, height, degrees)
    around = shapely.Polygon(list(zip(rectangle[::2], rectangle[1::2], strict=True))).buffer(1e-6)
    assert around.covers(points)


def test_corners_hull_clip_and_order_by_hand():
    assert corners([1, 2, 5, 4]) == [1, 2, 5, 2, 5, 4, 1, 4]
    assert hull([1, 5, 3, 2, 6, 4, 2, 9]) == [1, 2, 6, 9]
    assert clip([-3, 2, 50, 40], (30, 20)) == [0, 2, 30, 20]
    assert clip([40, 2, 50, 40], (30, 20)) == [30, 2, 30, 20]
    clockwise = [5, 0, 9, 3, 5, 6, 1, 3]
    assert ordered(clockwise) == clockwise
    assert ordered([5, 6, 9, 3, 5, 0, 1, 3]) == clockwise  # the other way round, from below
    assert ordered(corners([1, 2, 5, 4])[4:] + corners([1, 2, 5, 4])[:4]) == corners([1, 2, 5, 4])


@given(image_with_boxes())
def test_iou_is_the_same_in_every_frame(scene):
    size, boxes = scene
    a, b = boxes[0], boxes[-1]
    milles = [convert(box, "pixel", "per_mille", size) for box in (a, b)]
    if min(milles[0][2] - milles[0][0], milles[0][3] - milles[0][1]) > 1e-3:
        assert iou(*milles) == pytest.approx(iou(a, b), abs=1e-6)


# --- frames

# The same box of an 800x400 image, which the model sees at 448x224.
SAME_BOX = {
    "pixel": [80, 100, 400, 400],
    "unit": [0.1, 0.25, 0.5, 1.0],
    "per_mille": [100, 250, 500, 1000],
    "percent": [10, 25, 50, 100],
    "square": [0.1, 0.375, 0.5, 0.75],  # 200 rows of padding above and below
    "resized": [44.8, 56, 224, 224],
}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FRAMES, FRAMES)))
def test_conversion_by_hand(source, target):
    converted = convert(SAME_BOX[source], source, target, (800, 400), resized=(448, 224))
    assert converted == pytest.approx(SAME_BOX[target], abs=1e-9)


@given(
    proper_boxes(),
    st.sampled_from(FRAMES),
    st.sampled_from(FRAMES),
    SIZE,
    st.tuples(*[st.integers(28, 2000)] * 2),
)
def test_conversion_there_and_back(box, source, target, size, resized):
    there = convert(box, source, target, size, resized)
    assert convert(there, target, source, size, resized) == pytest.approx(box, rel=1e-9, abs=1e-9)


def test_a_picture_padded_to_a_square_by_hand():
    """The odd row of padding stands below, as in LLaVA's `expand2square` and transformers' padding."""
    assert convert([0, 0, 10, 7], "pixel", "square", (10, 7)) == [0, 0.1, 1, 0.8]
    assert convert([0, 0, 7, 10], "pixel", "square", (7, 10)) == [0.1, 0, 0.8, 1]
    assert convert([0.25, 0.5, 0.75, 1], "square", "per_mille", (8, 8)) == [250, 500, 750, 1000]
    assert convert([0.1, 0.2, 0.3, 0.4], "square", "square", (10, 7)) == [0.1, 0.2, 0.3, 0.4]


def test_whole_numbers_convert_exactly():
    assert convert([400, 200, 800, 600], "pixel", "per_mille", (800, 800)) == [500.0, 250.0, 1000.0, 750.0]


@pytest.mark.parametrize(
    ("source", "target", "size", "message"),
    [
        ("pixel", "permille", (8, 8), "unknown frame 'permille'"),
        ("pixel", "resized", (8, 8), "needs resized"),
        ("pixel", "unit", (0, 8), "both positive"),
    ],
)
def test_conversion_refuses(source, target, size, message):
    with pytest.raises(ValueError, match=message):
        convert([0, 0, 1, 1], source, target, size)


def test_quadrilaterals_convert_corner_by_corner():
    assert convert([0, 0, 800, 0, 800, 400, 400, 200], "pixel", "percent", (800, 400)) == [
        0,
        0,
        100,
        0,
        100,
        100,
        50,
        50,
    ]
