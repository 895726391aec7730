"""Layouts as the field publishes them, beyond tests/data: all tasks of CHOICE, splits of captions, saved tables, JSON5,
folders that are no scene classes. Expected values are worked out by hand; pictures are 40 x 20 pixels."""

import json
from pathlib import Path

import pytest
from PIL import Image

import samples
from samples import Faults
from samples.readers import options
from samples.readers.formats import detect
from samples.readers.look import Look
from tests.support.sample_rows import dump
from vlm.common.errors import DataError


def draw(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(path)


# CHOICE: a row for each of its tasks but segmentation: question, options, answer
IMAGE, SINGLE, CROSS = (f"perception/{name}" for name in (
    "image_level_comprehension", "single_instance_identification", "cross_instance_discerment"))  # fmt: skip
ATTRIBUTE, ASSESS, SENSE = (f"reasoning/{name}_reasoning" for name in ("attribute", "assessment", "common_sense"))
TASKS = {
    f"{IMAGE}/image_caption": ("One short sentence.", ["A dam, seen from above.", "A port.", "A road.", "Ice."], "A"),
    f"{IMAGE}/image_modality": ("Which modality?", ["nighttime light", "RGB", "false color", "SAR"], "B"),
    f"{IMAGE}/image_quality": ("Of the four images, which is best?", ["top left", "top right", "bottom left"], "C"),
    f"{IMAGE}/map_recognition": ("Which city is it?", ["Austin, United States", "Oslo, Norway", "Suzhou, China"], "B"),
    f"{IMAGE}/scene_classification": ("Which category?", ["storage_tanks", "pond", "airport", "baseball_filed"], "D"),
    f"{SINGLE}/attribute_recognition": ("What color is the vehicle?", ["orange", "yellow", "white", "red"], "C"),
    f"{SINGLE}/hallucination_detection": ("Where is the dam?", ["Bottom", "The object is not in the picture"], "B"),
    f"{SINGLE}/landmark_recognition": ("What landmark is it?", ["Mont St. Michel", "Eiffel Tower"], "B"),
    f"{SINGLE}/object_counting": ("How many courts?", ["3", "5", "4", "6"], "C"),
    f"{SINGLE}/object_localization": ("Where is the airplane?", ["Bottom Right", "Top", "Center"], "C"),
    f"{SINGLE}/object_presence": ("Is a/an airplane there?", ["can't judge", "No", "Yes"], "C"),
    f"{CROSS}/attribute_comparison": ("Are both of the same color?", ["No", "can't judge", "Yes"], "A"),
    f"{CROSS}/change_detection": ("What differs, left to right?", ["A park has grown.", "B. St. has been built."], "B"),
    f"{CROSS}/spatial_relationship": ("Where is the blue one, seen from the white?", ["Right", "Left", "Top"], "B"),
    f"{ATTRIBUTE}/physical_property": ("Which height (in meters)?", ["7", "31", "9", "107"], "B"),
    f"{ATTRIBUTE}/time_property": ("Which was taken in spring?", ["Bottom left", "Top left"], "A"),
    f"{ASSESS}/environmental_assessment": ("Which emission level?", ["High", "Very low", "Medium", "Low"], "D"),
    f"{ASSESS}/resource_assessment": ("How many people live here?", ["2746", "1824", "361592", "11062628"], "C"),
    f"{SENSE}/disaster_discrimination": ("What disaster?", ["Flood", "Fire", "Earthquake", "Landslide"], "C"),
    f"{SENSE}/geospatial_determination": ("In which country?", ["Germany", "UK", "USA", "USA"], "B"),
    f"{SENSE}/situation_inference": ("What do people do there?", ["Read scriptures", "Play"], "A"),
}


@pytest.mark.parametrize("task", TASKS, ids=[task.split("/")[-1] for task in TASKS])
@pytest.mark.parametrize("blank", ["", " "])
def test_every_task_of_choice_with_options_is_read(tmp_path, task, blank):
    asked, choices, answer = TASKS[task]
    name = task.split("/")[-1]
    draw(tmp_path / task / "images" / "1.png")
    lines = "\n".join(f"{letter}.{blank}{text}" for letter, text in zip("ABCD", choices, strict=False))
    row = {"id": "c-1", "image_path": f"{task}/images/1.png", "question": f"{asked}\n{lines}", "answer": answer}
    (tmp_path / f"{name}.json").write_text(json.dumps([row], indent=4))
    (found,) = samples.read(tmp_path / f"{name}.json")
    assert (found.messages[0]["content"], found.choices, found.answer) == (asked, choices, answer)
    assert (found.task, found.kind, found.id) == ("choice", name, "c-1")
    assert found.images == [str(tmp_path / task / "images" / "1.png")]


def test_grounding_of_choice_has_corners_in_any_order(tmp_path):
    draw(tmp_path / "images" / "1.png")
    asked = "Please output the coordinates of the dam in the image in the format (x1, y1, x2, y2)."
    row = {"id": "1", "image_path": "images/1.png", "question": asked}
    turned = [[0.5, 0.1], [0.9, 0.5], [0.5, 0.9], [0.1, 0.5]]  # top, right, bottom, left: y down
    for corners in (turned, turned[::-1], [turned[place] for place in (0, 2, 1, 3)]):
        path = tmp_path / "visual_grounding.json"
        path.write_text(json.dumps([row | {"answer": corners}]))
        (found,) = samples.read(path)
        assert found.messages[0]["content"] == "the dam"
        quad = [round(x, 9) for x in found.quads[0]]
        assert {(quad[i], quad[i + 1]) for i in (0, 2, 4, 6)} == {(20, 2), (36, 10), (20, 18), (4, 10)}
        opposite = [(quad[i] + quad[i + 4], quad[i + 1] + quad[i + 5]) for i in (0, 2)]
        assert opposite == [(40, 20), (40, 20)], "corners that face each other are two apart"
        assert found.boxes == [pytest.approx([4, 2, 36, 18])]
    path.write_text(json.dumps([row | {"answer": [[1.5, 0.1], [0.9, 0.5], [0.5, 0.9], [0.1, 0.5]]}]))
    with pytest.raises(DataError, match=r"field 'answer': .*four corners \[x, y\] in fractions of the image"):
        list(samples.read(path))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Is it?\nA.No\nB.Yes", ("Is it?", ["No", "Yes"])),
        ("Is it? A.No B.Yes", ("Is it?", ["No", "Yes"])),
        ("Is it?\n(A)No\n(B)Yes", ("Is it?", ["No", "Yes"])),
        ("Who?\nA.x\nB.C. Lewis\nC.y", ("Who?", ["x", "C. Lewis", "y"])),
        ("How high?\nA.3.5 m\nB.U.S. level", ("How high?", ["3.5 m", "U.S. level"])),
        ("Is it near A.B. Street?", None),
    ],
)
def test_options_without_a_blank(said, expected):
    assert options.split(said) == expected


def test_conversations_with_options_and_no_type(tmp_path):
    """VHM's multiple choice: the letter is the answer, and the options stand in the question."""
    draw(tmp_path / "a.png")
    talk = [{"from": "human", "value": "<image>\nIs it?\nA.No\nB.Yes"}, {"from": "gpt", "value": "B"}]
    path = tmp_path / "vhm_choice.json"
    path.write_text(json.dumps([{"image": "a.png", "conversations": talk}]))
    (found,) = samples.read(path, task="choice")
    assert (found.messages[0]["content"], found.choices, found.answer) == ("Is it?", ["No", "Yes"], "B")
    talk[0]["value"] = "<image>\nIs it?"
    path.write_text(json.dumps([{"image": "a.png", "conversations": talk}]))
    with pytest.raises(DataError, match="field 'conversations': found 'Is it[?]', expected choices such as"):
        list(samples.read(path, task="choice"))


def test_frames_of_a_video_and_masks_are_not_read_as_text(tmp_path):
    talk = [{"from": "human", "value": "<video>\nWhat changed?"}, {"from": "gpt", "value": "A road."}]
    path = dump(tmp_path / "a.jsonl", [{"video": ["1.png", "2.png"], "conversations": talk}])
    with pytest.raises(DataError, match=r"field 'video': found \['1.png', '2.png'\], expected pictures: no"):
        list(samples.read(path, "conversations", task="open_ended"))
    talk = [{"from": "human", "value": "Describe it."}, {"from": "gpt", "value": "A <p> dam </p> [SEG] ."}]
    path = dump(tmp_path / "b.jsonl", [{"conversations": talk, "polygons": "1.json"}])
    with pytest.raises(DataError, match=r"line 1, its answer has masks \(GeoPixel's \[SEG\]\)"):
        list(samples.read(path, "conversations", task="open_ended"))


def test_what_has_no_pictures_says_so(tmp_path):
    path = dump(tmp_path / "a.jsonl", [{"question": "Is it?", "answer": "yes", "annotation": "no"}])
    with pytest.raises(DataError, match="no key names a picture: these are answers of a program beside the truth"):
        samples.read(path)
    path = dump(tmp_path / "b.jsonl", [{"id": 0, "img": "1.png", "polygons": [[1, 2]]}])
    with pytest.raises(DataError, match="masks are read of CHOICE, refGeo"):
        samples.read(path)


# captions


def captions(**more):
    sentences = [{"raw": f"Caption {number} ."} for number in range(5)]
    return {"filename": "1.tif", "imgid": 0, "sentences": sentences} | more


@pytest.mark.parametrize("name", ["dataset_rsicd.json", "dataset.json", "dataset_RSITMD.json"])
@pytest.mark.parametrize("head", [{}, {"dataset": "rsicd"}])
def test_splits_of_captions(tmp_path, name, head):
    draw(tmp_path / "images" / "1.tif")
    path = tmp_path / name
    rows = [captions(split=split) for split in ("train", "train", "test")]
    path.write_text(json.dumps({**head, "images": rows}))
    assert len(list(samples.read(path, split="train"))) == 2 and len(list(samples.read(path, split="all"))) == 3
    (found,) = samples.read(path, split="test")
    assert found.references == [f"Caption {number} ." for number in range(5)] and found.answer == "Caption 0 ."
    with pytest.raises(DataError, match="has the splits test, train; name one by `split:`, or write split: all"):
        list(samples.read(path))
    with pytest.raises(DataError, match="found the split 'val', expected one of test, train, or all"):
        list(samples.read(path, split="val"))
    path.write_text(json.dumps({"images": [captions(split="test"), captions()]}))
    with pytest.raises(DataError, match="row 2, field 'split': found none"):
        list(samples.read(path, split="test"))
    path.write_text(json.dumps({"images": [captions(sentences=[{"raw": " "}])]}))
    with pytest.raises(DataError, match="field 'sentences': found none, expected at least one caption"):
        list(samples.read(path, "captions"))


def test_rows_of_ours_that_begin_like_captions_are_rows(tmp_path):
    """`{"images": [` is how our own lines begin, too, and TRL's."""
    row = {"images": [], "task": "caption", "messages": [{"role": "user", "content": "Say."}], "references": ["a", "b"]}
    path = dump(tmp_path / "a.jsonl", [row, row])
    assert [(one.answer, one.references) for one in samples.read(path)] == [("a", ["a", "b"])] * 2
    assert detect(Look(path)).name == "nadir"
    samples.write(tmp_path / "b.jsonl", samples.read(path))
    assert [one.references for one in samples.read(tmp_path / "b.jsonl")] == [["a", "b"]] * 2
    for wrong in ([], "a", ["a", ""], [1]):
        with pytest.raises(DataError, match="field 'references': .*expected a list of texts, one at least"):
            list(samples.read(dump(path, [row | {"references": wrong}])))


# saved tables


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_table_that_datasets_saved(tmp_path, hub_cache):
    import datasets

    draw(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    rows = [
        {"problem": "What is it?", "answer": word, "type": "em", "image": {"bytes": data}} for word in ("dam", "port")
    ]
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "one"))
    for path in (tmp_path / "one", f"hub:{tmp_path / 'one'}"):
        found = list(samples.read(path))
        assert [(one.task, one.answer, one.size, one.source) for one in found] == [
            ("vqa", "dam", (40, 20), "one"), ("vqa", "port", (40, 20), "one"),
        ]  # fmt: skip
    with pytest.raises(DataError, match="one table without splits, and split test was asked for"):
        samples.read(tmp_path / "one", split="test")
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert [one.answer for one in samples.read(tmp_path / "two", split="test")] == ["port"]
    with pytest.raises(DataError, match="has the splits train, test; name one of them: `split:`"):
        samples.read(tmp_path / "two")
    with pytest.raises(DataError, match="it has the splits train, test, not val"):
        samples.read(tmp_path / "two", split="val")


def test_earthdials_tables(tmp_path, hub_cache):
    """A picture under `jpg`, and turns as JSON text."""
    import datasets

    draw(tmp_path / "a.png")
    talk = [{"from": "human", "value": "<image>\nIs it rural?"}, {"from": "gpt", "value": "yes"}]
    rows = [{"jpg": {"bytes": (tmp_path / "a.png").read_bytes()}, "conversations": json.dumps(talk)}]
    table = datasets.Dataset.from_list(rows).cast_column("jpg", datasets.Image())
    table.save_to_disk(str(tmp_path / "saved"))
    (found,) = samples.read(tmp_path / "saved", task="vqa")
    assert (found.messages[0]["content"], found.answer, found.size) == ("Is it rural?", "yes", (40, 20))
    datasets.Dataset.from_list([{"jpg": None, "conversations": "[{"}]).save_to_disk(str(tmp_path / "torn"))
    with pytest.raises(DataError, match="field 'conversations': .*expected a list of turns as JSON text"):
        list(samples.read(tmp_path / "torn", "conversations", task="vqa"))


# VRSBench's annotations as JSON5


def test_annotations_in_json5(tmp_path):
    pytest.importorskip("json5")
    draw(tmp_path / "Images_val" / "P1.png")
    text = "{'image': 'P1.png', caption: \"A pier.\", // seen from above\n'qa_pairs': [],}"
    (tmp_path / "Annotations_val").mkdir()
    path = tmp_path / "Annotations_val" / "P1.json"
    path.write_text(text)
    assert [one.answer for one in samples.read(tmp_path)] == ["A pier."]
    path.write_text(text.replace("'qa_pairs'", "caption"))
    with pytest.raises(DataError, match="field 'caption': found this key twice"):
        list(samples.read(tmp_path, "vrsbench_annotations"))
    path.write_text("{'image': ")
    with pytest.raises(DataError, match="P1.json, field '.whole file.': found Expecting property name"):
        list(samples.read(tmp_path, "vrsbench_annotations"))


# folders that are no classes of scenes

NO_CLASSES = [
    (["A", "B", "label"], "found A/ B/ label/, which looks like change detection"),
    (["train/A", "train/B", "train/label"], "found A/ B/ label/, which looks like change detection"),
    (["im1", "im2", "label1", "label2"], "change detection"),
    (["T1", "T2", "GT"], "change detection"),
    (["trainval", "test"], "found test/ trainval/, which looks like splits of pictures without classes"),
    (["JPEGImages-trainval", "JPEGImages-test"], "splits of pictures without classes"),
    (["ds/train", "ds/val"], "splits of pictures without classes"),
]


@pytest.mark.parametrize(("folders", "message"), NO_CLASSES, ids=["-".join(one[0]) for one in NO_CLASSES])
@pytest.mark.parametrize("format", [None, "scenes"])
def test_folders_that_are_no_classes_are_refused(tmp_path, folders, message, format):
    if format is None and folders[0].endswith("A"):
        pytest.skip("LEVIR-CD's layout: test_temporal_masks.py")
    draw(*(tmp_path / folder / "1.png" for folder in folders))
    with pytest.raises(DataError, match=f"{message}.*expected a folder for each class"):
        list(samples.read(tmp_path, format))


def test_classes_that_are_named_like_them_are_classes(tmp_path):
    draw(*(tmp_path / name / "1.png" for name in ("A", "B", "C")))
    assert [one.answer for one in samples.read(tmp_path)] == ["a", "b", "c"]
    draw(tmp_path / "split" / "train" / "beach" / "1.png", tmp_path / "split" / "train" / "test" / "1.png")
    assert [one.answer for one in samples.read(tmp_path / "split", split="train")] == ["beach", "test"]


# refGeo: a box and a shape that are not of one object


def test_a_box_of_refgeo_that_is_not_around_its_shape_is_told(tmp_path):
    draw(tmp_path / "a.jpg")
    asked = {"image_id": "a.jpg", "question_id": 0, "dataset": "rsvg", "question": "the dam"}
    shape = [[20, 4], [30, 8], [28, 14], [18, 10]]
    boxes = ([18, 4, 30, 14], [18.9, 4, 30, 13.1], [18, 4, 30, 15.1])
    rows = [asked | {"poly": shape, "bbox": box, "question_id": n} for n, box in enumerate(boxes)]
    rows.append({**asked, "poly": shape, "question_id": 3})
    path, faults = tmp_path / "rsvg_test.jsonl", Faults()
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [one.boxes for one in samples.read(path, "refgeo", faults=faults)] == [[[18, 4, 30, 14]]] * 4
    (said,) = [text for _, text in faults.notes]
    assert said.endswith("1 rows have a `bbox` more than a pixel from the box around their `poly`, which counts")


# DOTA's folders whose first files say nothing


@pytest.mark.parametrize("first", ["", "imagesource:GoogleEarth\ngsd:0.1\n", "\n\n"])
def test_a_folder_of_labels_whose_first_file_has_no_object(tmp_path, first):
    labels = tmp_path / "labels"
    labels.mkdir()
    draw(tmp_path / "images" / "P1.png", tmp_path / "images" / "P2.png")
    (labels / "P1.txt").write_text(first)
    (labels / "P2.txt").write_text("4 2 12 2 12 10 4 10 plane 0\n")
    faults = Faults()
    assert [(one.id, one.labels) for one in samples.read(labels, faults=faults)] == [("P1", []), ("P2", ["plane"])]
    assert not faults.left_out
    (labels / "P2.txt").write_text("no label\n")
    with pytest.raises(DataError, match="unknown layout"):
        samples.read(labels)


def test_the_documentation_names_the_kinds_that_are_left_out():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert all(f"`{kind}`" in text for kind in ("mask", "two_right", "no_objects", "boxes_in_text", "inactive"))
