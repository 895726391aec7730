"""What a model's answer states: overhangs and misses by hand, the further forms of each family, and no way to hedge."""

from __future__ import annotations

import json

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from evals.predictions import Prediction
from evals.scoring.metrics import evaluate
from evals.scoring.reading import Reading
from evals.scoring.scores import Grounding
from rewards.select.selectors import _overlaps
from samples import Sample
from vlm.boxes import NOTATIONS, corners, hull, quad_from_obb, read_quads, read_said, write_boxes, write_quads

SIZE, RESIZED = (2016, 1008), (1008, 504)  # a resized pixel is two of the original's
BOX = [200.0, 100.0, 1008.0, 504.0]  # in the resized image 100,50,504,252


def boxes_of(text: str, notation: str) -> list[list[float]] | None:
    found = read_said(text, notation, SIZE, RESIZED)
    return None if found is None else found.boxes


def reward(text: str, truth, notation: str, **options) -> float:
    columns = {"boxes": [truth], "quads": [[corners(box) for box in truth]], "size": [SIZE], "resized": [RESIZED]}
    return rewards.resolve("iou", notation=notation, inside="text", **options)(completions=[text], **columns)[0]


def metrics(text: str, truth, notation: str) -> tuple[float, float]:
    """Mean IoU by both ways that evaluations take."""
    asked = [Prediction("1", "g", "grounding", text, boxes=truth, size=SIZE, resized=RESIZED)]
    reading = Reading(notation, "text")
    one = Grounding()(asked, reading).metrics["grounding/miou"].value
    return one, evaluate(asked, notation, "text").metrics["grounding/miou"].value


# --- the overhang


@pytest.mark.parametrize(
    ("notation", "text", "cut"),
    [
        ("qwen2_5_vl", '[{"bbox_2d": [504, 252, 1009, 504]}]', [1008, 504, 2016, 1008]),  # one pixel
        ("qwen2_5_vl", '[{"bbox_2d": [504, 252, 1028.16, 514.08]}]', [1008, 504, 2016, 1008]),  # 2% of each side
        ("qwen2_5_vl", '[{"bbox_2d": [504, 252, 1028.2, 504]}]', None),
        ("qwen2_5_vl", '[{"bbox_2d": [504, 252, 1008, 514.1]}]', None),
        ("rscovlm", "-20.16,0,504,252 dam", [0, 0, 1008, 504]),
        ("rscovlm", "-20.2,0,504,252 dam", None),
        ("qwen2_vl", "(500,500),(1020,1020)", [1008, 504, 2016, 1008]),
        ("qwen2_vl", "(-20,-20),(500,500)", [0, 0, 1008, 504]),
        ("qwen2_vl", "(500,500),(1021,1000)", None),
        ("qwen2_vl", "(500,500),(100,1000)", None),  # inverted
        ("vhm", "[[500,500,1001,1000]]", [1008, 504, 2016, 1008]),
        ("internvl", "<box>[[500, 500, 1001, 1000]]</box>", [1008, 504, 2016, 1008]),
        ("lhrs", "<bbox>[0.5, 0.5, 1.02, 1.0]</bbox>", [1008, 504, 2016, 1008]),
        ("lhrs", "<bbox>[0.5, 0.5, 1.021, 1.0]</bbox>", None),
        ("llava", "[0.5, 0.5, 1.02, 0.75]", [1008, 504, 2016, 1008]),
        ("llava", "[0.5, 0.5, 1, 0.76]", [1008, 504, 2016, 1008]),  # 2% of the height, half as much of the square
        ("llava", "[0.5, 0.5, 1, 0.761]", None),
        ("llava", "[0.5, 0.5, 1.03, 0.75]", None),
        ("glm4v", "<|begin_of_box|>[[500,500,1001,1000]]<|end_of_box|>", [1008, 504, 2016, 1008]),
        ("qwen3_vl", '[{"bbox_2d": [500, 500, 1021, 1000]}]', None),
    ],
)
def test_two_percent_of_the_side_are_cut_and_more_is_a_miss(notation, text, cut):
    found = read_said(text, notation, SIZE, RESIZED)
    assert (found.boxes, found.missed, len(found)) == ([cut] if cut else [], int(cut is None), 1)
    truth = [[1008.0, 504.0, 2016.0, 1008.0] if cut is None else [float(x) for x in cut]]
    expected = 0.0 if cut is None else 1.0
    assert reward(text, truth, notation) == expected
    assert reward(text, truth, notation, shape="quad") == pytest.approx(expected)
    assert metrics(text, truth, notation) == (expected, expected)


def test_a_missed_box_leaves_the_others():
    """One of two is right: half, in reward and metrics. With one true box the missed one is a surplus."""
    other = [1200.0, 600.0, 1600.0, 800.0]
    for second in ("(500,500),(1021,1000)", "(500,500),(100,1000)"):
        text = f"{write_boxes([BOX], 'qwen2_vl', (2000, 1000))},{second}"
        truth = [[200.0 * 1.008, 100.0 * 1.008, 1008.0 * 1.008, 504.0 * 1.008], other]
        assert reward(text, truth, "qwen2_vl") == pytest.approx(0.5, abs=1e-6)
        assert metrics(text, truth, "qwen2_vl") == pytest.approx((0.5, 0.5), abs=1e-6)
        assert reward(text, truth[:1], "qwen2_vl") == pytest.approx(0.5, abs=1e-6)
        assert metrics(text, truth[:1], "qwen2_vl") == (0.0, 0.0)  # another number of boxes


def test_the_union_keeps_the_area_of_what_was_missed():
    """cIoU: the hit gives 100/100, the missed true box its area: 100 of 100 + 400."""
    truth = [[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0]]
    asked = [Prediction("1", "g", "grounding", "(0,0),(100,100),(200,200),(400,1100)", boxes=truth, size=(100, 100))]
    found = Grounding()(asked, Reading("qwen2_vl", "text")).metrics
    assert found["grounding/ciou"].value == pytest.approx(0.2) and found["grounding/miou"].value == 0.5
    assert "2% of the side" in found["grounding/miou"].convention


def test_missed_boxes_never_hit_by_the_plus_one_arithmetic():
    asked = [Prediction("1", "g", "grounding", "(0,0),(0,1500)", boxes=[[0.0, 0.0, 0.0, 0.0]], size=(100, 100))]
    assert Grounding(("vrsbench",))(asked, Reading("qwen2_vl", "text")).metrics["grounding/miou"].value == 0


def test_turned_shapes_may_overhang():
    quad = quad_from_obb(60, 60, 300, 100, 30)
    for notation in ("geochat", "rscovlm_obb", "rscovlm_quad"):
        found = read_said(write_quads([quad], notation, SIZE, RESIZED), notation, SIZE, RESIZED)
        assert not found.missed and min(found.quads[0]) < -40 and found.boxes[0][:2] == [0, 0]
    lines = "0,0,9,0,9,9,0,9 a\n-2000,0,9,0,9,9,0,9 b"
    found = read_said(lines, "rscovlm_quad", SIZE, RESIZED)
    assert [item.label for item in found.objects] == ["a"] and found.missed == 1


def test_detection_counts_missed_objects_as_not_read():
    said = "0,0,9,0,9,9,0,9 a\n-2000,0,9,0,9,9,0,9 b"
    for text, unread in ((said, 1), (f"{said}\nand so on", 2)):  # whole, and line by line
        asked = Prediction("1", "g", "detection", text, size=SIZE, resized=RESIZED)
        found = Reading("rscovlm_quad", "text").detections(asked)
        assert ([item.label for item in found.objects], found.missed) == (["a"], unread)


def test_a_vote_counts_boxes_that_overhang():
    """Best of N: 1009 of 1008 votes for the same box as 1008; one that is missed for nothing, not even itself."""
    sample = Sample([], [], "grounding", size=SIZE, boxes=[BOX])
    texts = ["504,252,1009,504", "504,252,1008,504", "504,252,1100,504", None]
    table = _overlaps(sample, texts, "rscovlm", RESIZED)
    assert table.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


# --- the further forms

ONE = [BOX]
FORMS = [
    ("qwen2_5_vl", '[{"bbox_2d": [100, 50, 504, 252], "label": "dam", "score": 0.9, "sub_label": "old"}]'),
    ("qwen2_5_vl", '{"bbox": [100, 50, 504, 252]}'),
    ("qwen2_5_vl", '[{"bbox_2d": [100, 50, 504, 252],},]'),
    ("qwen2_5_vl", "[100, 50, 504, 252]"),
    ("qwen2_5_vl", "[[100, 50, 504, 252]]"),
    ("qwen2_5_vl", "[100, 50, 504, 252,]"),
    ("qwen2_5_vl", 'Here is 1 dam:\n```json\n[\n\t{"bbox_2d": [100, 50, 504, 252], "label": "a, ]"},\n]\n```'),
    ("qwen2_5_vl", '```json\n{"bbox_2d": [100, 50, 504, 252], "label": "dam", "point_2d": [3, 4]}\n```'),
    ("rscovlm", '```json\n[\n\t{"bbox_2d": [100, 50, 504, 252], "label": "dam"}\n]\n```'),
    ("rscovlm_obb", '[{"oriented bbox": [302, 151, 404, 202, 0], "label": "dam"}]'),
    ("rscovlm_quad", '[{"quadrant bbox": [100, 50, 504, 50, 504, 252, 100, 252], "label": "dam"}]'),
]


@pytest.mark.parametrize(("notation", "text"), FORMS)
def test_forms_in_pixels_of_the_resized_image(notation, text):
    assert boxes_of(text, notation) == [pytest.approx(BOX)]
    assert reward(text, ONE, notation) == pytest.approx(1.0)


PER_MILLE = [201.6, 100.8, 1008, 504]  # 100,100,500,500


@pytest.mark.parametrize(
    ("notation", "text", "labels"),
    [
        (
            "qwen2_vl",
            "<|object_ref_start|>the dam<|object_ref_end|><|box_start|>(100,100),(500,500)<|box_end|>",
            ["the dam"],
        ),
        (
            "qwen2_vl",
            "<|object_ref_start|>a<|object_ref_end|>(100,100),(500,500), <|object_ref_start|>b<|object_ref_end|> "
            "<|box_start|>(100,100),(500,500)<|box_end|>",
            ["a", "b"],
        ),
        ("qwen2_vl", "the dam(100,100),(500,500)", ["the dam"]),  # decoded without special tokens
        (
            "qwen2_vl",
            "2 dams(100,100),(500,500)(100,100),(500,500)\nship(100,100),(500,500)",
            ["2 dams"] * 2 + ["ship"],
        ),
        ("internvl", "the dam[[100, 100, 500, 500]]", ["the dam"]),  # likewise
        ("internvl", "dams[[100, 100, 500, 500], [100,100,500,500]]\nship[[100,100,500,500]]", ["dams"] * 2 + ["ship"]),
        ("vhm", "(100,100),(500,500)", [None]),
        ("vhm", "<|box_start|>(100,100),(500,500)<|box_end|>", [None]),
        ("geochat", "<p>the dam</p> {<10><10><50><50>|<0>}", ["the dam"]),
        ("geochat", "<p>dams</p>{<10><10><50><50>|<0>}<delim>{<10><10><50><50>|<0>}", ["dams", "dams"]),
    ],
)
def test_forms_in_parts_of_the_image(notation, text, labels):
    assert boxes_of(text, notation) == [pytest.approx(PER_MILLE)] * len(labels)
    assert [item.label for item in read_said(text, notation, SIZE).objects] == labels


# --- hedges: none of these may be read, or the best of several answers would count

HEDGES = {
    "internvl": [
        "The dam is at [[100, 100, 500, 500]]", "dam[[100, 100, 500, 500]] or so", "a[5,6]dam[[100, 100, 500, 500]]",
        "<ref>dam</ref>[[100, 100, 500, 500]]", "<ref>dam[[100, 100, 500, 500]]", "5 6 7 8 dam[[100, 100, 500, 500]]",
        "[[100, 100, 500, 500]]dam[[5, 6, 7, 8]]", "dam[[100, 100, 500, 500]",
    ],
    "qwen2_5_vl": [
        '[5, 6, 7, 8] or\n```json\n{"bbox_2d": [100, 50, 504, 252]}\n```',
        'Maybe (5, 6), (7, 8):\n```json\n{"bbox_2d": [100, 50, 504, 252]}\n```',
        'x1=5 y1=6 x2=7 y2=8\n```json\n{"bbox_2d": [100, 50, 504, 252]}\n```',
        '```json\n{"bbox_2d": [5,6,7,8]}\n```\n```json\n{"bbox_2d": [100, 50, 504, 252]}\n```',
        '```json\n{"bbox_2d": [100, 50, 504, 252]}\n``` or so',
        '{"bbox_2d": [100, 50, 504, 252], "bbox": [5, 6, 7, 8]}',
        '{"bbox_2d": [100, 50, 504, 252], "bbox_2d": [5, 6, 7, 8]}',
        '{"bbox_2d": [100, 50, 504, 252], "other": [5, 6, 7, 8]}',
        '{"bbox_2d": [100, 50, 504, 252], "other": {"bbox_2d": [5, 6, 7, 8]}}',
        '{"bbox_2d": [100, 50, 504, 252], "note": "or [5, 6, 7, 8]"}',
        '{"bbox_2d": [100, 50, 504, 252], "label": [5, 6, 7, 8]}',
        '{"bbox_2d": [[100, 50, 504, 252], [5, 6, 7, 8]]}',
        "[100, 50, 504, 252, 5, 6, 7, 8]", "[100, 50, 504, 252] [5, 6, 7, 8]", "the dam [100, 50, 504, 252]",
        'the dam {"bbox_2d": [100, 50, 504, 252]}',  # prose stands before a fence or not at all
        "(100,50),(504,252)", "100,50,504,252",
    ],
    "rscovlm": ['{"bbox": [100, 50, 504, 252]}', "It is 100,50,504,252", '{"oriented bbox": [302, 151, 404, 202, 0]}'],
    "qwen2_vl": [
        "<|object_ref_start|>(5,6),(7,8)<|object_ref_end|>(100,100),(500,500)",
        "<|object_ref_start|>a<|object_ref_end|>b<|object_ref_end|>(100,100),(500,500)",
        "<|object_ref_start|>a(100,100),(500,500)", "<|object_ref_start|><|object_ref_end|>(100,100),(500,500)",
        "(5,6),(7,8)<|object_ref_start|>a<|object_ref_end|>(100,100),(500,500)",
        "<|object_ref_start|>a<|object_ref_end|>", "[[100,100,500,500]]", "The dam is (100,100),(500,500)",
        "dam(100,100),(500,500) or so", "(1,2),(3,4)dam(100,100),(500,500)", "a (3,4)b(100,100),(500,500)",
        "1, 2, 3, 4 dam(100,100),(500,500)", "a[1]b(100,100),(500,500)", "dam(100,100),(500,500)ship",
    ],
    "vhm": ["[[5,6,7,8]] (100,100),(500,500)", "dam (100,100),(500,500)"],
    "geochat": ["<p>{<1><2><3><4>|<0>}</p>{<10><10><50><50>|<0>}", "<p>a</p>{<10><10><50><50>|<0>} or so"],
}  # fmt: skip


@pytest.mark.parametrize("notation", HEDGES)
def test_hedges_state_nothing(notation):
    for text in HEDGES[notation]:
        assert read_said(text, notation, SIZE, RESIZED) is None, text
        assert reward(text, ONE, notation) == 0.0


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("copies", [1, 3, 20])
def test_more_boxes_never_earn_more_than_the_best_one(notation, copies):
    """Boxes from a grid, and boxes that are missed on purpose, beside the right one: each costs its share."""
    grid = [[100.0 * n, 0.0, 100.0 * n + 80, 80.0] for n in range(copies - 1)]
    alone = reward(write_boxes([BOX], notation, SIZE, RESIZED), ONE, notation)
    text = write_boxes([*grid, BOX], notation, SIZE, RESIZED)
    assert reward(text, ONE, notation) == pytest.approx(alone / copies)
    assert metrics(text, ONE, notation)[0] == (pytest.approx(alone) if copies == 1 else 0.0)


# --- properties


@st.composite
def whole_boxes(draw):
    x1, y1 = draw(st.integers(0, 500)), draw(st.integers(0, 200))
    return [x1, y1, x1 + draw(st.integers(1, 500)), y1 + draw(st.integers(1, 300))]


@settings(max_examples=200)
@given(st.lists(whole_boxes(), min_size=1, max_size=4), st.sampled_from(sorted(NOTATIONS)))
def test_answers_read_what_data_reads(boxes, notation):
    """Whatever the strict reading takes, the tolerant one takes the same way."""
    shapes = [[2 * x for x in box] for box in boxes]
    text = write_boxes(shapes, notation, SIZE, RESIZED)
    assert read_said(text, notation, SIZE, RESIZED).quads == read_quads(text, notation, SIZE, RESIZED)


LABEL = st.text(alphabet="abc ,.[]{}\"'\\é", max_size=8)


@settings(max_examples=200)
@given(st.lists(st.tuples(whole_boxes(), LABEL), min_size=1, max_size=4), st.sampled_from(["bbox_2d", "bbox"]))
def test_json_by_the_json_library(items, key):
    """Objects written by `json`, with commas put in before closing brackets, come back as they were."""
    rows = [{key: box, "label": label, "score": 0.5} for box, label in items]
    plain = json.dumps(rows, indent=1)
    lines = plain.split("\n")
    commas = "\n".join(
        line + "," if line.strip() in ("}", "]") and number < len(lines) - 1 else line
        for number, line in enumerate(lines)
    )
    for text in (plain, commas, f"Two of them:\n```json\n{plain}\n```"):
        found = read_said(text, "qwen2_5_vl", RESIZED, RESIZED)
        assert [item.label for item in found.objects] == [label for _, label in items]
        assert found.boxes == [box for box, _ in items]


@settings(max_examples=400)
@given(
    st.one_of(
        st.text(),
        st.text(alphabet="()[]{},; 0123456789.-<|>box_startendrfl\n\"'`json2:p/"),
        st.builds(lambda a, b, c: f"{a}```json\n{b}\n```{c}", st.text(), st.text(alphabet='[]{},:"12b '), st.text()),
    ),
    st.sampled_from(sorted(NOTATIONS)),
)
def test_anything_is_read_or_refused_and_rewards_stay_bounded(text, notation):
    found = read_said(text, notation, SIZE, RESIZED)
    strict = read_quads(text, notation, SIZE, RESIZED)
    if strict is not None:
        assert found is not None and len(found) == len(strict) and not found.missed
    for x1, y1, x2, y2 in found.boxes if found else []:
        assert 0 <= x1 <= x2 <= SIZE[0] + 1e-9 and 0 <= y1 <= y2 <= SIZE[1] + 1e-9
    assert 0 <= reward(text, ONE, notation) <= 1
    if found is None:
        assert reward(text, ONE, notation) == 0


@pytest.mark.parametrize("notation", NOTATIONS)
def test_long_junk_is_quick(notation):
    """Any quadratic step would need minutes for these."""
    for junk in (
        "[" * 200_000, '"' * 200_001, '\\"' * 100_000, '["' + '\\"' * 100_000 + "\\", "[," * 100_000, "," * 200_000,
        "[" + "1," * 100_000 + "]", "```" * 70_000, "<|object_ref_start|>" * 20_000, "<p>a</p>" * 30_000,
        "a" * 100_000 + "```json\n[1,2,3,4]x```", '{"a":' * 50_000, " \t" * 100_000 + "]",
    ):  # fmt: skip
        assert read_said(junk, notation, SIZE, RESIZED) is None


def test_the_box_around_a_turned_answer_is_shapelys():
    quad = quad_from_obb(300, 200, 200, 60, 25)
    said = read_said(write_quads([quad], "rscovlm_quad", SIZE, RESIZED), "rscovlm_quad", SIZE, RESIZED)
    polygon = shapely.Polygon(list(zip(said.quads[0][::2], said.quads[0][1::2], strict=True)))
    assert said.boxes[0] == pytest.approx(polygon.bounds) and hull(said.quads[0]) == pytest.approx(polygon.bounds)
