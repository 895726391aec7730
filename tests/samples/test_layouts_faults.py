"""Published layouts: how formats are told, splits chosen, and rows reported that become no sample."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import samples
from samples import Faults
from samples.readers import options, rsvqa, scenes
from samples.readers.formats import detect
from samples.readers.look import Look
from tests.support.layouts import build
from vlm.common.errors import DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("layouts") / "data")


def reported(path, **options):
    faults = Faults()
    found = list(samples.read(path, **options, on_fault="skip", faults=faults))
    assert faults.rows == len(found) + faults.skipped + faults.left_out.total()
    return faults


REPORTS = [
    ("DIOR-RSVG", {"split": "test"}, {"box_outside": 1}, {}, r"object 4 \(Annotations/00010.xml\), field 'boxes'"),
    ("RSVQA-LR", {"split": "test"}, {}, {"inactive": 2}, "row 1, a stub"),
    ("VRSBench/VRSBench_EVAL_referring.json", {}, {"box_text": 1}, {}, "row 2, field 'ground_truth': found '{<25>"),
    ("VRSBench", {}, {}, {"no_question": 1}, r"file P0001_0001.json, objects\[3\], an object without"),
    ("LHRS-Bench/LHRS-Bench.json", {}, {}, {"no_question": 1}, "row 2, an image without questions"),
    ("GeoChat-Instruct/GeoChat_Instruct.json", {}, {}, {"boxes_in_text": 1}, "row 3, its answer is text with boxes"),
    ("GeoChat-Bench/lrben.jsonl", {}, {"missing_field": 1}, {}, "line 3, field 'answer': found none.*question 99"),
    ("refGeo/rsvg_test.jsonl", {}, {"box_outside": 1}, {}, "line 4, field 'boxes'"),
    ("DOTA", {}, {"wrong_type": 1}, {}, "file P0001.txt, line 6.*x1 y1 … x4 y4 class"),
    ("DIOR", {"format": "dior_hbb", "split": "test"}, {"split_index": 1}, {}, "test.txt, line 2, .*found '00009'"),
    ("FAIR1M", {"split": "train"}, {"box_text": 1}, {}, "part1/labelXml/1.xml, object 2, field 'points'"),
    ("VHR-10", {}, {"wrong_type": 1}, {}, "ground truth/002.txt, line 2, .*class, in pixels and from 1 to 10"),
    ("COCO/dota.json", {}, {"missing_field": 1}, {}, "annotations, item 3, field 'image_id': found 9"),
    ("COCO/boxes.json", {}, {"missing_field": 1}, {}, "annotations, item 2, field 'category_id': found 5"),
    ("YOLO-OBB", {"split": "val"}, {"missing_field": 1, "wrong_type": 1}, {}, "P0003.txt, line 1, .* found 7,"),
    ("CHOICE/object_presence.json", {}, {}, {"two_right": 1}, "row 3, its true option '8' stands at two letters"),
    ("AID", {}, {}, {"no_image": 1}, "file Airport/Thumbs.db, not an image"),
    ("ScoreRS-RL/bytes.parquet", {}, {}, {"math": 1}, "row 3, type 'math'"),
    ("ScoreRS-RL/structs.parquet", {"format": "scorers_rl"}, {"box_text": 1}, {"math": 1}, "no frame.*scorers_rl_p"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "options", "kinds", "left_out", "message"), REPORTS, ids=[one[0] for one in REPORTS])
def test_what_becomes_no_sample_is_reported(root, path, options, kinds, left_out, message):
    faults = reported(root / path, **options)
    assert (dict(faults.kinds), dict(faults.left_out)) == (kinds, left_out)
    said = "\n".join(faults.examples.values())
    assert re.search(message, said), said
    if kinds:
        with pytest.raises(DataError, match=f"{os.path.basename(path)}.*, field"):
            list(samples.read(root / path, **options))
    else:  # what asks nothing is no error
        assert len(list(samples.read(root / path, **options))) == faults.kept


def test_cut_boxes_are_counted_and_said(root):
    faults = reported(root / "DIOR-RSVG", split="val")
    assert faults.cut == 1 and "in 1 of the kept rows, boxes or regions were cut to the image" in str(faults)
    assert reported(root / "DIOR-RSVG", split="train").cut == 0
    assert "3 rows = 2 kept + 0 skipped + 1 left out" in str(reported(root / "LHRS-Bench/LHRS-Bench.json"))


DETECTED = {
    "DIOR-RSVG/train.txt": "dior_rsvg",
    "LRS_VQA/annotations/train/gpt4v.json": "lrs_vqa_zoom",
    "LRS_VQA/annotations/train/mcq.json": "lrs_vqa_zoom",
    "LRS-GRO/sft.jsonl": "lrs_gro_sft",
    "LRS-GRO/rl.jsonl": "lrs_gro",
    "APEX-GRO/apex_gro.jsonl": "apex_gro",
    "RSVQA-LR/LR_split_test_questions.json": "rsvqa",
    "VRSBench/VRSBench_train.json": "geochat",
    "VRSBench/VRSBench_EVAL_Cap.json": "vrsbench",
    "VRSBench/Annotations_val/P0001_0001.json": "vrsbench_annotations",
    "GeoChat-Bench/region_captioning.jsonl": "geochat_bench",
    "DOTA/labelTxt/P0001.txt": "dota",
    "DOTA/labelTxt": "dota",
    "DIOR": ["dior_hbb", "dior_obb"],
    "DIOR/Annotations/Oriented Bounding Boxes": "dior_obb",
    "DIOR-RSVG": "dior_rsvg",
    "FAIR1M": "fair1m",
    "VHR-10/NWPU VHR-10 dataset": "vhr10",
    "VHR-10/NWPU VHR-10 dataset/annotations.json": "coco",
    "COCO/dota.json": "coco_obb",
    "COCO/boxes.json": "coco",
    "YOLO-OBB": "yolo_obb",
    "RSGPT/RSIEval/annotations.json": "rsgpt",
    "UCM_captions/dataset.json": "captions",
    "TRL/prompts.parquet": "trl",
    "CHOICE/visual_grounding.json": "choice",
    "NWPU-Captions/dataset_nwpu.json": "captions",
    "LHRS_Data/LHRS-Bench/qa.json": "lhrs_bench",
    "RS-GPT4V/train.json": "conversations",
    "VG-DIOR/VG_DOIR_RSVG_test.json": ["vg_dior", "vhm", "conversations"],
    "ScoreRS-RL/structs.parquet": ["scorers_rl_pixel", "scorers_rl_per_mille", "scorers_rl_unit"],
}


@pytest.mark.parametrize("path", DETECTED)
def test_the_format_is_told_by_content_but_no_frame_is(root, path):
    expected = DETECTED[path]
    if isinstance(expected, str):
        assert detect(Look(root / path)).name == expected
        return
    with pytest.raises(DataError, match="its content fits several formats") as caught:
        samples.read(root / path)
    named = [line.strip().split(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert named == expected


def test_every_format_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`([a-z0-9_]+)`", cell)}
    named |= {f"scorers_rl_{frame}" for frame in ("pixel", "per_mille", "unit")}
    assert named == set(samples.FORMATS)


def test_splits(root):
    for path, message in (
        ("DIOR-RSVG", "has the splits train, val, test; name one by `split:`"),
        ("RSVQA-LR", "files of questions found for no split: LR_split_test_questions.json, LR_split_val"),
        ("NWPU-RESISC45", "folders of classes found for no split: test, train"),
    ):
        with pytest.raises(DataError, match=message):
            list(samples.read(root / path))
    assert [s.id for s in samples.read(root / "DIOR-RSVG", split="all", on_fault="skip")] == ["0", "1", "2", "3"]
    with pytest.raises(DataError, match="folders of classes found for split 'val': none"):
        list(samples.read(root / "NWPU-RESISC45", split="val"))
    with pytest.raises(DataError, match="dev.txt: cannot be read .*expected the indices of a split's objects"):
        list(samples.read(root / "DIOR-RSVG", split="dev"))
    with pytest.raises(DataError, match="found the split 'test', but refgeo has none here"):
        samples.read(root / "refGeo" / "rsvg_test.jsonl", split="test")


def test_object_indices_out_of_range_or_twice(root):
    path = root / "DIOR-RSVG" / "odd.txt"
    path.write_text("0\n\n0\nseven\n-1\n5\n")
    faults = reported(path, format="dior_rsvg")
    assert dict(faults.kinds) == {"split_index": 4} and faults.kept == 1  # 0 again, seven, -1, and 5 of 5 objects
    assert "odd.txt, line 3" in faults.examples["split_index"]
    path.unlink()


def test_a_broken_annotation_ends_the_reading(root, tmp_path):
    """Which objects are behind it depends on how many it holds."""
    shutil.copytree(root / "DIOR-RSVG", tmp_path / "x")
    (tmp_path / "x" / "Annotations" / "00002.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match="00002.xml: found text that is no XML .*must be fixed"):
        list(samples.read(tmp_path / "x", split="train", on_fault="skip"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.permutations(range(7)), st.permutations(range(7)), st.sets(st.integers(0, 6), max_size=3))
def test_answers_are_joined_in_any_order_and_held_no_longer_than_needed(tmp_path, asked, answered, stubs):
    path = tmp_path / "answers.json"
    rows = [{"question_id": i, "active": i not in stubs, "answer": f"a{i}"} for i in answered]
    path.write_text(json.dumps({"answers": rows}))
    joined = rsvqa.Joined(path, "question_id", "answer")
    assert [joined.find(i) for i in asked] == [None if i in stubs else f"a{i}" for i in asked]
    assert joined.find(asked[0]) is None and not joined._ahead


def test_questions_without_answers_name_the_file(root, tmp_path):
    text = (root / "RSVQA-LR" / "LR_split_test_questions.json").read_text()
    (tmp_path / "LR_split_test_questions.json").write_text(text)
    with pytest.raises(DataError, match="LR_split_test_answers.json: no such file"):
        list(samples.read(tmp_path))
    text = (root / "GeoChat-Bench" / "lrben.jsonl").read_text()
    (tmp_path / "lrben.jsonl").write_text(text)
    with pytest.raises(
        DataError, match="expected their answers next to it: lrben_answers.json or .*LR_split_test_answ"
    ):
        list(samples.read(tmp_path / "lrben.jsonl"))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("What is it? A. a harbor B. an airport", ("What is it?", ["a harbor", "an airport"])),
        ("A. x\nB. y\nC. z", ("", ["x", "y", "z"])),
        ("Is A. Smith's farm (A) red, (B) blue", ("Is A. Smith's farm", ["red", "blue"])),
        ("Is this A. Smith's farm?\n(A) red\n(B) blue", ("Is this A. Smith's farm?", ["red", "blue"])),
        ("Which? A. U.S. base B. port", ("Which?", ["U.S. base", "port"])),
        ("What is it?", None),
        ("A. only one", None),
        ("B. x A. y", None),
        ("A. " * 100_000, None),
    ],
)
def test_choices_are_cut_out_of_a_question(said, expected):
    assert options.split(said) == expected


def test_class_names_become_words():
    names = ["DenseResidential", "dense_residential", "footballField", "Square", "river-side", "Park"]
    assert [scenes.words(name) for name in names] == [
        "dense residential", "dense residential", "football field", "square", "river side", "park",
    ]  # fmt: skip


def test_a_dataset_of_the_hub_from_a_folder(root, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    path = f"hub:{root / 'hub'}"
    found = list(samples.read(path, split="train", on_fault="skip"))
    assert [(s.task, s.answer, s.size, s.source) for s in found] == [
        ("vqa", "dam", (40, 20), "hub"), ("open_ended", "A dam in a valley.", (40, 20), "hub"),
    ]  # fmt: skip
    boxed = list(samples.read(path, "scorers_rl_per_mille", split="test", on_fault="skip"))
    assert boxed[-1].boxes == [[10, 10, 30, 20]]
    with pytest.raises(DataError, match="has the splits train, test; name one of them"):
        samples.read(path)
    with pytest.raises(DataError, match="cannot be loaded .*expected the id or folder"):
        samples.read(path, split="dev")
    with pytest.raises(DataError, match="hub:LHRS/RSRM: cannot be loaded"):
        samples.read("hub:LHRS/RSRM", split="train")
