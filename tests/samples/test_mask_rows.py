"""Rows of the task `segmentation`, and pictures of several dates: from file to prompt, reference and prediction."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from evals import predictions
from samples import read
from samples.mixture import draw
from samples.rows import chat_rows, prompt_rows
from samples.sample import write
from samples.sections import DataSection, SourceSection
from vlm import masks
from vlm.common.errors import DataError
from vlm.sections import PromptSection

TRUTH = np.zeros((60, 80), dtype=bool)
TRUTH[10:30, 20:50] = True
SOUGHT = [{"role": "user", "content": "the ship"}]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (80, 60), "navy").save(tmp_path / name)
    (tmp_path / "masks").mkdir()
    Image.fromarray(TRUTH.astype(np.uint8) * 255).save(tmp_path / "masks" / "ship.png")
    return tmp_path


def rows_of(folder, *rows):
    base = {"images": ["a.png"], "task": "segmentation", "messages": SOUGHT}
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(base | row) + "\n" for row in rows))
    return path


def test_three_spellings_of_a_mask_are_one(folder):
    from pycocotools import mask as coco

    plain = coco.encode(np.asfortranarray(TRUTH.astype(np.uint8)))
    counts = {"size": [60, 80], "counts": plain["counts"].decode()}
    lists = {"size": [60, 80], "counts": [20 * 60 + 10, *[20, 40] * 29, 20, 30 * 60 + 30]}
    ring = [[20, 10, 50, 10, 50, 30, 20, 30]]
    found = [one.mask for one in read(rows_of(folder, *({"mask": m} for m in (counts, lists, "ship.png", ring))))]
    assert found == [counts] * 4
    assert (masks.pixels_of(found[0]) == TRUTH).all()


def test_a_written_row_reads_back(folder):
    (sample,) = read(
        rows_of(folder, {"mask": "masks/ship.png", "images": ["a.png", "b.png"], "dates": ["2019", "2021-07"]})
    )
    write(folder / "again.jsonl", [sample])
    (again,) = read(folder / "again.jsonl")
    assert (again.mask, again.dates) == (sample.mask, ["2019", "2021-07"])


def test_an_empty_mask_is_a_truth(folder):
    (sample,) = read(rows_of(folder, {"mask": []}))
    assert masks.area(sample.mask) == 0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "field 'mask': found None, expected run lengths"),
        ({"mask": "none.png"}, "expected an image file that exists"),
        (
            {"mask": {"size": [80, 60], "counts": [4800]}},
            r"found size \[80, 60\], expected \[60, 80\]: \[height, width\]",
        ),
        ({"mask": {"size": [60, 80], "counts": [7]}}, "field 'mask': found"),
        ({"mask": {"size": [60, 80], "counts": "ab"}}, "field 'mask': found"),
        ({"mask": [[1, 2, 3, 4]]}, "three corners or more"),
        ({"mask": [[1, 2, 3, 4, float("1e9"), 5]]}, "three corners or more"),
        ({"mask": [[1, 2, 3, 4, 900, 5]]}, "pixels of the image of 80 x 60"),
        ({"mask": "a.png"}, "with colours"),
        ({"mask": "grey.png"}, "with the values 0, 1, 2, expected 0 and one other value"),
        ({"mask": "small.png"}, "of 40 x 30 pixels, expected the image's own 80 x 60"),
        ({"mask": "broken.png"}, "expected a picture that can be read"),
        ({"task": "vqa", "answer": "x", "mask": "ship.png"}, "only in rows of the task segmentation"),
        ({"mask": "ship.png", "dates": ["2019", "2020"]}, "when each of 1 images was taken"),
        ({"mask": "ship.png", "dates": [2019]}, "field 'dates': found 2019"),
        ({"mask": "ship.png", "dates": ["<image>"]}, "field 'dates'"),
    ],
)
def test_what_cannot_be_right_is_refused(folder, row, said):
    Image.fromarray((np.arange(4800) % 3).astype(np.uint8).reshape(60, 80)).save(folder / "masks" / "grey.png")
    Image.new("L", (40, 30)).save(folder / "masks" / "small.png")
    colours = np.zeros((60, 80, 3), dtype=np.uint8)
    colours[..., 1] = 9
    Image.fromarray(colours).save(folder / "a.png")
    (folder / "masks" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(DataError, match=said):
        list(read(rows_of(folder, row)))


def test_the_prompt_names_dated_pictures_and_sft_learns_the_mask(folder):
    (sample,) = read(rows_of(folder, {"mask": "ship.png", "images": ["a.png", "b.png"], "dates": ["2019-04", "2021"]}))
    section = PromptSection(style="direct", masks="grid32" if "grid32" in masks.FORMS else "text4seg")
    (row,) = prompt_rows([sample], section)
    asked = next(turn for turn in row["prompt"] if turn["role"] == "user")["content"]
    assert [block.get("text") for block in asked][:3] == ["Picture 1, 2019-04: ", None, "\nPicture 2, 2021: "]
    assert asked[-1]["text"].startswith("\n") and "the ship" in asked[-1]["text"]
    assert row["form"] == section.masks and row["mask"] == sample.mask
    (taught,) = chat_rows([sample], section)
    said = taught["messages"][-1]
    text = said["content"] if isinstance(said["content"], str) else said["content"][0]["text"]
    assert text == masks.write_mask(sample.mask, section.masks, None, "the ship")
    inner, outer = masks.read_mask(text, section.masks, (80, 60)).overlap(sample.mask)
    assert inner == TRUTH.sum() and inner / outer > 0.8


@pytest.mark.parametrize(
    ("when", "dates", "said", "expected"),
    [
        ("dated", None, "What?", None),
        ("several", None, "What?", "Picture 1: <image>\nPicture 2: <image>\nWhat?"),
        ("several", None, "A <image> B <image>", None),
        ("never", ["2019", "2020"], "What?", None),
        ("dated", ["2019", "2020"], "A <image> B <image>", "A Picture 1, 2019: <image> B Picture 2, 2020: <image>"),
    ],
)
def test_which_rows_name_their_pictures(folder, when, dates, said, expected):
    row = {"task": "open_ended", "images": ["a.png", "b.png"], "messages": [{"role": "user", "content": said}]}
    (sample,) = read(rows_of(folder, row | ({"dates": dates} if dates else {})))
    from vlm.prompts import asked

    (turn,) = asked(sample, PromptSection(style="direct", pictures=when))
    assert turn["content"] == (expected or said)


def test_a_prediction_keeps_mask_form_and_pictures(folder, tmp_path):
    (sample,) = read(rows_of(folder, {"mask": "ship.png", "images": ["a.png", "b.png"], "dates": ["2019", "2020"]}))
    row = predictions.from_sample(sample, "<seg>0*4;</seg>", resized=(112, 84), form="rscovlm")
    predictions.write(tmp_path / "predictions.jsonl", [row])
    (again,) = predictions.read(tmp_path / "predictions.jsonl")
    assert again == row and again.images == [str(folder / "a.png"), str(folder / "b.png")] and again.form == "rscovlm"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mask": None}, "field 'mask': found None"),
        ({"mask": {"size": [60, 80], "counts": "ab"}}, "field 'mask'"),
        ({"form": "none"}, "field 'form': found 'none', expected one of rscovlm"),
    ],
)
def test_a_prediction_without_its_truth_is_refused(folder, tmp_path, change, said):
    (sample,) = read(rows_of(folder, {"mask": "ship.png"}))
    row = json.loads(predictions.line(predictions.from_sample(sample, "", form="rscovlm"))) | change
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=said):
        predictions.read(tmp_path / "predictions.jsonl")


def test_a_mask_picture_that_changes_is_read_again(folder):
    """Its bytes are not those of the rows' file, by which tables are kept."""
    path = rows_of(folder, {"mask": "ship.png"})
    section = DataSection(train=[SourceSection(path=str(path))])
    (first,) = draw(section, "train", 0).samples
    Image.fromarray((~TRUTH).astype(np.uint8)).save(folder / "masks" / "ship.png")
    (second,) = draw(section, "train", 0).samples
    assert masks.area(first.mask) == TRUTH.sum() and masks.area(second.mask) == (~TRUTH).sum()
    rows_of(folder, {"mask": first.mask})
    assert masks.area(next(iter(draw(section, "train", 0).samples)).mask) == TRUTH.sum()
