"""Notations: what each family writes, reads and refuses. Round trips: tests/vlm/test_notation_trips.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.boxes import NOTATIONS, check_notation, quad_from_obb, read_boxes, read_objects, read_quads, write_boxes
from vlm.boxes.notations import write_quads
from vlm.common.errors import DataError, RecipeError

SIZE, RESIZED = (800, 400), (1120, 560)  # the model sees every pixel of the original 1.4 times
BOXES = [[80, 100, 400, 400], [0, 0, 8, 4]]


@pytest.mark.parametrize(
    ("notation", "text"),
    [
        ("qwen2_vl", "<|box_start|>(100,250),(500,1000)<|box_end|><|box_start|>(0,0),(10,10)<|box_end|>"),
        ("vhm", "[[100,250,500,1000],[000,000,010,010]]"),
        ("qwen2_5_vl", '```json\n[\n\t{"bbox_2d": [112, 140, 560, 560]},\n\t{"bbox_2d": [0, 0, 11, 6]}\n]\n```'),
        ("geochat", "{<10><25><50><100>|<0>}{<0><0><1><1>|<0>}"),
        ("internvl", "<box>[[100, 250, 500, 1000], [0, 0, 10, 10]]</box>"),
        ("lhrs", "<bbox>[0.100, 0.250, 0.500, 1.000]</bbox><bbox>[0.000, 0.000, 0.010, 0.010]</bbox>"),
        ("llava", "[0.10, 0.38, 0.50, 0.75], [0.00, 0.25, 0.01, 0.26]"),  # 200 rows of padding above
        ("glm4v", "<|begin_of_box|>[[100,250,500,1000],[0,0,10,10]]<|end_of_box|>"),
        ("qwen3_vl", '```json\n[\n\t{"bbox_2d": [100, 250, 500, 1000]},\n\t{"bbox_2d": [0, 0, 10, 10]}\n]\n```'),
        ("rscovlm", "112,140,560,560\n0,0,11,6"),
        ("rscovlm_obb", "336,350,448,420,0\n6,3,11,6,0"),
        ("rscovlm_quad", "112,140,560,140,560,560,112,560\n0,0,11,0,11,6,0,6"),
    ],
)
def test_written_forms(notation, text):
    assert write_boxes(BOXES, notation, SIZE, RESIZED) == text
    assert set(NOTATIONS) >= {notation} and len(NOTATIONS) == 14


def test_oriented_boxes_are_turned_in_pixels():
    """GeoChat's percent are uneven on a wide image: turning there would shear the box."""
    quad = quad_from_obb(400, 200, 192, 40, 30)
    text = write_quads([quad], "geochat", SIZE)
    assert text == "{<38><45><62><55>|<30>}"  # 304 to 496 of 800, 180 to 220 of 400
    (read,) = read_quads(text, "geochat", SIZE)
    assert read == pytest.approx(quad)
    # Clockwise as seen: the right end of the box lies lower, so further down y, than its left end.
    assert read[3] > read[1]
    # RSCoVLM turns in pixels of the resized image, the longer side first.
    assert write_quads([quad], "rscovlm_obb", SIZE, RESIZED) == "560,280,269,56,30"
    assert write_quads([quad_from_obb(400, 200, 40, 192, 30)], "rscovlm_obb", SIZE, RESIZED) == "560,280,269,56,-60"
    # …and GeoChat keeps upright boxes upright.
    assert write_quads([quad_from_obb(400, 200, 48, 200, 10)], "geochat", SIZE) == "{<47><25><53><75>|<10>}"


def test_shapes_in_notations_of_another():
    quad = quad_from_obb(30, 200, 100, 40, 90)  # 10..50 × 150..250
    assert read_boxes(write_quads([quad], "vhm", SIZE), "vhm", SIZE) == [pytest.approx([9.6, 150, 49.6, 250])]
    assert read_quads("[100,250,500,1000]", "vhm", SIZE) == [[80, 100, 400, 100, 400, 400, 80, 400]]
    # What overhangs the image is cut in a box, and kept in a quadrilateral.
    over = quad_from_obb(10, 10, 60, 20, 45)
    (kept,) = read_quads(write_quads([over], "rscovlm_quad", SIZE, RESIZED), "rscovlm_quad", SIZE, RESIZED)
    assert min(kept) < -10
    (cut,) = read_boxes(write_quads([over], "rscovlm_quad", SIZE, RESIZED), "rscovlm_quad", SIZE, RESIZED)
    assert cut[:2] == [0, 0] and cut[2] == pytest.approx(10 + 40 / 2**0.5, abs=1)


@pytest.mark.parametrize(
    ("notation", "text"),
    [
        ("qwen2_5_vl", '```json\n[\n\t{"bbox_2d": [112, 140, 560, 560], "label": "the \\"dam\\", 2"}\n]\n```'),
        ("internvl", "<ref>the dam</ref><box>[[100, 250, 500, 1000]]</box>"),
        ("rscovlm", "112,140,560,560 the dam, left of 2 tanks"),
        ("rscovlm_obb", "336,350,448,420,0 Staudamm"),
        ("rscovlm_quad", "112,140,560,140,560,560,112,560 écluse"),
    ],
)
def test_labels(notation, text):
    (found,) = read_objects(text, notation, SIZE, RESIZED)
    assert (
        found.quad == pytest.approx([80, 100, 400, 100, 400, 400, 80, 400]) and "a" in found.label or "é" in found.label
    )
    assert write_boxes(BOXES[:1], notation, SIZE, RESIZED, [found.label]) == text
    bare = write_boxes(BOXES[:1], notation, SIZE, RESIZED)
    assert [item.label for item in read_objects(bare, notation, SIZE, RESIZED)] == [None]


def test_several_labels():
    text = write_boxes(BOXES, "internvl", SIZE, labels=["dam", None])
    assert text == "<ref>dam</ref><box>[[100, 250, 500, 1000]]</box><box>[[0, 0, 10, 10]]</box>"
    assert [item.label for item in read_objects(text, "internvl", SIZE)] == ["dam", None]
    text = write_boxes(BOXES, "rscovlm", SIZE, RESIZED, ["dam", "ship"])
    assert [item.label for item in read_objects(text, "rscovlm", SIZE, RESIZED)] == ["dam", "ship"]


@pytest.mark.parametrize(
    ("notation", "label"),
    [
        ("qwen2_vl", "the dam [1]"),
        ("geochat", ""),
        ("vhm", "dam"),
        ("lhrs", "dam"),
        ("rscovlm", "2 dams"),
        ("rscovlm", " "),
        ("internvl", "a</ref>b"),
        ("glm4v", "dam"),
        ("llava", "dam"),
    ],
)
def test_labels_without_a_place_are_refused(notation, label):
    with pytest.raises(DataError, match="label"):
        write_boxes(BOXES[:1], notation, SIZE, RESIZED, [label])


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
        ("internvl", "<box>[[100, 250, 500, 1000],[0,0,10,10]]</box>", TWO),
        ("internvl", "<ref>a</ref><box>[[100,250,500,1000]]</box>, <ref>b</ref> <box>[[0,0,10,10]]</box>", TWO),
        ("internvl", "[[100, 250, 500, 1000]]", ONE),  # decoded without special tokens
        ("lhrs", "<bbox>[.1,.25,.5,1]</bbox>", [[0.1, 0.25, 0.5, 1]]),
        ("lhrs", "[0.1, 0.25, 0.5, 1.0]", [[0.1, 0.25, 0.5, 1]]),
        ("llava", "[0.1, 0.375, 0.5, 0.75]", [[0.1, 0.375, 0.5, 0.75]]),
        ("glm4v", "<|begin_of_box|>[[100, 250, 500, 1000], [0,0,10,10]]<|end_of_box|>", TWO),
        ("glm4v", "<|begin_of_box|>[100,250,500,1000]<|end_of_box|>", ONE),
        ("glm4v", "[[100,250,500,1000]]", ONE),
        ("glm4v", "<|begin_of_box|>(100,250,500,1000)<|end_of_box|>", ONE),  # brackets vary
        ("glm4v", "<|begin_of_box|><100,250,500,1000><|end_of_box|>", ONE),
        ("glm4v", "{100,250,500,1000}", ONE),
        ("qwen3_vl", '[{"bbox_2d": [100, 250, 500, 1000], "label": "dam"}]', ONE),
        ("geochat", "{<10><25><50><100>|<-30>}", [[10, 25, 50, 100, -30]]),
        ("geochat", "{<10><25><50><100>}", [[10, 25, 50, 100, 0]]),  # VRSBench leaves the angle out
        ("geochat", "{<1><2><3><4>|<0>}<delim>{<5><6><7><8>|<9>}", [[1, 2, 3, 4, 0], [5, 6, 7, 8, 9]]),
        ("geochat", "{<-5><20><40><30>|<80>}", [[-5, 20, 40, 30, 80]]),  # its centre is inside
        ("qwen2_5_vl", '[{"bbox_2d": [100, 250, 500, 560]}]', [[100, 250, 500, 560]]),
        ("qwen2_5_vl", '{"bbox_2d": [100, 250.5, 500, 560], "label": "dam"}', [[100, 250.5, 500, 560]]),
        (
            "qwen2_5_vl",
            '```json\n[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7, 8]}]\n```',
            [[1, 2, 3, 4], [5, 6, 7, 8]],
        ),
        ("rscovlm", " 1, 2,3 ,4 dam \r\n\n5,6,7,8", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("rscovlm_obb", "100,200,50,20,-90 ship\n", [[100, 200, 50, 20, -90]]),
        ("rscovlm_quad", "-5,0,10,0,10,10,0,10", [[-5, 0, 10, 0, 10, 10, 0, 10]]),
    ],
)
def test_parsing(notation, text, expected):
    assert NOTATIONS[notation].parse(text, RESIZED) == expected


REFUSED = {
    "qwen2_vl": [
        "", " \n",
        "(500,250),(100,1000)",  # inverted in x
        "(100,1000),(500,250)",  # inverted in y
        "(100,250),(500,1001)",  # outside the frame
        "(-1,250),(500,1000)", "(100,250),(500,1000) or so", "The box is (100,250),(500,1000)",
        "(100,250),(500,1000),", "(100,250),(500,1000),(3,4)", "(100,250)",
        "<|box_start|>(100,250),(500,1000)",  # only half of the pair of tokens
        "(1 00,250),(500,1000)", "(1e2,250),(500,1000)", "(nan,250),(500,inf)",
        "(١٠٠,250),(500,1000)",  # digits, but not ASCII
        f"({'9' * 400},0),(10,10)",
        "[[100,250,500,1000]]",  # another family's notation: frames are declared, never guessed
    ],
    "vhm": [
        "(100,250),(500,1000)", "[[100,250,500,1000]", "[100,250,500,1000]]", "[[100,250,500]]", "[[]]",
        "[[500,250,100,1000]]", "[[-1,2,3,4]]",
    ],
    "internvl": [
        "<box>[[1,2,3,4]]", "[[1,2,3,4]]</box>", "<box></box>", "<ref>a</ref>", "<ref></ref><box>[[1,2,3,4]]</box>",
        "<ref>a</ref>[[1,2,3,4]]", "<box>[[1,2,3,4]]</box> or so", "<box>[[1,2,3,4]]</box> x <box>[[1,2,3,4]]</box>",
        "<ref>a</ref><ref>b</ref><box>[[1,2,3,4]]</box>", "a <ref>b</ref><box>[[1,2,3,4]]</box>",
    ],
    "lhrs": [
        "<bbox>[0.1,0.2,0.3,1.1]</bbox>", "<bbox>[10,20,30,40]</bbox>", "<bbox>[.1,.2,.3]</bbox>",
        "<bbox>[.,.,.,.]</bbox>", "<bbox>[.1,.2,.3,.4]",
    ],
    "llava": [
        "[0.1, 0.4, 0.5, 1.1]", "[10, 40, 50, 75]", "[0.5, 0.4, 0.1, 0.75]", "<bbox>[0.1, 0.4, 0.5, 0.75]</bbox>",
    ],
    "glm4v": [
        "<|begin_of_box|>[[1,2,3,4]]", "[[1,2,3,4]]<|end_of_box|>", "<|begin_of_box|><|end_of_box|>",
        "<|begin_of_box|>[[1,2,3,1001]]<|end_of_box|>", "<|begin_of_box|>(1,2,3,4]<|end_of_box|>",
        "dam<|begin_of_box|>[[1,2,3,4]]<|end_of_box|>", "(1,2),(3,4)",
    ],
    "qwen3_vl": ['{"bbox_2d": [1,2,3,1001]}', '{"bbox": [1,2,3,4]}', "[[1,2,3,4]]"],
    "geochat": [
        "{<10><20><40><50>|<181>}", "{<10><20><40>|<30>}", "<10><20><40><50>|<30>", "{<40><20><10><50>|<30>}",
        "{<-50><20><40><30>|<0>}",  # its centre is outside
        "<p></p>{<10><20><40><50>|<30>}", "a ship</p>{<10><20><40><50>|<30>}", "{<10><20><40><50>|30}",
    ],
    "qwen2_5_vl": [
        "[]", "{}", "[[1,2,3,4]]", '{"bbox": [1,2,3,4]}', '{"bbox_2d": [1,2,3]}', '{"bbox_2d": [1,2,3,"4"]}',
        '{"bbox_2d": [1,2,3,true]}', '{"bbox_2d": [1,2,NaN,4]}', '{"bbox_2d": [1,2,1e999,4]}',
        '{"bbox_2d": [1,2,3,4], "bbox_2d": [5,6,7,8]}',  # which of the two?
        '{"bbox_2d": [1,2,3,4], "score": 1}', '{"bbox_2d": [1,2,3,4], "label": 7}',
        '{"bbox_2d": [1,2,3,4]} {"bbox_2d": [5,6,7,8]}', '{"bbox_2d": [1,2,3,4]} or so',
        '{"bbox_2d": [0,0,1121,560]}',  # wider than the resized image
        '```json\n{"bbox_2d": [1,2,3,4]}', '``````', f'{{"bbox_2d": [{"9" * 5000},2,3,4]}}', "[" * 100_000,
    ],
    "rscovlm": [
        "1,2,3", "1,2,3,4,5", "1,2,3,4\nnothing else", "1,2,3,4 5,6,7,8", "1,2,3,4ship", "1,2,-3,4", "There are none.",
        "0,0,1121,560 dam",
    ],
    "rscovlm_obb": ["1,2,3,4", "1,2,3,4,200", "1,2,-3,4,5", "2000,2,3,4,5", "1,2,3,4,5,6"],
    "rscovlm_quad": ["1,2,3,4,5,6,7", "1,2,3,4,5,6,7,8,9", "-2000,2,3,4,5,6,7,8", "1,2,3,4"],
}  # fmt: skip


@pytest.mark.parametrize("notation", REFUSED)
def test_parsing_refuses(notation):
    for text in REFUSED[notation]:
        assert NOTATIONS[notation].parse(text, RESIZED) is None, text
        assert read_boxes(text, notation, SIZE, RESIZED) is None, text
        assert read_quads(text, notation, SIZE, RESIZED) is None, text


@settings(max_examples=400)
@given(st.one_of(st.text(), st.text(alphabet="()[]{},; 0123456789.-<|>box_startendrfl\n\"'`json2:")))
def test_parsing_never_raises_and_gives_proper_shapes_only(text):
    for name, notation in NOTATIONS.items():
        found = notation.parse(text, RESIZED)
        assert found is None or found
        if notation.shape == "box":
            width, height = {"per_mille": (1000, 1000), "unit": (1, 1), "square": (1, 1), "resized": RESIZED}[
                notation.frame
            ]
            assert all(0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height for x1, y1, x2, y2 in found or [])
        for x1, y1, x2, y2 in read_boxes(text, name, SIZE, RESIZED) or []:
            assert 0 <= x1 <= x2 <= SIZE[0] + 1e-9 and 0 <= y1 <= y2 <= SIZE[1] + 1e-9


@pytest.mark.parametrize("notation", NOTATIONS)
def test_parsing_long_junk_is_quick(notation):
    """Unbounded repetitions over white space would need minutes for these."""
    one = write_boxes(BOXES[:1], notation, SIZE, RESIZED)
    for junk in (one + " " * 200_000 + ")", "[" * 200_000, "<ref>" * 50_000, "1," * 100_000, "1 " * 100_000):
        assert NOTATIONS[notation].parse(junk, RESIZED) is None
    many = write_boxes(BOXES * 2_500, notation, SIZE, RESIZED)
    assert len(NOTATIONS[notation].parse(many, RESIZED) or []) == 5_000


@pytest.mark.parametrize(
    "boxes", [[], [[10, 10, 5, 20]], [[0, 0, 900, 10]], [[-5, 0, 9, 9]], [[0, 0, float("nan"), 9]]]
)
def test_writing_refuses_what_would_not_read_back(boxes):
    for notation in ("qwen2_vl", "rscovlm"):
        with pytest.raises(DataError, match=f"notation {notation}"):
            write_boxes(boxes, notation, SIZE, RESIZED)


def test_a_box_in_the_padding_is_none():
    """800 × 400 pixels lie between 0.25 and 0.75 of the padded square; half a unit beyond is rounding, and is cut."""
    assert read_boxes("[0.1, 0.25, 0.5, 0.755]", "llava", SIZE) == [[80, 0, 400, 400]]
    assert read_boxes("[0.1, 0.3, 0.5, 0.76]", "llava", SIZE) is None
    assert read_boxes("[0.1, 0.3, 0.5, 0.7], [0.1, 0, 0.5, 0.2]", "llava", SIZE) is None
    with pytest.raises(DataError, match=r"expected it within the image's 800 × 400 pixels"):
        write_boxes([[0, -4, 80, 100]], "llava", SIZE)
    assert write_boxes([[0, 0, 80, 100]], "llava", (400, 800)) == "[0.25, 0.00, 0.35, 0.12]"


def test_quadrilaterals_far_outside_are_refused():
    with pytest.raises(DataError, match="at most one image beyond"):
        write_quads([[0, 0, 9, 0, 9, 9, -900, 9]], "rscovlm_quad", SIZE, RESIZED)
    with pytest.raises(DataError, match="four finite corners"):
        write_quads([[0, 0, 9, 0, 9, 9, float("inf"), 9]], "geochat", SIZE)


def test_unknown_notations_and_unknown_sizes():
    with pytest.raises(RecipeError, match="'qwen3'; known: qwen2_vl, qwen2_5_vl, qwen3_vl, vhm"):
        read_boxes("(1,2),(3,4)", "qwen3", (8, 8))
    with pytest.raises(DataError, match="rscovlm counts pixels of the resized image"):
        read_boxes("1,2,3,4", "rscovlm", SIZE)
    check_notation("rscovlm")
    with pytest.raises(RecipeError, match="'rscovlm' counts pixels .* choose one of qwen2_vl, qwen3_vl, vhm, geochat"):
        check_notation("rscovlm", seen=False)
