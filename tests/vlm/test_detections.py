"""Detection as text: round trips of every form, what is mended in an answer, how it is asked for."""

from __future__ import annotations

import random

import pytest

from vlm.boxes import (
    NOTATIONS,
    NOTHING,
    check_labels,
    corners,
    hull,
    obb_from_quad,
    ordered,
    quad_from_obb,
    quad_iou,
    read_detections,
    spoken,
    write_detections,
)
from vlm.boxes.asking import OPEN, SYNONYMS, asking, drawn
from vlm.common.errors import DataError, RecipeError

SIZE, RESIZED = (640, 480), (560, 420)
CLASSES = ["large vehicle", "plane", "ship", "storage tank"]
FORMS = [name for name, one in NOTATIONS.items() if one.labels]
QUADS = [corners([8, 16, 80, 48]), corners([160, 240, 320, 480]), corners([400, 0, 640, 80])]


def unit(notation):
    """Half of a unit of the notation, in pixels of the original image."""
    width, height = NOTATIONS[notation].limits(RESIZED)
    return max(SIZE[0] / width, SIZE[1] / height) / 2


def scene(rng):
    """Some objects inside the picture, none smaller than 12 pixels: turned, and their names."""
    quads = []
    for _ in range(rng.randrange(4)):
        width, height = rng.uniform(12, 160), rng.uniform(12, 120)
        reach = (width**2 + height**2) ** 0.5 / 2
        centre = rng.uniform(reach, SIZE[0] - reach), rng.uniform(reach, SIZE[1] - reach)
        quads.append(quad_from_obb(*centre, width, height, rng.uniform(-90, 90)))
    return quads, [rng.choice(CLASSES) for _ in quads]


@pytest.mark.parametrize("notation", FORMS)
def test_ten_thousand_scenes_come_back(notation):
    """Every object once, in the order of class, top and left; each corner within the rounding of its numbers."""
    rng, shape, half = random.Random(3), NOTATIONS[notation].shape, unit(notation)
    for _ in range(10_000):
        quads, labels = scene(rng)
        text = write_detections(quads, labels, notation, SIZE, RESIZED, CLASSES)
        found = read_detections(text, notation, SIZE, RESIZED, CLASSES)
        assert (found.missed, found.repairs, found.readable) == (0, {}, True), text
        assert (text == NOTHING) == (not quads)
        pairs = sorted(zip(labels, quads, strict=True), key=lambda one: (one[0], hull(one[1])[1], hull(one[1])[0]))
        assert [one.label for one in found.objects] == [label for label, _ in pairs]
        for one, (_, quad) in zip(found.objects, pairs, strict=True):
            if shape == "box":
                off = max(abs(a - b) for a, b in zip(hull(one.quad), hull(quad), strict=True))
                assert off <= half * 1.001
            elif shape == "quad":
                assert max(abs(a - b) for a, b in zip(one.quad, ordered(quad), strict=True)) <= half * 1.001
            else:  # rounded centre, sides and angle
                reach = max(obb_from_quad(quad)[2:4]) / 2
                far = max(min(abs(x - a) + abs(y - b) for a, b in zip(quad[::2], quad[1::2], strict=True))
                          for x, y in zip(one.quad[::2], one.quad[1::2], strict=True))  # fmt: skip
                assert far <= 4 * half + 2 * 0.0088 * reach


def test_the_published_forms_to_the_letter():
    """Classes by their rank, objects from above; rounded, not cut off, numbers of the resized picture (0.875)."""
    labels = ["ship", "plane", "plane"]
    written = {name: write_detections(QUADS, labels, name, SIZE, RESIZED) for name in FORMS}
    assert written["rscovlm"] == "350,0,560,70 plane\n140,210,280,420 plane\n7,14,70,42 ship\n"
    assert written["rscovlm_obb"].splitlines()[2] == "38,28,63,28,0 ship"
    assert written["rscovlm_quad"].splitlines()[2] == "7,14,70,14,70,42,7,42 ship"
    assert written["qwen2_5_vl"].startswith(
        '```json\n[\n\t{"bbox_2d": [350, 0, 560, 70], "label": "plane"},\n\t{"bbox_2d"'
    )
    assert '\t{"oriented bbox": [38, 28, 63, 28, 0], "label": "ship"}\n]\n```' in written["rscovlm_obb_json"]
    assert '{"quadrant bbox": [7, 14, 70, 14, 70, 42, 7, 42], "label": "ship"}' in written["rscovlm_quad_json"]
    assert written["qwen2_vl"].endswith(
        "<|object_ref_start|>ship<|object_ref_end|><|box_start|>(12,33),(125,100)<|box_end|>"
    )
    assert write_detections([], [], "rscovlm", SIZE, RESIZED) == "There are none."


def test_the_order_of_the_classes_is_that_of_the_question():
    text = write_detections(QUADS[:2], ["ship", "plane"], "rscovlm", SIZE, RESIZED, ["ship", "plane"])
    assert text == "7,14,70,42 ship\n140,210,280,420 plane\n"


def test_an_object_whose_centre_lies_outside_is_written_as_it_is_seen():
    """Oriented boxes have their centre inside; quadrilaterals overhang."""
    quad = corners([-60.0, 100, 40, 200])
    (found,) = read_detections(
        write_detections([quad], ["ship"], "rscovlm_obb", SIZE, RESIZED), "rscovlm_obb", SIZE, RESIZED
    ).objects
    assert quad_iou(found.quad, corners([0, 100, 40, 200])) > 0.95
    assert write_detections([quad], ["ship"], "rscovlm_quad", SIZE, RESIZED).startswith("-52,88,35,88")
    with pytest.raises(DataError, match="outside the image"):
        write_detections([corners([-60.0, 100, -10, 200])], ["ship"], "rscovlm_obb", SIZE, RESIZED)


@pytest.mark.parametrize("notation", [name for name, one in NOTATIONS.items() if not one.labels])
def test_a_notation_without_labels_is_refused(notation):
    with pytest.raises(RecipeError, match=f"{notation} has no place for what an object is called.*rscovlm_quad_json"):
        check_labels(notation)
    with pytest.raises(RecipeError):
        write_detections(QUADS[:1], ["ship"], notation, SIZE, RESIZED)


def test_a_label_that_was_not_asked_for_is_refused():
    with pytest.raises(DataError, match="label 'dam': expected one of"):
        write_detections(QUADS[:1], ["dam"], "rscovlm", SIZE, RESIZED, CLASSES)


JSON = '{"bbox_2d": [7, 14, 70, 42], "label": "ship"}'
ONE = "7,14,70,42 ship"


@pytest.mark.parametrize(
    "text", ["There are none.", "there are none", " None. ", "[]", "```json\n[\n]\n```", "```json\n[]\n```"]
)
@pytest.mark.parametrize("notation", FORMS)
def test_nothing_is_said(notation, text):
    found = read_detections(text, notation, SIZE, RESIZED, CLASSES)
    assert (len(found), found.readable, found.repairs) == (0, True, {})


@pytest.mark.parametrize(
    ("text", "missed"), [("", 0), ("  \n", 0), ("I see a ship.", 1), ("7,14 ship", 1), ("ship\nplane", 2)]
)
def test_what_states_nothing_is_not_readable(text, missed):
    for notation in ("rscovlm", "qwen2_5_vl"):
        found = read_detections(text, notation, SIZE, RESIZED, CLASSES)
        assert (found.objects, found.missed, found.readable) == ([], missed, False)


@pytest.mark.parametrize(
    ("notation", "text", "labels", "missed", "repairs"),
    [
        ("qwen2_5_vl", f"[{JSON}, {JSON}]", ["ship", "ship"], 0, {}),
        ("qwen2_5_vl", f"[{JSON.replace('[', '(').replace(']', ')')}]", ["ship"], 0, {"parentheses": 1}),
        ("qwen2_5_vl", f"[{JSON}\n{JSON},, {JSON}]", ["ship"] * 3, 0, {"commas": 1}),
        ("qwen2_5_vl", f"[{JSON.replace(', 42],', ', 42]')}]", ["ship"], 0, {"commas": 1}),
        ("qwen2_5_vl", "[" + JSON.replace('label', 'label": "label') + "]", ["ship"], 0, {"doubled_key": 1}),
        ("qwen2_5_vl", f'```json\n[\n\t{JSON},\n\t{{"bbox_2d": [1, 2', ["ship"], 1, {"pieces": 1}),
        ("qwen2_5_vl", f"Here: [{JSON}] [{JSON}] and so on", ["ship", "ship"], 2, {"pieces": 1}),
        ("rscovlm", f"{ONE}\n\n7,14,70,42 plane\n", ["ship", "plane"], 0, {}),
        ("rscovlm", f"Ships:\n{ONE}\n7,14,7", ["ship"], 2, {"pieces": 1}),
        ("rscovlm", f"{ONE}\n7,14,70,42,9,9 plane", ["ship", "plane"], 0, {"pieces": 1, "numbers": 1}),
        ("rscovlm", f"[{JSON}]", ["ship"], 0, {}),
        ("rscovlm", "70,14,7,42 ship", [], 1, {}),
        ("rscovlm_quad", "0,0,9,0,9,9,0,9,5,5 ship\n0,0,9,0,9,9 ship", ["ship"], 1, {"pieces": 1, "numbers": 1}),
        ("rscovlm", "7,14,70,42 Large-Vehicle", ["large vehicle"], 0, {"spelling": 1}),
        ("rscovlm", "7,14,70,42 oil tank\n7,14,70,42 aircraft", ["storage tank", "plane"], 0, {"synonym": 2}),
        ("rscovlm", "7,14,70,42 plan", ["plane"], 0, {"near": 1}),
        ("rscovlm", "7,14,70,42 ship 1,2,3,4 plane", [], 1, {}),  # another box would be the label
        ("rscovlm", "7,14,70,42 ship\r7,14,70,42 plane\u20287,14,70,42 ship", ["ship", "plane", "ship"], 0, {}),
        ("rscovlm", "7,14,70,42 zebra\n7,14,70,42", ["zebra", None], 0, {}),
        ("qwen2_vl", "ship(12,33),(125,100)plane(1,1),(9,9)", ["ship", "plane"], 0, {}),  # decoded without tokens
        ("qwen2_vl", "ship(12,33),(125,100)plane(1,1),(9", ["ship"], 1, {"pieces": 1}),
        ("internvl", "<ref>ship</ref><box>[[1, 2, 3, 4]]</box><ref>pla", ["ship"], 1, {"pieces": 1}),
    ],
)  # fmt: skip
def test_what_is_mended_is_counted(notation, text, labels, missed, repairs):
    found = read_detections(text, notation, SIZE, RESIZED, CLASSES)
    assert ([one.label for one in found.objects], found.missed, found.repairs) == (labels, missed, repairs)


def test_a_synonym_of_two_asked_classes_is_none():
    """ "car" is a small vehicle, and a vehicle."""
    text = "7,14,70,42 car"
    (one,) = read_detections(text, "rscovlm", SIZE, RESIZED, ["small vehicle", "vehicle"]).objects
    assert one.label == "car"
    assert read_detections(text, "rscovlm", SIZE, RESIZED, ["plane", "vehicle"]).objects[0].label == "vehicle"


def test_classes_in_words():
    assert [spoken(name) for name in ("Storage-Tank", "storage_tank", " ground  track-field")] == [
        "storage tank", "storage tank", "ground track field",
    ]  # fmt: skip
    assert all(spoken(name) == name and all(spoken(one) == one for one in others) for name, others in SYNONYMS.items())


def test_how_it_is_asked():
    """JSON: one main wording, six paraphrases, none of them two in one; lines: told of in the system prompt."""
    json = asking("qwen2_5_vl")
    assert json.main == (
        "Locate every item from the category list in the image and output the coordinates in JSON format. The category "
        "set includes {question}."
    )
    assert len(json.paraphrases) == 6 and all(text.count("{question}") == 1 for text in json.paraphrases)
    assert not any(text.endswith(" .") for text in json.paraphrases)
    assert (
        "'x1,y1,x2,y2 object'" in (asking("rscovlm").system or "") and asking("rscovlm").main == "find the {question}"
    )
    assert "oriented bbox coordinates" in asking("rscovlm_quad_json").main


def test_draws_are_of_the_row_and_in_the_share_that_is_asked_for():
    rows = [drawn("dota", str(number), "rscovlm_quad_json", 0.5, 0.25) for number in range(4000)]
    assert rows == [drawn("dota", str(number), "rscovlm_quad_json", 0.5, 0.25) for number in range(4000)]
    main = asking("rscovlm_quad_json").main
    assert 0.46 < sum(row.wording != main for row in rows) / 4000 < 0.54
    assert 0.22 < sum(row.open for row in rows) / 4000 < 0.28
    assert len({row.wording for row in rows}) > 12  # bbox or bounding box, oriented or rotated
    opened = next(row for row in rows if row.open and row.wording == main)
    assert OPEN in opened.question("plane, ship") and "plane" not in opened.question("plane, ship")
    names = {drawn("dota", str(number), "rscovlm", 0, 1).names(["plane"], ["plane", "ship"])[0] for number in range(50)}
    assert names == {"plane", *SYNONYMS["plane"]}
    own = drawn("dota", "1", "rscovlm", 1, 0, "Find: {question}")
    assert own.question("plane, ship") == "Find: plane, ship"


@pytest.mark.parametrize("notation", [name for name in FORMS if getattr(NOTATIONS[name], "bare", False)])
@pytest.mark.parametrize("name", ["vehicle (small)", "a (b) c", "d[x]", "2 of 3 by 4 by 5", "truck w/box", "a220"])
def test_a_class_that_decoding_would_lose_is_not_written(notation, name):
    """What stands around names is special tokens; an answer without them must be read, or it is a miss for ever."""
    try:
        text = write_detections(QUADS[:2], [name, "ship"], notation, SIZE, RESIZED)
    except DataError as error:
        assert "cannot be written" in str(error) and name not in ("truck w/box", "a220")
        return
    for mark in NOTATIONS[notation].marks:
        text = text.replace(mark, "")
    found = read_detections(text, notation, SIZE, RESIZED, [name, "ship"])
    assert sorted(one.label for one in found.objects) == sorted([name, "ship"]) and not found.repairs


def test_brackets_in_a_class_are_refused_where_names_may_stand_bare():
    for notation in ("internvl", "qwen2_vl"):
        with pytest.raises(DataError, match="expected words without brackets"):
            write_detections(QUADS[:1], ["a (b) c"], notation, SIZE, RESIZED)


@pytest.mark.parametrize("classes", [["airplane", "plane"], ["large vehicle", "truck"], ["small vehicle", "vehicle"]])
def test_synonyms_of_an_open_question_are_read_as_the_class_they_are_written_for(classes):
    """ "truck" is a word for a large vehicle, but not where trucks are asked for, too."""
    for number in range(60):
        asked = drawn("s", str(number), "rscovlm", opened=1.0)
        names = asked.names(classes, classes)
        assert asked.open and len(set(names)) == len(classes)
        quads = QUADS[: len(classes)]
        text = write_detections(quads, names, "rscovlm", SIZE, RESIZED, names)
        assert [one.label for one in read_detections(text, "rscovlm", SIZE, RESIZED, classes).objects] == classes
