"""refGeo's masks, CHOICE's segmentation, GeoPixelD: what rows become, and what of them is refused.

Pictures are 40 x 20 pixels; masks are compared with arrays that are written down here.
"""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import samples
from samples import Faults
from samples.readers.masked import geopixel
from samples.readers.masked.pictures import of_pixels
from tests.support.layouts import build
from vlm import masks
from vlm.common.errors import DataError

REFGEO = "refGeo-seg/metainfo_v2/rsvg_train_v2.jsonl"
CHOICE = "CHOICE/perception/cross_instance_discerment/referring_expression_segmentation"
SEGMENTATION = "CHOICE/referring_expression_segmentation.json"
PIXELS = "GeoPixelD/GeoPixelD.json"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("layouts") / "data")


@pytest.fixture
def root(built, tmp_path):
    """A copy that a test may spoil."""
    for name in ("refGeo-seg", "CHOICE", "GeoPixelD"):
        shutil.copytree(built / name, tmp_path / name)
    return tmp_path


def filled(*boxes):
    """(20, 40) of the pixels of boxes x1, y1, x2, y2, the last two excluded."""
    found = np.zeros((20, 40), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        found[y1:y2, x1:x2] = True
    return found


def shown(sample, root):
    return (sample.id, sample.task, sample.messages[0]["content"], sample.images[0].removeprefix(f"{root}/"))


# refGeo


def test_rows_of_refgeo_with_masks(built):
    faults = Faults()
    found = list(samples.read(built / REFGEO, "refgeo_seg", faults=faults))
    assert [shown(one, built) for one in found] == [
        ("0", "segmentation", "the dam", "refGeo-seg/images/rsvg/00001.v2.jpg"),
        ("8", "segmentation", "the tilted ship", "refGeo-seg/images/rsvg/00002.jpg"),
    ]
    for one, box in zip(found, [(4, 2, 12, 10), (18, 4, 30, 14)], strict=True):
        assert (masks.pixels_of(one.mask) == filled(box)).all() and one.mask["size"] == [20, 40]
        assert one.kind == "rsvg" and one.size == (40, 20) and one.boxes is None and one.answer is None
    assert dict(faults.left_out) == {"no_mask": 1} and not faults.notes[:-1]


def test_a_file_of_refgeo_with_masks_is_boxes_or_masks(built):
    with pytest.raises(DataError, match=r"fits several formats; name one of these:\n  refgeo: .*\n  refgeo_seg: "):
        samples.read(built / REFGEO)
    assert [one.task for one in samples.read(built / REFGEO, "refgeo")] == ["grounding"] * 3


def test_without_a_word_the_file_says_whether_there_is_a_mask(root):
    path = root / REFGEO
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["mask_exists"]
    path.write_text("\n".join(map(json.dumps, rows)))
    faults = Faults()
    assert [one.id for one in samples.read(path, "refgeo_seg", faults=faults)] == ["0", "8"]
    assert faults.left_out["no_mask"] == 1


def grey(values, size=(40, 20)):
    """A picture of background with a row of these grey values."""
    pixels = np.zeros(size[::-1], dtype=np.uint8)
    pixels[3, : len(values)] = values
    return Image.fromarray(pixels)


def test_grey_above_1_is_object_as_in_the_projects_loader(root):
    grey([1, 2, 90, 255]).save(root / "refGeo-seg/masks/rsvg/00001_0.png")
    faults = Faults()
    one, _ = samples.read(root / REFGEO, "refgeo_seg", faults=faults)
    assert (masks.pixels_of(one.mask) == filled((1, 3, 4, 4))).all()
    assert any("1 masks are pictures of more than two values: all above 1 count" in said for _, said in faults.notes)


def test_a_palette_counts_by_its_colours(root):
    drawn = Image.new("P", (40, 20))
    drawn.putpalette([0, 0, 0, 255, 255, 255])
    drawn.paste(1, (4, 2, 12, 10))
    drawn.save(root / "refGeo-seg/masks/rsvg/00001_0.png")
    one, _ = samples.read(root / REFGEO, "refgeo_seg")
    assert (masks.pixels_of(one.mask) == filled((4, 2, 12, 10))).all()


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (None, r"field 'mask': found 'masks/rsvg/00001_0.png', expected the mask that mask_exists: true promises"),
        (
            grey([255], (20, 40)),
            r"field 'mask': found .*00001_0.png of 20 x 40 pixels, expected the image's own 40 x 20",
        ),
        (grey([]), r"field 'mask': found .*00001_0.png, which is empty, expected the mask of something"),
        (
            grey([1, 1]),
            r"field 'mask': found .*with the values 0, 1, expected values above 1: its project's loader takes",
        ),
        (b"\x89PNG no picture", r"field 'mask': found .*expected a picture that can be read"),
    ],
    ids=["missing", "size", "empty", "ones", "broken"],
)
def test_a_mask_of_refgeo_that_cannot_be_right(root, mask, said):
    path = root / "refGeo-seg/masks/rsvg/00001_0.png"
    if mask is None:
        path.unlink()
    elif isinstance(mask, bytes):
        path.write_bytes(mask)
    else:
        mask.save(path)
    with pytest.raises(DataError, match=f"line 1, {said}"):
        list(samples.read(root / REFGEO, "refgeo_seg"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "../.."}, "field 'dataset': .*expected a name below"),
        ({"question_id": "../../1"}, "field 'question_id': found .*expected a number or name"),
        ({"question_id": None}, "field 'question_id': found None, expected a number or name"),
        ({"image_width": 41}, r"image_width, image_height': found \[41, 20\], expected the image's own \[40, 20\]"),
        ({"mask_exists": "yes"}, "field 'mask_exists': found 'yes', expected true or false"),
        ({"question": ""}, "field 'question': found none"),
    ],
)
def test_a_row_of_refgeo_that_cannot_be_right(root, change, said):
    path = root / REFGEO
    first = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps(first | change))
    with pytest.raises(DataError, match=said):
        list(samples.read(path, "refgeo_seg"))


# CHOICE


def test_segmentation_of_choice(built):
    (one,) = samples.read(built / SEGMENTATION)
    assert shown(one, built) == ("8c-1", "segmentation", "the airplane on the left", f"{CHOICE}/images/10.png")
    assert (masks.pixels_of(one.mask) == filled((4, 2, 12, 10))).all()
    assert one.kind == "referring_expression_segmentation"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("Give me the mask of all bridges in this image.", "all bridges"),
        ("Give me the mask of the bridge at the bottom of this image.", "the bridge at the bottom of this image"),
        ("Give me the mask of the soccer ball fields in the image", "the soccer ball fields"),
        ("Outline the dam.", "Outline the dam."),
        ("Give me the mask of .", "Give me the mask of ."),
    ],
)
def test_what_choice_asks_a_mask_of(root, asked, said):
    path = root / SEGMENTATION
    (row,) = json.loads(path.read_text())
    path.write_text(json.dumps([row | {"question": asked}]))
    assert [one.messages[0]["content"] for one in samples.read(path)] == [said]


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (None, "found .*10.png.*expected an image file that exists"),
        (grey([255], (20, 40)), "field 'mask_path': found .*of 20 x 40 pixels, expected the image's own 40 x 20"),
        (grey([]), "field 'mask_path': found .*which is empty"),
        (grey([7, 9]), "field 'mask_path': found .*with the values 0, 7, 9, expected 0 and one other value"),
    ],
    ids=["missing", "size", "empty", "several"],
)
def test_a_mask_of_choice_that_cannot_be_right(root, mask, said):
    path = root / CHOICE / "masks/10.png"
    path.unlink() if mask is None else mask.save(path)
    with pytest.raises(DataError, match=f"row 1, .*{said}"):
        list(samples.read(root / SEGMENTATION))


# GeoPixelD

SAID = (
    "A pier in calm water. The ship-1 at left is white. The ship-2, and ship-3 are red.",
    "calm water",
    'ship, in this description: "The ship at left is white."',
    'ship, in this description: "The ship, and ship are red."',
)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (PIXELS, {}),
        ("GeoPixelD/train/P1.json", {}),
        ("GeoPixelD/train", {}),
        ("GeoPixelD", {"format": "geopixel", "split": "train"}),
    ],
)
def test_descriptions_with_masks(built, path, more):
    found = list(samples.read(built / path, **more))
    assert [shown(one, built) for one in found] == [
        ("0", "caption", "Describe the image in detail.", "GeoPixelD/train/P1.png"),
        *((f"0/{n}", "segmentation", asked, "GeoPixelD/train/P1.png") for n, asked in enumerate(SAID[1:], 1)),
    ]
    assert found[0].answer == SAID[0]
    expected = [[(0, 10, 40, 20)], [(2, 2, 6, 5)], [(20, 2, 24, 5), (30, 2, 34, 5), (32, 4, 36, 7)]]
    for one, boxes in zip(found[1:], expected, strict=True):
        assert (masks.pixels_of(one.mask) == filled(*boxes)).all()


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("A <p> dam </p> [SEG] .", [("dam", (0,))]),
        # the same name twice in two sentences, or once with a number, says nothing alone
        (
            "A <p> dam </p> [SEG] . A <p> dam </p> [SEG] .",
            [('dam, in this description: "A dam."', (i,)) for i in (0, 1)],
        ),
        ("A <p> dam-2 </p> [SEG] .", [('dam, in this description: "A dam."', (0,))]),
        # in one sentence they are one
        ("A <p>dam</p>[SEG] and a <p>dam</p>[SEG].", [('dam, in this description: "A dam and a dam."', (0, 1))]),
        # a full stop within a phrase ends no sentence
        ("<p> St. Paul </p> [SEG] by a <p> lake </p> [SEG].", [("St. Paul", (0,)), ("lake", (1,))]),
        # what is marked and has no mask is not asked of
        ("A <p> lake </p> by a <p> dam-1 </p> [SEG].", [('dam, in this description: "A lake by a dam."', (0,))]),
        ("Nothing.", []),
    ],
)
def test_what_a_description_asks_masks_of(said, asked):
    assert [(one.question, one.masks) for one in geopixel.things(said)] == asked


@pytest.mark.parametrize(
    "said",
    [
        "<p> " * 9000,
        "<p> a </p> " * 9000,
        "<p>" + " " * 30000,
        "[SEG]" * 9000,
        "<p> a </p>" + " " * 30000,
        ". A" * 9000,
    ],
)
def test_a_description_that_is_made_to_take_forever(said):
    began = time.monotonic()
    geopixel.things(said)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"polygons": [[[[1, 1], [5, 1], [5, 5]]]]}, "field 'polygons': found 1 for 4 .SEG., expected one for each"),
        ({"polygons": [[], [[[1, 1]]], [[[1, 1]]], [[[1, 1]]]]}, "the mask of 'calm water', which is empty"),
        ({"polygons": [[[[1, "1"]]]] * 4}, "field 'polygons': found .*expected .*for each .SEG. its polygons"),
        ({"polygons": [[[[60, 60], [70, 60], [70, 70]]]] * 4}, "which is empty"),
        ({"polygons": "../P1.json"}, "field 'polygons': found .*expected a name below"),
        ({"polygons": "data/GeoPixelD/train/none.json"}, "field 'polygons': found .*none.json.*a file below"),
        ({"image": "data/GeoPixelD/train/none.png"}, "field 'image': found .*none.png"),
        ({"conversations": [{"from": "bot", "value": "[SEG] <p> a </p>"}]}, "1 .SEG. behind 0 <p> … </p>"),
    ],
)
def test_a_description_that_cannot_be_right(root, change, said):
    path = root / PIXELS
    (row,) = json.loads(path.read_text())
    path.write_text(json.dumps([row | change]))
    with pytest.raises(DataError, match=f"row 1, .*{said}"):
        list(samples.read(path, "geopixel"))


def test_a_folder_of_descriptions_with_a_file_of_something_else(root):
    (root / "GeoPixelD/train/P2.json").write_text('{"polygons": []}')
    with pytest.raises(DataError, match="P2.json: found no 'gcg_description'"):
        list(samples.read(root / "GeoPixelD/train", "geopixel"))


def test_the_same_rows_in_another_format_are_left_out_by_name(root):
    shutil.copytree(root / "GeoPixelD/train", root / "GeoPixelD/data/GeoPixelD/train")
    with pytest.raises(DataError, match=r"its answer has masks .*format: geopixel"):
        list(samples.read(root / PIXELS, "sharegpt"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_the_outline_of_a_mask_is_that_mask_again(seed, count):
    """As OpenCV's findContours gives an outline: every border pixel of a region, one step after the other."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((20, 40), dtype=bool)
    for _ in range(count):  # boxes that overlap: one region without holes
        x1, y1 = rng.integers(0, 20), rng.integers(0, 10)
        mask[y1 : rng.integers(10, 20) + 1, x1 : rng.integers(20, 40)] = True
    assert (masks.pixels_of(of_pixels([outline(mask)], (40, 20))) == mask).all()


def outline(mask):
    """Moore's tracing of the border from its first pixel, clockwise."""
    around = [(-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1)]  # x, y, y down
    inside = {(int(x), int(y)) for y, x in np.argwhere(mask)}
    start = min(inside, key=lambda point: (point[1], point[0]))
    found, at, back = [start], start, 0
    while True:
        for step in range(1, 9):
            turn = (back + step) % 8
            after = (at[0] + around[turn][0], at[1] + around[turn][1])
            if after in inside:
                break
        else:
            return found
        if after == start and len(found) > 1:
            return found
        found.append(after)
        at, back = after, (turn + 4) % 8
    return found
