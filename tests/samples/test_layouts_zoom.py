"""Published sets with looks at regions: what is refused, left out and counted. Pictures are 40 x 20 pixels.

What their sound rows become: test_layouts.py.
"""

from __future__ import annotations

import copy
import json

import pytest
from PIL import Image

import samples
from samples import Faults
from samples.readers import zooming
from samples.readers.formats import detect
from samples.readers.look import Look
from tests.support.layouts import DATA, build
from tests.support.sample_rows import dump
from vlm.common.errors import DataError
from vlm.tools import zoom

TRAIN, GRO, APEX = "LRS_VQA/annotations/train", "LRS-GRO", "APEX-GRO"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("layouts") / "data")


def rows_of(name):
    text = (DATA / name).read_text()
    return json.loads(text) if name.endswith(".json") else list(map(json.loads, text.splitlines()))


def refused(root, folder, row, format, match):
    path = dump(root / folder / "faulty.jsonl", [row])
    assert detect(Look(path)).name == format
    with pytest.raises(DataError, match=match):
        list(samples.read(path, format))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"image_ori_width": 41}, r"'image_ori_width': found 41, expected the image's own 40 \(of 40 x 20\)"),
        ({"image_ori_height": 40, "image_ori_width": 20}, "'image_ori_width': found 20"),
        ({"bbox_info": {"crop_hbox": [[40, 2, 60, 10]]}}, "'bbox_info.crop_hbox': .* meets the image of 40 x 20"),
        ({"bbox_info": {"crop_hbox": [[16, 2, 4, 10]]}}, "'bbox_info.crop_hbox': .*inverted or empty"),
        ({"bbox_info": {"crop_hbox": [4, 2, 16, 10]}}, "'bbox_info.crop_hbox': found 4, expected a region"),
        ({"bbox_info": {"crop_hbox": [[4, 2, 16, None]]}}, "'bbox_info.crop_hbox': found"),
        ({"bbox_info": {"rbox": []}}, "'bbox_info.crop_hbox': found None"),
        ({"image": "P9.png"}, "'images': found .*P9.png"),
        ({"image": "../../../../P9.png"}, "a name below"),
        ({"answer": None}, "'answer': found none"),
    ],
)
def test_faulty_rows_of_lrs_vqa_zoom(root, changes, match):
    refused(root, TRAIN, rows_of(f"{TRAIN}/gpt4v.json")[0] | changes, "lrs_vqa_zoom", match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"Answer choices": ["(A) plane", "(C) ship"]}, r"found '\(C\) ship', expected the option '\(B\)"),
        ({"Answer choices": "A. plane B. ship"}, "'Answer choices': found"),
        ({"Answer choices": ["plane", "ship"]}, "expected the option"),
        ({"Ground truth": "D"}, "'answer': found 'D', expected a letter or text of"),
        ({"Text": ""}, "'Text': found none"),
    ],
)  # fmt: skip
def test_faulty_multiple_choice(root, changes, match):
    refused(root, TRAIN, rows_of(f"{TRAIN}/mcq.json")[0] | changes, "lrs_vqa_zoom", match)


def test_what_is_cut_and_what_is_not_shown_again_is_counted(root):
    faults = Faults()
    found = list(samples.read(root / TRAIN / "gpt4v.json", on_fault="skip", faults=faults))
    assert len(found) == 5 and faults.cut == 1 and faults.objects == {"zoom_whole": 1}
    assert "95% of the picture" in str(faults) and "row 4" in str(faults)
    assert zooming.NEARLY < zoom.WHOLE


def test_options_in_other_spellings(root):
    """Letters with a full stop, a bracket, a colon."""
    row = rows_of(f"{TRAIN}/mcq.json")[0] | {"Answer choices": ["A. plane", " B) a ship, or two ", "(C): none"]}
    (found,) = samples.read(dump(root / TRAIN / "spelled.jsonl", [row]))
    assert found.choices == ["plane", "a ship, or two", "none"]
    assert found.messages[0]["content"] == "Which ship of the two is in the rest?"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"scale": 4.5}, r"'scale': found 4.5, expected 0.0390625: the long side of 40 x 20 by 1024"),
        ({"bbox": []}, r"'bbox': found \[\], expected \[x1, y1, x2, y2\], of a cut row"),
        ({"bbox": [512, 128, 256, 384]}, "'bbox': .*inverted or empty"),
        ({"bbox": [1, 2, 3]}, "'bbox': found"),
        ({"bbox": [1, 2, 3, "4"]}, "'bbox': found"),
        ({"cut": "yes"}, "'cut': found 'yes', expected true or false"),
        ({"stage_2_reasoning": None}, "'stage_2_reasoning': found none"),
        ({"ground_truth": ""}, "'ground_truth': found none"),
    ],
)
def test_faulty_rows_of_lrs_gro(root, changes, match):
    refused(root, GRO, rows_of(f"{GRO}/sft.jsonl")[0] | changes, "lrs_gro_sft", match)


def test_rows_of_lrs_gro_without_thoughts_are_left_out(root):
    faults = Faults()
    found = list(samples.read(root / GRO / "sft.jsonl", faults=faults))
    assert [sample.id for sample in found] == ["LRS-GRO-1", "LRS-GRO-2"] and faults.left_out == {"no_trace": 1}
    assert "a row of the split 'test', which has no thoughts to learn" in str(faults)


def test_lrs_gro_as_the_hub_has_it(root):
    """With `higher_level`, without `scale`: still one format, for it has thoughts."""
    row = rows_of(f"{GRO}/sft.jsonl")[0] | {"higher_level": "perception", "area": "top-left"}
    del row["scale"]
    path = dump(root / GRO / "hub.jsonl", [row])
    assert detect(Look(path)).name == "lrs_gro_sft"
    (found,) = samples.read(path)
    assert found.messages[1]["zoom"] == [10, 5, 20, 15]
    assert detect(Look(root / GRO / "rl.jsonl")).name == "lrs_gro"


def test_a_box_of_nearly_everything_is_thought_about_without_a_zoom(root):
    row = rows_of(f"{GRO}/sft.jsonl")[0] | {"bbox": [0, 0, 1024, 512]}
    faults = Faults()
    (found,) = samples.read(dump(root / GRO / "whole.jsonl", [row]), faults=faults)
    assert [turn["role"] for turn in found.messages] == ["user", "assistant"]
    assert found.messages[-1]["content"].startswith("<think>The image shows a port.\nThe crane stands")
    assert found.messages[-1]["content"].endswith("Its boom is bright.</think>\n<answer>red</answer>")
    assert faults.objects == {"zoom_whole": 1}


def apex(number=0, **turns):
    """A row with some of its turns said otherwise; t1 is the second."""
    row = copy.deepcopy(rows_of(f"{APEX}/apex_gro.jsonl")[number])
    for name, said in turns.items():
        row["conversations"][int(name[1:])]["value"] = said
    return row


CALL = '<tool_call>{"name": "%s", "arguments": {"bbox": %s}}</tool_call>'


@pytest.mark.parametrize(
    ("turns", "match"),
    [
        ({"t1": CALL % ("zoom_in", "[100, 200, 400, 900]")},
         r"'conversations\[3\]': found a crop of 40 x 20 for a region of 12 x 14 pixels of the first image"),
        ({"t1": CALL % ("zoom_in", "[100, 200, 400]")}, r"'conversations\[2\]': found .*expected a call of zoom_in"),
        ({"t1": CALL % ("rotate", "[100, 200, 400, 500]")}, "found .*rotate.*expected a call of zoom_in"),
        ({"t1": CALL % ("zoom_in", "[1000, 200, 1200, 500]")}, r"'conversations\[2\]': .*meets the image of 40 x 20"),
        ({"t1": CALL % ("zoom_in", "[400, 200, 100, 500]")}, "inverted or empty"),
        ({"t1": "<tool_call>zoom_in"}, r"'conversations\[2\]': found .*expected one call of zoom_in at the end"),
        ({"t1": CALL % ("zoom_in", "[100, 200, 400, 500]") + " and so on"}, "text behind the call"),
        ({"t0": "How many planes?", "t2": "<image> and <image>"}, "found 3 images, expected a question about one"),
        ({"t0": "<image><image>", "t2": "TOOL_EXECUTION_FAILED"}, "'images': found 3 images"),
        ({"t2": "TOOL_EXECUTION_FAILED", "t4": "<image><image>"},
         r"'conversations\[3\]': found 'TOOL_EXECUTION_FAILED', expected the picture that answers the call"),
        ({"t1": "I see."}, r"'conversations\[3\]': found .*expected no picture but of the question and of calls"),
        ({"t5": CALL % ("zoom_in", "[100, 200, 400, 500]")}, "the last turn may not zoom"),
    ],
)  # fmt: skip
def test_faulty_rows_of_apex_gro(root, turns, match):
    refused(root, APEX, apex(**turns), "apex_gro", match)


def test_a_crop_may_be_stored_at_another_size(root):
    """12 x 6 pixels of the original, stored as 120 x 61."""
    Image.new("RGB", (120, 61)).save(root / APEX / "images" / "large.png")
    row = apex()
    row["images"][1] = "images/large.png"
    (found,) = samples.read(dump(root / APEX / "large.jsonl", [row]))
    assert found.messages[1]["zoom"] == [4, 4, 16, 10] and len(found.images) == 1


@pytest.mark.parametrize("keys", ["conversations", "messages"])
@pytest.mark.parametrize(
    "said", [CALL % ("look", "[1, 2, 3, 4]"), '<grounding>{"bbox_2d": [0.1, 0.2, 0.4, 0.5]}</grounding>']
)
def test_traces_of_projects_whose_frame_was_not_read_are_refused(root, keys, said):
    """The same text is no fault where a text answers it, or where nothing does."""
    turns = apex(t1=said, t3="Three.", t5="Four.")["conversations"]
    row = {keys: turns, "images": ["images/a.png", "images/a_1.png", "images/a_2.png"], "task": "open_ended"}
    path = dump(root / APEX / "foreign.json", [row])
    with pytest.raises(DataError, match=r"'conversations\[2\]': .*in which frame.*write others with `zoom`"):
        list(samples.read(path, "sharegpt"))
    turns[0]["value"], turns[2]["value"], turns[4]["value"] = "How many?", "Nothing there.", "Nor there."
    (found,) = samples.read(dump(path, [row | {"images": []}]), "sharegpt")
    assert found.messages[1]["content"] == said
