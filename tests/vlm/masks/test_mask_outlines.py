"""Outlines: holes, parts, large and tiny things, the order of points."""

import json
import time

import numpy as np
import pytest

from vlm.masks import area, pixels_of, read_mask, rings_to_runs, runs_of, write_mask
from vlm.masks.outlines import GOOD, POINTS


def drawn(shape, *boxes):
    mask = np.zeros(shape, bool)
    for x1, y1, x2, y2, *off in boxes:
        mask[y1:y2, x1:x2] = not off
    return mask


def iou(mask, text):
    both, either = read_mask(text, "polygon", mask.shape[::-1]).overlap(runs_of(mask))
    return both / either


def test_a_box_is_its_corners_clockwise_from_above_left():
    assert write_mask(runs_of(drawn((100, 200), (20, 10, 60, 40))), "polygon") == (
        "[[[100,100],[300,100],[300,400],[100,400]]]"
    )
    assert write_mask(runs_of(np.zeros((100, 200), bool)), "polygon") == "[]"
    assert write_mask(runs_of(np.ones((100, 200), bool)), "polygon") == "[[[0,0],[1000,0],[1000,1000],[0,1000]]]"


def test_parts_stand_from_above_then_from_the_left():
    mask = drawn((100, 100), (70, 5, 90, 15), (10, 5, 15, 10), (0, 50, 90, 90))
    first = [ring[0] for ring in json.loads(write_mask(runs_of(mask), "polygon"))]
    assert first == [[100, 50], [700, 50], [0, 500]]


def test_a_hole_is_cut_open_into_parts_that_touch():
    mask = drawn((200, 200), (20, 20, 180, 180), (60, 60, 140, 140, "out"))
    rings = json.loads(write_mask(runs_of(mask), "polygon"))
    assert len(rings) == 2 and iou(mask, json.dumps(rings)) == 1
    many = drawn((200, 200), (0, 0, 200, 200), *((x, y, x + 30, y + 30, 0) for x in (10, 80, 150) for y in (20, 120)))
    text = write_mask(runs_of(many), "polygon")
    assert iou(many, text) >= GOOD and sum(map(len, json.loads(text))) <= POINTS


def test_a_hole_too_small_for_its_points_is_filled():
    mask = drawn((500, 500), (20, 20, 480, 480), (200, 200, 203, 203, "out"))
    assert len(json.loads(write_mask(runs_of(mask), "polygon"))) == 1


def test_a_circle_has_few_points():
    """Its 2,000 pixels of border in at most 32 points; the tolerance is the coarsest that keeps 0.95."""
    y, x = np.mgrid[:800, :800]
    circle = (x - 400) ** 2 + (y - 400) ** 2 < 300**2
    text = write_mask(runs_of(circle), "polygon")
    assert iou(circle, text) >= GOOD and len(json.loads(text)[0]) <= 16


@pytest.mark.parametrize("kind", ["specks", "chequers", "web"])
def test_what_points_cannot_say_is_said_in_its_largest_parts(kind):
    rng = np.random.default_rng(0)
    mask = {
        "specks": rng.random((300, 300)) < 0.2,
        "chequers": np.indices((300, 300)).sum(0) // 10 % 2 > 0,
        "web": rng.random((300, 300)) < 0.8,
    }[kind]
    began = time.process_time()
    text = write_mask(runs_of(mask), "polygon")
    assert time.process_time() - began < 5
    assert 0 < sum(map(len, json.loads(text))) <= POINTS
    assert iou(mask, text) > {"specks": 0, "chequers": 0.02, "web": 0.7}[kind]


def test_a_picture_of_30_000_pixels_a_side_is_outlined_on_a_coarse_grid():
    side = 30_000
    whole = rings_to_runs([[7_000, 9_000, 26_000, 9_000, 26_000, 20_000, 7_000, 20_000]], (side, side))
    text = write_mask(whole, "polygon")
    both, either = read_mask(text, "polygon", (side, side)).overlap(whole)
    assert both / either > 0.995
    tiny = rings_to_runs([[7_000, 9_000, 7_004, 9_000, 7_004, 9_002, 7_000, 9_002]], (side, side))
    assert area(tiny) == 8
    said = read_mask(write_mask(tiny, "polygon"), "polygon", (side, side))
    assert said.overlap(tiny)[0] > 0, "what is there is never left out"


def test_one_pixel_of_a_wide_picture():
    """A pixel of 2,000 across is half a per mille: written as a box of one."""
    mask = drawn((10, 2000), (1_001, 3, 1_002, 4))
    text = write_mask(runs_of(mask), "polygon")
    assert pixels_of(read_mask(text, "polygon", (2000, 10)).runs())[3, 1_001]
