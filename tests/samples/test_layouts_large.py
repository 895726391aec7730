"""Benchmarks of large pictures: what of their rows is a fault, left out, or read where it is in doubt."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

import samples
from samples import Faults
from samples.readers import embedded, options
from samples.readers.large import OPTIONS
from samples.readers.rows import RowFault
from tests.support.layouts import build, encoded
from vlm.common.errors import DataError

CHOICES = ["(A) Yellow", "(B) Blue", "(C) Gray", "(D) White", "(E) The image does not feature the color."]
GRO = {
    "question_id": "LRS-GRO-3314", "image_name": "a.png", "category": "Counting", "question": "How many?",
    "higher_level": "perception", "ground_truth": "3", "bbox": [163, 78, 196, 601], "type": "object", "split": "RL",
}  # fmt: skip
VQA = {
    "question_id": "FAIR_1", "image": "a.png", "category": "reasoning", "text": "Is it?", "ground_truth": "yes",
    "hbox": [282, 3418, 763, 4050], "image_size": [4000, 4000],
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("layouts") / "data")


def mme(**changes):
    row = {"Question_id": "q", "Image": "a.png", "Text": "What color?", "Answer choices": CHOICES, "Ground truth": "D",
           "Category": "color", "Subtask": "Remote Sensing", "Task": "Perception"}  # fmt: skip
    return {key: value for key, value in (row | changes).items() if value is not ...}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    return tmp_path


def put(folder, rows, name="rows.json"):
    text = json.dumps(rows) if name.endswith("json") else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text)
    return folder / name


# Regions of the LRS sets.


@pytest.mark.parametrize(("size", "scale"), [((4000, 2000), 4000 / 1024), ((900, 1800), 1800 / 1024), ((1024, 700), 1)])
def test_lrs_gros_boxes_are_in_a_picture_of_1024(tmp_path, size, scale):
    """ZoomEarth halves them for a picture of 512, and multiplies by the long side / 512 (customized_funcs.py)."""
    Image.new("L", size).save(tmp_path / "a.png")
    (found,) = samples.read(put(tmp_path, [GRO], "rl.jsonl"))
    theirs = [point / 2 * max(size) / 512 for point in GRO["bbox"]]
    assert theirs == [pytest.approx(point * scale) for point in GRO["bbox"]]
    cut = [min(x, size[place % 2]) for place, x in enumerate(theirs)]
    assert found.regions == [pytest.approx(cut)] and found.kind == "object,Counting" and found.boxes is None
    assert found.columns == {"higher_level": "perception", "split": "RL"}


def test_lrs_gros_global_questions_have_no_region(folder):
    found = list(samples.read(put(folder, [GRO | {"bbox": []}, GRO | {"bbox": None}], "rl.jsonl")))
    assert [one.regions for one in found] == [None, None]


def test_lrs_vqas_first_row(tmp_path):
    """As published: it exceeds its picture at the bottom by 50 pixels."""
    Image.new("L", (4000, 4000)).save(tmp_path / "a.png")
    faults = Faults()
    (found,) = samples.read(put(tmp_path, [VQA], "vqa.jsonl"), faults=faults)
    assert found.regions == [[282, 3418, 763, 4000]] and faults.cut == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, r"hbox is of a picture of \[4000, 4000\], this one has \[40, 20\]"),
        ({"image_size": [40, 20]}, "has no area in the picture of 40 x 20"),
        ({"image_size": None, "hbox": [30, 5, 10, 9]}, r"hbox \[30, 5, 10, 9\] has no area"),
    ],
)
def test_a_doubtful_box_leaves_its_row_and_is_counted(folder, change, said):
    faults = Faults()
    (found,) = samples.read(put(folder, [VQA | change], "vqa.jsonl"), "lrs_vqa", faults=faults)
    assert found.regions is None and found.answer == "yes" and faults.objects == {"region_outside": 1}
    assert re.search(said, faults.examples["region_outside"])


@pytest.mark.parametrize("box", ["x", [1, 2, 3], [[1, 2, 3, 4]], [1, 2, 3, "4"], [1, 2, 3, float("nan")]])
def test_a_box_that_is_none_is_a_fault(folder, box):
    with pytest.raises(DataError, match="field 'hbox': found .* a box .x1, y1, x2, y2. in pixels, or none"):
        list(samples.read(put(folder, [VQA | {"hbox": box}], "vqa.jsonl"), "lrs_vqa"))


# MME-RealWorld.


def test_a_subtask_is_a_split(root):
    path = root / "MME-RealWorld/MME_RealWorld.json"
    assert len(list(samples.read(path))) == 3
    (one,) = samples.read(path, split="Autonomous_Driving")
    assert (one.answer, one.columns["Dataset"], one.columns["Task"]) == ("A", "nuScenes", "Perception")
    with pytest.raises(
        DataError, match="the split 'RS', expected one of its Subtasks: Autonomous_Driving, Remote Sensing"
    ):
        list(samples.read(path, split="RS"))


def test_faulty_rows_of_mme(folder):
    for row, said in (
        (mme(**{"Answer choices": ["Yellow", "Blue"]}), "'Answer choices': .* lettered in order"),
        (mme(**{"Answer choices": ["(B) Yellow", "(A) Blue"]}), "lettered in order"),
        (mme(**{"Answer choices": "(A) x"}), "a list of options"),
        (mme(**{"Ground truth": "F"}), "field 'answer': found 'F'"),
        (mme(Image="b.png"), "an image file that exists"),
        (mme(Image="../a.png"), "a name below"),
        (mme(Text=...), "field 'Text': found none"),
    ):
        with pytest.raises(DataError, match=said):
            list(samples.read(put(folder, [row]), "mme_realworld"))
    faults = Faults()
    rows = [mme(), mme(Subtask=...), mme(Subtask="Monitoring")]
    (kept,) = samples.read(put(folder, rows), split="Remote Sensing", on_fault="skip", faults=faults)
    assert kept.id == "q" and faults.kinds == {"missing_field": 1} and faults.rows == 2


def test_a_true_option_at_two_letters_is_left_out(folder):
    faults = Faults()
    rows = [mme(**{"Answer choices": ["(A) red", "(B) Red", "(C) blue"], "Ground truth": "B"}), mme()]
    assert len(list(samples.read(put(folder, rows), faults=faults))) == 1 and faults.left_out == {"two_right": 1}


# XLRS-Bench.


def xlrs(folder, *rows, **options):
    import datasets

    full = [{"index": 1, "image": [{"bytes": encoded(), "path": None}], "question": "Which?", OPTIONS: CHOICES[:4],
             "answer": "B", "category": "Counting/Overall counting"} | row for row in rows]  # fmt: skip
    datasets.Dataset.from_list(full).save_to_disk(folder / "set")
    return list(samples.read(folder / "set", **options))


def test_pictures_of_xlrs_bench_become_files(tmp_path):
    (found,) = xlrs(tmp_path, {})
    (name,) = found.images
    home = Path(os.environ["NADIR_CACHE"]) / "embedded"
    assert name == str(home / f"{hashlib.sha256(encoded()).hexdigest()}.png")
    assert Path(name).read_bytes() == encoded() and found.size == (40, 20)
    Path(name).write_bytes(b"half")  # of another length: written again
    (again,) = xlrs(tmp_path / "more", {})
    assert again.images == [name] and Path(name).read_bytes() == encoded()


def test_a_file_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NADIR_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written .* name another folder in NADIR_CACHE"):
        embedded.file(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("answer", "task", "expected"),
    [("B", "choice", "B"), ("DB", "vqa", "B D"), ("A, C", "vqa", "A C"), ("A B C D", "vqa", "A B C D")],
)
def test_answers_of_xlrs_bench(tmp_path, answer, task, expected):
    (found,) = xlrs(tmp_path, {"answer": answer})
    assert (found.task, found.answer, found.choices) == (task, expected, ["Yellow", "Blue", "Gray", "White"])
    assert found.messages[-1]["content"] == expected


@pytest.mark.parametrize("answer", ["E", "AA", "blue", "A or B", "b"])
def test_answers_that_name_no_options(tmp_path, answer):
    with pytest.raises(DataError, match="field 'answer': found .* letters from A to D, each once"):
        xlrs(tmp_path, {"answer": answer})


def test_its_grounding_and_captions_are_refused_by_name(tmp_path):
    import datasets

    row = {
        "image_width": 40,
        "image_height": 20,
        "question_id": "1",
        "question": "the dam",
        "bbox": [0.1, 0.2, 0.3, 0.4],
    }
    datasets.Dataset.from_list([row]).save_to_disk(tmp_path / "grounding")
    with pytest.raises(DataError, match="XLRS-Bench's captions and visual grounding are not read, for no published"):
        samples.read(tmp_path / "grounding")
    with pytest.raises(DataError, match=f"field '{OPTIONS}': found none, .* are not read, for no published loader"):
        list(samples.read(tmp_path / "grounding", "xlrs_bench"))


def test_options_as_lists():
    assert options.listed(["(A) x", "(B)", "C. z (z)"], "f") == ["x", "", "z (z)"]
    for value in (None, "A. x", ["A x", "B y"], [1], ["(A) x", "(C) y"]):
        with pytest.raises(RowFault, match="field 'f'"):
            options.listed(value, "f")
