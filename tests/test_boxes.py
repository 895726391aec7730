"""Boxes: IoU against shapely, frames by hand, notations there and back."""

from __future__ import annotations

import itertools

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.boxes import (
    FRAMES,
    NOTATIONS,
    convert,
    iou,
    match_ious,
    read_boxes,
    write_boxes,
)
from vlm.errors import DataError, RecipeError

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


# --- IoU


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


@given(proper_boxes(), proper_boxes())
def test_iou_equals_shapely(a, b):
    first, second = shapely.box(*a), shapely.box(*b)
    union = first.union(second).area
    # Slivers near the smallest float lose their area to rounding in one of the two implementations.
    if min(first.area, second.area) < 1e-9:
        assert 0 <= iou(a, b) <= 1
    else:
        assert iou(a, b) == pytest.approx(first.intersection(second).area / union, abs=1e-6)


@given(st.lists(st.floats(), min_size=8, max_size=8))
def test_iou_is_bounded_whatever_the_numbers(numbers):
    assert 0 <= iou(numbers[:4], numbers[4:]) <= 1


@given(image_with_boxes())
def test_iou_is_the_same_in_every_frame(scene):
    size, boxes = scene
    a, b = boxes[0], boxes[-1]
    milles = [convert(box, "pixel", "per_mille", size) for box in (a, b)]
    if min(milles[0][2] - milles[0][0], milles[0][3] - milles[0][1]) > 1e-3:
        assert iou(*milles) == pytest.approx(iou(a, b), abs=1e-6)


@settings(deadline=None)  # the first example imports scipy
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


# --- frames

# The same box of an 800x400 image, which the model sees at 448x224.
SAME_BOX = {
    "pixel": [80, 100, 400, 400],
    "unit": [0.1, 0.25, 0.5, 1.0],
    "per_mille": [100, 250, 500, 1000],
    "percent": [10, 25, 50, 100],
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


# --- notations


def test_written_forms():
    boxes = [[80, 100, 400, 400], [0, 0, 8, 4]]
    assert write_boxes(boxes, "qwen2_vl", (800, 400)) == (
        "<|box_start|>(100,250),(500,1000)<|box_end|><|box_start|>(0,0),(10,10)<|box_end|>"
    )
    assert write_boxes(boxes, "vhm", (800, 400)) == "[[100,250,500,1000],[000,000,010,010]]"


ONE, TWO = [[100.0, 250, 500, 1000]], [[100.0, 250, 500, 1000], [0, 0, 10, 10]]


@pytest.mark.parametrize(
    ("notation", "text", "expected"),
    [
        ("qwen2_vl", "<|box_start|>(100,250),(500,1000)<|box_end|>", ONE),
        ("qwen2_vl", "(100,250),(500,1000)", ONE),  # TRL decodes without special tokens
        ("qwen2_vl", " ( 100 , 250 ) ,\n( 500.0,1000 )\n", ONE),
        ("qwen2_vl", "(100,250),(500,1000)(0,0),(10,10)", TWO),
        ("qwen2_vl", "(100,250),(500,1000), (0,0),(10,10)", TWO),
        ("qwen2_vl", "(100,250),(500,1000)\n(0,0),(10,10)", TWO),
        ("vhm", "[[100,250,500,1000]]", ONE),
        ("vhm", "[100,250,500,1000]", ONE),
        ("vhm", "[[100, 250, 500, 1000], [000,000,010,010]]", TWO),
        ("vhm", "[100,250,500,1000][0,0,10,10]", TWO),
        ("qwen2_vl", "(7,7),(7,7)", [[7.0, 7, 7, 7]]),  # without area, but a proper box
    ],
)
def test_parsing(notation, text, expected):
    assert NOTATIONS[notation].parse(text) == expected


@pytest.mark.parametrize(
    ("notation", "text"),
    [
        ("qwen2_vl", ""),
        ("qwen2_vl", " \n"),
        ("qwen2_vl", "(500,250),(100,1000)"),  # inverted in x
        ("qwen2_vl", "(100,1000),(500,250)"),  # inverted in y
        ("qwen2_vl", "(100,250),(500,1001)"),  # outside the frame
        ("qwen2_vl", "(-1,250),(500,1000)"),
        ("qwen2_vl", "(100,250),(500,1000) or so"),
        ("qwen2_vl", "The box is (100,250),(500,1000)"),
        ("qwen2_vl", "(100,250),(500,1000),"),
        ("qwen2_vl", "(100,250),(500,1000),(3,4)"),
        ("qwen2_vl", "(100,250)"),
        ("qwen2_vl", "<|box_start|>(100,250),(500,1000)"),  # only half of the pair of tokens
        ("qwen2_vl", "(1 00,250),(500,1000)"),
        ("qwen2_vl", "(1e2,250),(500,1000)"),
        ("qwen2_vl", "(nan,250),(500,inf)"),
        ("qwen2_vl", "(١٠٠,250),(500,1000)"),  # digits, but not ASCII
        ("qwen2_vl", f"({'9' * 400},0),(10,10)"),
        ("qwen2_vl", "[[100,250,500,1000]]"),  # another family's notation: frames are declared, never guessed
        ("vhm", "(100,250),(500,1000)"),
        ("vhm", "[[100,250,500,1000]"),
        ("vhm", "[100,250,500,1000]]"),
        ("vhm", "[[100,250,500]]"),
        ("vhm", "[[]]"),
        ("vhm", "[[500,250,100,1000]]"),
    ],
)
def test_parsing_refuses(notation, text):
    assert NOTATIONS[notation].parse(text) is None
    assert read_boxes(text, notation, (800, 400)) is None


@given(image_with_boxes(), st.sampled_from(sorted(NOTATIONS)))
def test_text_there_and_back_within_half_a_unit(scene, notation):
    size, boxes = scene
    text = write_boxes(boxes, notation, size)
    back = read_boxes(text, notation, size)
    assert back is not None
    assert len(back) == len(boxes)
    for box, again in zip(boxes, back, strict=True):
        for index, (value, other) in enumerate(zip(box, again, strict=True)):
            assert abs(value - other) <= (0.5 + 1e-6) * size[index % 2] / 1000
    assert write_boxes(back, notation, size) == text


@given(image_with_boxes())
def test_qwen_boxes_read_the_same_without_special_tokens(scene):
    size, boxes = scene
    text = write_boxes(boxes, "qwen2_vl", size)
    bare = text.replace("<|box_start|>", "").replace("<|box_end|>", "")
    assert read_boxes(bare, "qwen2_vl", size) == read_boxes(text, "qwen2_vl", size)


@given(
    st.one_of(st.text(), st.text(alphabet="()[],; 0123456789.-<|box_startend>")),
    st.sampled_from(sorted(NOTATIONS)),
)
def test_parsing_never_raises_and_gives_proper_boxes_only(text, notation):
    boxes = NOTATIONS[notation].parse(text)
    assert boxes is None or boxes
    for x1, y1, x2, y2 in boxes or []:
        assert 0 <= x1 <= x2 <= 1000
        assert 0 <= y1 <= y2 <= 1000


def test_parsing_long_junk_is_quick():
    # Unbounded repetitions over white space would need minutes for these.
    assert NOTATIONS["qwen2_vl"].parse("(1,2),(3,4)" + " " * 200_000 + "x") is None
    assert NOTATIONS["vhm"].parse("[" * 200_000) is None
    assert len(NOTATIONS["qwen2_vl"].parse("(1,2),(3,4) , " * 5_000 + "(1,2),(3,4)") or []) == 5_001


@pytest.mark.parametrize(
    "boxes", [[], [[10, 10, 5, 20]], [[0, 0, 900, 10]], [[-5, 0, 9, 9]], [[0, 0, float("nan"), 9]]]
)
def test_writing_refuses_what_would_not_read_back(boxes):
    with pytest.raises(DataError, match="notation qwen2_vl"):
        write_boxes(boxes, "qwen2_vl", (800, 400))


def test_unknown_notation():
    with pytest.raises(RecipeError, match="'qwen3'; known: qwen2_vl, vhm"):
        read_boxes("(1,2),(3,4)", "qwen3", (8, 8))
