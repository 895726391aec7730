"""Pairs of pictures: LEVIR-CD and -MCI, Dubai-CC, CDVQA, GEOBench-VLM, EarthDial's tables. Values by hand; 40 x 20."""

import json
import math
import shutil

import pytest
from PIL import Image

import samples
from samples import Faults
from samples.readers.formats import detect
from samples.readers.look import Look
from tests.support.layouts import build, encoded, label, tiff
from vlm import masks
from vlm.common.errors import DataError

CHANGED = "from the first image to the second"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("pairs") / "data")


def names(sample):
    return ["/".join(image.rsplit("/", 3)[1:]) for image in sample.images]


@pytest.mark.parametrize(
    ("path", "format", "split"),
    [
        ("LEVIR-CD", "levir_cd", "test"),
        ("LEVIR-MCI", "levir_mci", None),
        ("LEVIR-MCI/LevirCCcaptions.json", "captions", None),
        ("Dubai_CC/description_jsontr_te_val/Test.json", "dubai_cc", None),
        ("CDVQA/Test_questions.json", "cdvqa", None),
        ("GEOBench-VLM/Single/qa.json", "geobench_vlm", None),
        ("GEOBench-VLM/Temporal/qa.json", "geobench_vlm", None),
        ("EarthDial/train", "earthdial", None),
        ("EarthDial/test", "earthdial", None),
    ],
)
def test_told_by_content_and_round_trip(root, tmp_path, path, format, split):
    assert detect(Look(root / path, split)).name == format
    read = list(samples.read(root / path, split=split))
    assert read and samples.write(tmp_path / "own.jsonl", read) == len(read)
    assert list(samples.read(tmp_path / "own.jsonl")) == read


# masks of change


def test_levir_cd(root):
    (sample,) = samples.read(root / "LEVIR-CD", split="test")
    assert names(sample) == ["test/A/test_1.png", "test/B/test_1.png"]
    assert (sample.task, sample.id, sample.kind) == ("segmentation", "test/test_1.png", "change")
    assert sample.messages == [{"role": "user", "content": f"what has changed {CHANGED}"}]
    true = masks.pixels_of(sample.mask)
    assert true.sum() == 200 and true[:10, :20].all()
    (empty,) = samples.read(root / "LEVIR-CD", split="train")
    assert masks.area(empty.mask) == 0
    with pytest.raises(DataError, match="found no split, expected one of train, test"):
        list(samples.read(root / "LEVIR-CD"))
    with pytest.raises(DataError, match="found the split 'val', expected one of train, test"):
        list(samples.read(root / "LEVIR-CD", split="val"))


def test_a_folder_may_have_a_hash_in_its_name(root, tmp_path):
    """Only the mark of a raster ends a path."""
    shutil.copytree(root / "LEVIR-CD", tmp_path / "set#1")
    (sample,) = samples.read(tmp_path / "set#1", split="test")
    assert masks.area(sample.mask) == 200


def test_levir_cd_cut_to_tiles(root, tmp_path):
    """ChangeFormer's: A, B, label, and list/SPLIT.txt with the names."""
    for side in ("A", "B", "label"):
        shutil.copytree(root / "LEVIR-CD/test" / side, tmp_path / side)
    (tmp_path / "list").mkdir()
    (tmp_path / "list/test.txt").write_text("test_1.png\n")
    (tmp_path / "list/val.txt").write_text("../test_1.png\n")
    (sample,) = samples.read(tmp_path, split="test")
    assert (sample.id, masks.area(sample.mask)) == ("test/test_1.png", 200)
    with pytest.raises(DataError, match="found '../test_1.png', expected names of files in .*A"):
        list(samples.read(tmp_path, split="val"))


def test_levir_mci(root):
    road, building = samples.read(root / "LEVIR-MCI")
    assert (road.kind, road.id, building.kind) == ("road", "test/test_1.png/road", "building")
    assert masks.pixels_of(road.mask)[:, :10].all() and masks.area(road.mask) == 200
    assert masks.pixels_of(building.mask)[5:10, 20:].all() and masks.area(building.mask) == 100
    assert [turn["content"] for turn in building.messages] == [f"the buildings that have changed {CHANGED}"]


def test_faults_of_labels(root, tmp_path):
    shutil.copytree(root / "LEVIR-CD/test", tmp_path / "test")
    path = tmp_path / "test/label/test_1.png"
    label(path, {128: (0, 0, 5, 5), 255: (5, 5, 9, 9)})
    with pytest.raises(
        DataError, match=r"file test_1.png, field 'label': .*the values 128, expected 0 .*255 \(change\)"
    ):
        list(samples.read(tmp_path, "levir_cd"))
    label(path, {255: (0, 0, 5, 5)}, (20, 20))
    with pytest.raises(DataError, match="20 x 20 pixels, expected the first picture's 40 x 20"):
        list(samples.read(tmp_path, "levir_cd"))
    label(path, {255: (0, 0, 5, 5)})
    assert len(list(samples.read(tmp_path, "levir_cd"))) == 1
    Image.new("RGB", (20, 20)).save(tmp_path / "test/B/test_1.png")
    with pytest.raises(DataError, match="field 'images': .*20 x 20 pixels, expected the first picture's"):
        list(samples.read(tmp_path, "levir_cd"))
    (tmp_path / "test/B/test_1.png").unlink()
    with pytest.raises(DataError, match="expected an image file that exists"):
        list(samples.read(tmp_path, "levir_cd"))
    path.write_bytes(b"no picture")
    shutil.copy(tmp_path / "test/A/test_1.png", tmp_path / "test/B/test_1.png")
    with pytest.raises(DataError, match="field 'label': .*expected a picture that can be read"):
        list(samples.read(tmp_path, "levir_cd"))


# captions and questions


@pytest.mark.parametrize("flag", ["0", "no", 2, None])
def test_whether_something_changed_is_a_number(root, tmp_path, flag):
    """Of the text "0" Python says that it is true."""
    shutil.copytree(root / "LEVIR-CC", tmp_path / "L")
    path = tmp_path / "L/LevirCCcaptions.json"
    found = json.loads(path.read_text())
    found["images"][0]["changeflag"] = flag
    path.write_text(json.dumps(found))
    with pytest.raises(DataError, match="field 'changeflag': found .*, expected 1 where something changed, or 0"):
        list(samples.read(path, "captions", split="all"))


def test_dubai_cc(root):
    first, _ = samples.read(root / "Dubai_CC/description_jsontr_te_val/Test.json")
    assert names(first) == ["RGB/500_2000/11x37.tif", "RGB/500_2010/11x37.tif"] and first.dates == ["2000", "2010"]
    assert (first.task, first.references) == ("caption", ["A road has appeared.", "A street was built."])


def test_cdvqa(root):
    faults = Faults()
    first, second, last = samples.read(root / "CDVQA/Test_questions.json", faults=faults)
    assert names(first) == ["second_dataset/im1/00003.png", "second_dataset/im2/00003.png"]
    assert (first.messages[0]["content"], first.answer) == ("Has the scene changed? Answer with yes or no.", "yes")
    assert (second.answer, second.kind) == ("nonvegetated ground surface", "change_to_what")
    assert last.messages[0]["content"].endswith("80_to_90, 90_to_100.") and last.answer == "0_to_10"
    assert dict(faults.left_out) == {"inactive": 1}


def test_cdvqa_without_its_files(root, tmp_path):
    shutil.copytree(root / "CDVQA", tmp_path / "CDVQA")
    path = tmp_path / "CDVQA/Test_questions.json"
    images = tmp_path / "CDVQA/Test_images.json"
    images.write_text(images.read_text().replace("3\n", "9\n"))
    with pytest.raises(
        DataError, match="row 4, field 'questions_ids': found none, expected a picture that lists questi"
    ):
        list(samples.read(path))
    images.write_text("{")
    with pytest.raises(DataError, match="Test_images.json: cannot be read .*CDVQA's questions need it"):
        list(samples.read(path, "cdvqa"))
    (tmp_path / "CDVQA/Test_answers.json").unlink()
    with pytest.raises(DataError, match="Test_answers.json: cannot be read"):
        list(samples.read(path, "cdvqa"))


def test_geobench_vlm(root):
    first, second, third = samples.read(root / "GEOBench-VLM/Single/qa.json")
    assert (first.id, second.id, third.id) == ("1/1", "1/2", "2/1")  # every paraphrase is asked
    assert first.messages[0]["content"] == "Classes of scenes seen from above.\nWhich scene is it?"
    assert (first.task, first.answer, first.choices) == ("choice", "B", ["harbor", "dam", "airport"])
    assert (third.answer, third.kind, third.columns) == ("A", "Counting", {"question_id": 8})
    whole, _ = samples.read(root / "GEOBench-VLM/Temporal/qa.json")
    ends, _ = samples.read(root / "GEOBench-VLM/Temporal/qa.json", frames=2)
    assert [name[-7:] for name in names(whole)] == ["a_1.jpg", "a_2.jpg", "a_3.jpg"]
    assert [name[-7:] for name in names(ends)] == ["a_1.jpg", "a_3.jpg"]


def test_geobench_vlm_of_more_than_its_two_keeps_numbers_right(root, tmp_path):
    shutil.copytree(root / "GEOBench-VLM", tmp_path / "G")
    path = tmp_path / "G/Temporal/qa.json"
    (row,) = json.loads(path.read_text())
    row |= {"image_path": [*row["image_path"], row["image_path"][-1]], "prompts": ["When?"]}
    row |= {"options_list": ["Image 2", "Image 4"], "ground_truth": "Image 4", "ground_truth_option": "B"}
    path.write_text(json.dumps([row]))
    assert len(next(samples.read(path, frames=2)).images) == 2  # as its script does
    with pytest.raises(DataError, match="frames: 3 would leave out some of 4 pictures, and its text names 'Image 2'"):
        list(samples.read(path, frames=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ground_truth": "fire"}, "field 'ground_truth_option': found 'B' beside 'fire', expected one of"),
        ({"ground_truth_option": "D"}, "field 'ground_truth_option': found 'D' beside 'flood'"),
        ({"options_list": [], "options": ""}, "field 'options_list': .*are not read, for no loader shows them"),
        ({"prompts": []}, "row 1, field 'prompts': found .., expected a list of questions"),
        (
            {"image_path": ["Temporal/images/gone.jpg"]},
            "prompt 1, field 'images': .*expected an image file that exists",
        ),
        ({"image_path": ["../x.jpg"]}, "field 'image_path': found '../x.jpg', expected a name below"),
        ({"image_path": 3}, "field 'image_path': found 3, expected a picture file"),
    ],
)
def test_faults_of_geobench_vlm(root, tmp_path, changes, message):
    shutil.copytree(root / "GEOBench-VLM", tmp_path / "G")
    path = tmp_path / "G/Temporal/qa.json"
    (row,) = json.loads(path.read_text())
    path.write_text(json.dumps([row | changes]))
    with pytest.raises(DataError, match=message):
        list(samples.read(path, "geobench_vlm"))


# EarthDial


def table(folder, rows):
    import datasets

    made = datasets.Dataset.from_list(rows)
    for column in {"jpg", "jpg_A", "jpg_B"} & set(made.column_names):
        made = made.cast_column(column, datasets.Image(decode=False))
    made.save_to_disk(folder / "shard")
    return folder / "shard"


def test_earthdial_as_it_is_trained_and_asked(root):
    (trained,) = samples.read(root / "EarthDial/train")
    assert [turn["content"] for turn in trained.messages] == ["What has changed?", "A road was built."]
    assert (trained.task, trained.kind, len(trained.images)) == ("open_ended", "changedet,hr_rgb_temp_0.5", 2)
    (asked,) = samples.read(root / "EarthDial/test")
    assert [turn["content"] for turn in asked.messages] == ["are there any changes?", "A road."]
    assert (asked.task, asked.references) == ("caption", ["A road.", "A street."])


PICTURE = {"bytes": encoded((100, 200)), "path": None}
ASKED = "[refer] [hr_rgb_0.5] <image> \\n Where is the <ref>dam</ref>?"


def of(tmp_path, **row):
    return list(samples.read(table(tmp_path, [{"jpg": PICTURE, "question": ASKED} | row])))[0]


def test_earthdials_boxes(tmp_path):
    upright = of(tmp_path / "a", groundtruth="<ref>dam</ref> <box>[[10, 20, 40, 50, 0]]</box>")
    assert (upright.task, upright.boxes, upright.quads) == ("grounding", [[10, 40, 40, 100]], None)
    turned = of(tmp_path / "b", groundtruth="[[10, 20, 40, 50, 30]]")
    # in percent about (25, 35), against the clock as seen, y down: (-15, -15) → (x·cos + y·sin, y·cos - x·sin)
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    assert turned.quads[0][:2] == pytest.approx([25 - 15 * cos - 15 * sin, 2 * (35 - 15 * cos + 15 * sin)])
    with pytest.raises(DataError, match="text with boxes inside"):
        of(tmp_path / "c", groundtruth="There is a dam [[10, 20, 40, 50, 0]] at the left.")


def test_earthdials_tasks(tmp_path):
    vqa = of(tmp_path / "a", question="[hr_rgb_0.5] <image> \\n Is there a dam?", groundtruth='"yes"', ttype="presence")
    assert (vqa.task, vqa.answer, vqa.kind) == ("vqa", "yes", "hr_rgb_0.5,presence")
    scene = of(tmp_path / "b", question="[classify] <image> Which class?", groundtruth="Airport")
    assert (scene.task, scene.messages[0]["content"]) == ("classification", "Which class?")


def test_bands_of_earthdial(tmp_path):
    row = {"question": "[classify] [s2_ms_10] <image> \\n Which class?", "groundtruth": "Forest"}
    with pytest.raises(
        DataError, match="field 'jpg': found no picture; there are tif_ms, expected .*arrays of numbers"
    ):
        list(samples.read(table(tmp_path / "a", [row | {"tif_ms": [[1, 2], [3, 4]]}])))
    (sample,) = samples.read(table(tmp_path / "b", [row | {"tif_rgb": tiff(3, 90)}]))
    assert sample.size == (40, 20)
    with pytest.raises(DataError, match="found none, expected an answer"):
        list(samples.read(table(tmp_path / "c", [{"jpg": PICTURE, "question": "What?", "groundtruth": ""}])))
