"""The reward `union`: by hand, against counted pixels, and played with in generated scenes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from vlm.boxes import corners, quad_from_obb, write_boxes, write_quads
from vlm.common.errors import DataError

SIZE = (200, 100)
TRUTH = [[10, 10, 30, 30], [20, 20, 40, 40]]
"""Together 700 pixels."""


def value_of(said, truth=TRUTH, size=SIZE, **options):
    """said: a text, or boxes in whole pixels."""
    shape = options.get("shape", "box")
    notation = "rscovlm" if shape == "box" else "rscovlm_quad"
    if not isinstance(said, str):
        write = write_boxes if shape == "box" else write_quads
        said = write(said, notation, size, size)
    reward = rewards.resolve("union", notation=notation, inside="text", **options)
    row = {"boxes" if shape == "box" else "quads": [truth], "size": [size], "resized": [size], "task": ["grounding"]}
    return reward(completions=[said], **row)[0]


def test_by_hand():
    assert value_of(TRUTH) == value_of(TRUTH[::-1]) == pytest.approx(1.0)
    assert value_of(TRUTH[:1]) == pytest.approx(2 * 400 / (400 + 700))
    assert value_of([[10, 10, 40, 40]]) == pytest.approx(2 * 700 / (900 + 700))
    assert value_of([[100, 50, 120, 60]]) == 0
    # cut into other boxes, and one of them said three times: the same area
    assert value_of([[10, 10, 30, 20], [10, 20, 30, 30], [30, 20, 40, 40], [20, 30, 30, 40]]) == pytest.approx(1.0)
    assert value_of([*TRUTH, TRUTH[0], TRUTH[0]]) == pytest.approx(1.0)
    # all of the picture: 2a / (1 + a)
    share = 700 / 20_000
    assert value_of([[0, 0, 200, 100]]) == pytest.approx(2 * share / (1 + share))


@pytest.mark.parametrize("said", ["", "nothing", "none.", "[]", "10,10", "10,10,30"])
def test_no_boxes_earn_nothing(said):
    assert value_of(said) == 0


def test_missed_boxes_cover_nothing():
    proper = write_boxes(TRUTH, "rscovlm", SIZE, SIZE)
    far = write_boxes([[150, 10, 190, 20]], "rscovlm", SIZE, SIZE)
    beyond = far.replace("190", "390")
    assert beyond != far and value_of(f"{proper}\n{beyond}") == pytest.approx(1.0)
    assert value_of(beyond) == 0


def test_quads_as_they_lie():
    square = [[100, 0, 150, 50, 100, 100, 50, 50]]  # 5,000 pixels; the box around it has 10,000
    assert value_of(square, square, shape="quad") == pytest.approx(1.0)
    around = [corners([50, 0, 150, 100])]
    assert value_of(around, square, shape="quad") == pytest.approx(2 * 5000 / 15_000)
    # what overhangs the image is cut off: half of this one lies in it
    tilted = [[0, 20, 30, 50, 0, 80, -30, 50]]
    assert value_of([[0, 20, 30, 50, 0, 80, 0, 50]], tilted, shape="quad") == pytest.approx(1.0)


BOX = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 12)] * 2).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(BOX, min_size=1, max_size=6), st.lists(BOX, min_size=1, max_size=6))
def test_equals_counted_pixels(said, true):
    def counted(boxes):
        pixels = np.zeros((32, 32), bool)
        for x1, y1, x2, y2 in boxes:
            pixels[y1:y2, x1:x2] = True
        return pixels

    first, second = counted(said), counted(true)
    expected = 2 * (first & second).sum() / (first.sum() + second.sum())
    assert value_of(said, true, (32, 32)) == pytest.approx(expected)
    assert value_of([corners(box) for box in said], [corners(box) for box in true], (32, 32), shape="quad") == (
        pytest.approx(expected)
    )


def test_oriented_boxes_against_counted_pixels():
    draw = random.Random(0)
    y, x = np.mgrid[:400, :400] + 0.5
    for _ in range(10):
        some = [
            [draw.uniform(80, 320), draw.uniform(80, 320), draw.uniform(40, 90), draw.uniform(20, 50)] for _ in "abcd"
        ]
        quads, pixels = [], []
        for cx, cy, width, height in some:
            turn = draw.uniform(-90, 90)
            quads.append(quad_from_obb(cx, cy, width, height, turn))
            cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
            u, v = (x - cx) * cos + (y - cy) * sin, (y - cy) * cos - (x - cx) * sin
            pixels.append((abs(u) < width / 2) & (abs(v) < height / 2))
        said, true = np.any(pixels[:2], 0), np.any(pixels[1:], 0)
        expected = 2 * (said & true).sum() / (said.sum() + true.sum())
        assert value_of(quads[:2], quads[1:], (400, 400), shape="quad") == pytest.approx(expected, abs=0.03)


def test_a_flood_is_read_in_part():
    """The first 256 boxes count: the one that is right stands behind them."""
    far = [[100, 50, 101, 51]] * 256
    assert value_of([*far, *TRUTH]) == 0
    assert value_of([*TRUTH, *far]) == pytest.approx(2 * 700 / (700 + 701))


def test_rows_it_is_not_for():
    reward = rewards.resolve("union", notation="rscovlm", inside="text")
    row = {"size": [SIZE], "resized": [SIZE]}
    assert reward(completions=["x"], boxes=[TRUTH], task=["detection"], **row) == [None]
    assert reward(completions=["x"], **row) == [None]
    with pytest.raises(DataError, match="reward 'union' applies to task 'grounding' and needs the field 'boxes'"):
        reward(completions=["x"], boxes=[None], task=["grounding"], **row)
    with pytest.raises(DataError, match="counts pixels of the resized image"):
        reward(completions=["x"], boxes=[TRUTH], task=["grounding"], size=[SIZE])
    for nothing in ([], [[300, 10, 310, 20]]):
        with pytest.raises(DataError, match="without area in the image"):
            reward(completions=["x"], boxes=[nothing], task=["grounding"], **row)
    tags = f"<think>x</think>\n<answer>{write_boxes(TRUTH, 'rscovlm', SIZE, SIZE)}</answer>"
    gated = rewards.resolve("gated", tasks={"grounding": "union"}, notation="rscovlm")
    assert gated(completions=[tags], boxes=[TRUTH], task=["grounding"], **row) == [pytest.approx(1.0)]


def test_unreadable_answers_are_told():
    logged = []
    reward = rewards.resolve("union", notation="rscovlm", inside="text")
    said = ["nothing", write_boxes(TRUTH, "rscovlm", SIZE, SIZE)]
    columns = {"boxes": [TRUTH] * 2, "size": [SIZE] * 2, "resized": [SIZE] * 2}
    reward(completions=said, log_metric=lambda name, value: logged.append((name, value)), **columns)
    assert logged == [("reward_unreadable/union", 1.0), ("reward_unreadable/union", 0.0)]


def test_nothing_that_is_played_earns_more_than_half_an_answer():
    """120 scenes of 1 to 12 boxes that cover up to a third of the picture. Half of the boxes, by area, earn 2/3."""
    side, draw = 300, random.Random(0)

    def grid(cells, every=1):
        step = side // cells
        places = [(x, y) for x in range(cells) for y in range(cells) if (x + y) % every == 0]
        return [[x * step, y * step, (x + 1) * step, (y + 1) * step] for x, y in places]

    played = {"all": grid(1), "2 × 2": grid(2), "10 × 10": grid(10), "checkerboard": grid(10, 2), "fine": grid(16, 2)}
    size = (side, side)
    played = {name: write_boxes(said, "rscovlm", size, size) for name, said in played.items()}
    for _ in range(120):
        usual, boxes, covered = 6 * 16 ** draw.random(), [], np.zeros((side, side), bool)
        for _ in range(draw.randint(1, 12)):
            width, height = (round(usual * 2 ** draw.uniform(-0.5, 0.5)) for _ in "xy")
            x, y = draw.randint(0, side - width), draw.randint(0, side - height)
            more = covered.copy()
            more[y : y + height, x : x + width] = True
            if more.mean() < 1 / 3:
                boxes, covered = [*boxes, [x, y, x + width, y + height]], more
        assert value_of(boxes, boxes, (side, side)) == pytest.approx(1.0)
        share = covered.mean()
        for name, said in played.items():
            value = value_of(said, boxes, (side, side))
            assert value <= 2 * share / (1 + share) + 0.1 and value < 0.6, name
        assert value_of(played["all"], boxes, (side, side)) == pytest.approx(2 * share / (1 + share)) and share <= 1 / 3
