"""The slope of `iou` and `detect` for shapes that overlap nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from rewards.rules.distance import nearness, with_distance
from vlm.boxes import corners, iou, write_boxes, write_detections
from vlm.common.errors import RecipeError

SIZE = (300, 400)  # a diagonal of 500
BOX = [100, 100, 140, 120]  # centre 120, 110


def iou_of(said, *truth, shape="box", **options):
    notation = "rscovlm" if shape == "box" else "rscovlm_quad"
    columns = {"boxes": [[*truth]], "quads": [[corners(one) for one in truth]], "size": [SIZE], "resized": [SIZE]}
    reward = rewards.resolve("iou", notation=notation, inside="text", shape=shape, distance=0.1, **options)
    return reward(completions=[write_boxes(said, notation, SIZE, SIZE)], **columns)[0]


def detect_of(said, truth, **options):
    """Of boxes of one class."""
    columns = {"boxes": [truth], "labels": [["ship"] * len(truth)], "size": [SIZE], "resized": [SIZE]}
    text = write_detections([corners(one) for one in said], ["ship"] * len(said), "rscovlm", SIZE, SIZE)
    reward = rewards.resolve("detect", notation="rscovlm", inside="text", **{"floor": 0.0, "distance": 0.1} | options)
    return reward(completions=[text], **columns)[0]


def moved(box, dx, dy):
    return [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy]


@pytest.mark.parametrize("shape", ["box", "quad"])
def test_by_hand(shape):
    assert iou_of([BOX], BOX, shape=shape) == pytest.approx(1.0)
    far = moved(BOX, 60, 80)  # 100 of 500 away
    assert iou_of([far], BOX, shape=shape) == pytest.approx(0.1 * 0.8)
    half = [100, 100, 120, 120]
    assert iou_of([half], BOX, shape=shape) == pytest.approx(0.1 + 0.9 * 0.5)
    assert iou_of([half], BOX, shape=shape, steps="threshold", threshold=0.6) == pytest.approx(0.1)
    assert iou_of([far], BOX, shape=shape, steps="graduated") == pytest.approx(0.1 * 0.8)
    assert iou_of([BOX, far], BOX, shape=shape) == pytest.approx(1 / 2)  # a surplus one earns nothing
    assert iou_of([far], BOX, moved(BOX, 60, 160), shape=shape) == pytest.approx(0.1 * (1 - 80 / 500) / 2)  # the nearer
    assert iou_of([[120, 110, 120, 110]], BOX, shape=shape) == 0.0  # a point
    assert rewards.iou(completions=[""], boxes=[[BOX]], size=[SIZE], distance=0.1) == [0.0]


def test_by_hand_of_detect():
    far = moved(BOX, 60, 80)
    assert detect_of([far], [BOX]) == pytest.approx(0.1 * 0.8)
    assert detect_of([BOX], [BOX]) == 1.0 and detect_of([BOX, far], [BOX]) == 0.5
    assert detect_of([[100, 100, 120, 120]], [BOX], floor=0.2) == pytest.approx(0.1 + 0.9 * 0.3 / 0.8)
    assert detect_of([far], []) == 0.0
    text = write_detections([corners(far)], ["plane"], "rscovlm", SIZE, SIZE)
    row = {"boxes": [[BOX]], "labels": [["ship"]], "size": [SIZE], "resized": [SIZE]}
    assert rewards.detect(completions=[text], inside="text", notation="rscovlm", distance=0.1, **row) == [0.0]


def test_without_it_nothing_changes():
    said = [write_boxes([moved(BOX, 60, 80)], "rscovlm", SIZE, SIZE)]
    row = {"boxes": [[BOX]], "size": [SIZE], "resized": [SIZE], "completions": said}
    assert rewards.iou(notation="rscovlm", inside="text", **row) == [0.0]
    assert rewards.iou(notation="rscovlm", inside="text", distance=0.0, **row) == [0.0]


def test_weights_that_are_none():
    for weight in (-0.1, 1.0, 2.0):
        for name in ("iou", "detect"):
            with pytest.raises(RecipeError, match=rf"reward '{name}': distance is .* a weight in \[0, 1\)"):
                rewards.resolve(name, distance=weight)(completions=[])


BOXES = st.tuples(*[st.integers(0, 250)] * 2, *[st.integers(1, 50)] * 2).map(
    lambda n: [n[0], n[1], n[0] + n[2], n[1] + n[3]]
)


@settings(max_examples=300, deadline=None)
@given(BOXES, BOXES, BOXES, st.sampled_from(["continuous", "graduated", "threshold"]))
def test_what_overlaps_is_never_beaten_by_what_is_apart(truth, one, other, steps):
    """And of two that are apart the nearer one earns more; of two that overlap the one with the larger IoU no less."""
    values = [iou_of([box], truth, steps=steps) for box in (one, other)]
    detected = [detect_of([box], [truth]) for box in (one, other)]
    overlaps = [iou(box, truth) for box in (one, other)]
    apart = [math.dist(_centre(box), _centre(truth)) for box in (one, other)]
    for found in (values, detected):
        assert all(0 <= value <= 1 for value in found)
        if overlaps[0] > overlaps[1]:
            assert found[0] >= found[1]
        if not any(overlaps) and apart[0] < apart[1] - 1e-6:
            assert found[1] < found[0] < 0.1


def _centre(box):
    return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


def test_nearness_is_that_of_centres():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 200, (30, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 90, (30, 2))], axis=1)
    found = nearness(boxes[:20], boxes[20:], SIZE)
    expected = [[1 - math.dist(_centre(a), _centre(b)) / 500 for b in boxes[20:]] for a in boxes[:20]]
    assert found == pytest.approx(np.array(expected))
    quads = [corners(box) for box in boxes]
    assert nearness(quads[:20], quads[20:], SIZE) == pytest.approx(found)


def test_no_weight_leaves_worth_as_it_is():
    overlap, near = np.array([0.5, 0.0]), np.array([0.9, 0.9])
    assert with_distance([0.5, 0.0], overlap, near, 0.0).tolist() == [0.5, 0.0]
