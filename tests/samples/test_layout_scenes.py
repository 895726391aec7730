"""Million-AID's levels, EuroSAT's splits and bands, GeoChat-Bench's grounded descriptions."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image

import samples
from samples import Faults
from samples.readers.geochat import described
from samples.readers.rows import RowFault
from tests.support.layouts import SENTINEL, build
from vlm.common.errors import DataError
from vlm.pictures import images
from vlm.sections import RasterSection

SHOWN = "Which class of scene does the image show: "
TEN = (
    "annual crop, forest, herbaceous vegetation, highway, industrial, pasture, permanent crop, residential, river, "
    "sea lake?"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("layouts") / "data")


@pytest.fixture
def root(built, tmp_path):
    for name in ("EuroSAT", "EuroSAT-MS", "Million-AID"):
        shutil.copytree(built / name, tmp_path / name)
    return tmp_path


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20)).save(path)


def answers(*args, **more):
    return [(one.id, one.answer, one.kind) for one in samples.read(*args, **more)]


# Million-AID


@pytest.mark.parametrize(("path", "more"), [("", {}), ("", {"split": "train"}), ("train", {})])
def test_the_last_folder_is_the_class_at_any_depth(built, path, more):
    found = list(samples.read(built / "Million-AID" / path, **more))
    assert [(one.id, one.answer, one.kind) for one in found] == [
        ("beach/P1", "beach", "water area"),
        ("dry field/P2", "dry field", "agriculture land"),
        ("meadow/P1", "meadow", "agriculture land"),
    ]
    assert {one.messages[0]["content"] for one in found} == {f"{SHOWN}beach, dry field, meadow?"}
    assert {one.task for one in found} == {"classification"}


def test_pictures_of_million_aid_that_have_no_label(root):
    with pytest.raises(DataError, match="found the split 'test', .*published without labels"):
        list(samples.read(root / "Million-AID", split="test"))
    with pytest.raises(DataError, match="found the split 'val', expected train"):
        list(samples.read(root / "Million-AID", split="val"))


def test_folders_of_million_aid_that_cannot_be_right(root):
    top = root / "Million-AID/train"
    draw(top / "agriculture_land/arable_land/P9.jpg")
    with pytest.raises(DataError, match="arable_land: found pictures .P9.jpg. beside folders .dry_field."):
        list(samples.read(root / "Million-AID"))
    (top / "agriculture_land/arable_land/P9.jpg").unlink()
    draw(top / "commercial_land/beach/P3.jpg")
    with pytest.raises(DataError, match="found 'beach' for several folders .commercial_land/beach, water_area/beach."):
        list(samples.read(root / "Million-AID"))
    shutil.rmtree(top / "commercial_land/beach")
    with pytest.raises(DataError, match="commercial_land: found no folder of a class in it"):
        list(samples.read(root / "Million-AID"))
    (top / "commercial_land").rmdir()
    (top / "water_area/beach/Thumbs.db").write_bytes(b"")
    faults = Faults()
    assert len(list(samples.read(root / "Million-AID", faults=faults))) == 3 and faults.left_out == {"no_image": 1}


def test_folders_of_other_scenes_are_no_million_aid(tmp_path):
    for name in ("water_area", "forest"):
        draw(tmp_path / name / "lake" / "1.jpg")
    with pytest.raises(DataError, match="expected the folders of Million-AID's level 1"):
        list(samples.read(tmp_path, "million_aid"))


# EuroSAT


@pytest.mark.parametrize("name", ["EuroSAT", "EuroSAT-MS"])
def test_the_splits_of_eurosat(built, name):
    raster = RasterSection.model_validate({"bands": [4, 3, 2], "stretch": {"range": [0, 3000]}})
    more = {"raster": raster} if name.endswith("MS") else {}
    expected = [("SeaLake_2", "sea lake", None), ("Forest_1", "forest", None)]
    assert answers(built / name, split="test", **more) == expected, "in the order of the file"
    assert answers(built / name, split="train", **more) == [("Forest_3", "forest", None)]
    assert [one[0] for one in answers(built / name, **more)] == ["Forest_1", "Forest_3", "SeaLake_2"]
    one, _ = samples.read(built / name, split="test", **more)
    assert one.messages[0]["content"] == SHOWN + TEN and one.task == "classification" and one.size == (40, 20)


def test_bands_of_eurosat_are_asked_for_and_shown_as_stated(built):
    with pytest.raises(DataError, match="bands"):
        one, _ = samples.read(built / "EuroSAT-MS", split="test")
        images.load(one.images[0])
    raster = RasterSection.model_validate({"bands": [4, 3, 2], "stretch": {"range": [0, 3000]}})
    one, _ = samples.read(built / "EuroSAT-MS", split="test", raster=raster)
    # 1,500 of 0 to 3,000, times 255
    assert (np.asarray(images.load(one.images[0])) == 128).all()


@pytest.mark.parametrize("below", ["EuroSAT_RGB", "", "2750"])
def test_where_the_classes_lie(root, below):
    folder = root / "other"
    shutil.copytree(root / "EuroSAT/2750", folder / below)
    shutil.copy(root / "EuroSAT/eurosat-test.txt", folder)
    assert [one[0] for one in answers(folder, split="test")] == ["SeaLake_2", "Forest_1"]


def test_without_lists_the_classes_are_scenes(root):
    assert answers(root / "EuroSAT/2750")[0] == ("Forest_1", "forest", None)
    assert samples.readers.formats.detect(samples.readers.look.Look(root / "EuroSAT/2750")).name == "scenes"


def test_splits_of_eurosat_that_cannot_be_right(root):
    folder = root / "EuroSAT"
    with pytest.raises(DataError, match="eurosat-val.txt: cannot be read .*splits that are there: train, test"):
        list(samples.read(folder, split="val"))
    (folder / "eurosat-val.txt").write_text("Forest_1.jpg\n\nForest_99.jpg\n")
    with pytest.raises(DataError, match="eurosat-val.txt, line 3, .*found .*Forest_99.jpg"):
        list(samples.read(folder, split="val"))
    for line in ("Desert_1.jpg", "Forest_1.png", "../../etc/Forest_1.jpg", "Forest_1", "Forest_/../../x.jpg"):
        (folder / "eurosat-val.txt").write_text(line)
        with pytest.raises(DataError, match="eurosat-val.txt, line 1: found .*, expected the name of a picture"):
            list(samples.read(folder, split="val"))
    shutil.copytree(folder / "2750", folder / "EuroSAT_RGB")
    with pytest.raises(
        DataError, match="folders of EuroSAT's classes: EuroSAT_RGB, 2750; expected one kind of picture"
    ):
        list(samples.read(folder, split="test"))


def test_bands_in_the_folders_of_torchgeo(built):
    assert (built / SENTINEL / "Forest/Forest_1.tif").is_file()


# GeoChat-Bench's descriptions


def test_a_grounded_description_is_a_caption_without_its_boxes(built):
    (one,) = samples.read(built / "GeoChat-Bench/grounding_description.jsonl")
    assert (one.task, one.answer) == ("caption", "Two ships lie at a pier.")
    assert one.messages[0]["content"] == "Describe the image." and one.id == "#1"
    assert one.images == [str(built / "GeoChat-Bench/images/P0001.png")]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("A <p>ship</p> {<1><2><3><4>} .", "A ship."),
        ("<p>A ship</p> { <1> <2.5> <3> <4> | <-30> }, and {no box}", "A ship, and {no box}"),
        ("Water.", "Water."),
        ("{<1><2><3><4>|<5>}", None),
        ("<p></p> {<1><2><3><4>|<5>}.", None),
        ("A ship {<1><2><3", None),
    ],
)
def test_what_of_a_description_is_words(said, expected):
    if expected is not None:
        assert described(said) == expected
        return
    with pytest.raises(RowFault, match="field 'description': .*expected words with boxes"):
        described(said)


@pytest.mark.parametrize(
    "said", ["{ " * 9000, "{<1>" * 9000, "{" + "<1> " * 9000, "{" + " " * 20000, "{<1> " + " " * 20000]
)
def test_a_description_that_is_made_to_take_forever(said):
    began = time.monotonic()
    with pytest.raises(RowFault):
        described(f"{{<1>{said}")
    assert time.monotonic() - began < 2


def test_a_description_that_is_no_text(built, tmp_path):
    path = tmp_path / "grounding_description.jsonl"
    draw(tmp_path / "P1.png")
    path.write_text(json.dumps({"image_id": "P1", "question": "Describe it.", "description": 3}))
    with pytest.raises(DataError, match="line 1, field 'description': found 3"):
        list(samples.read(path))
