"""Masks in the table of completions: of the small picture's pixels, as overlays of wandb, and drawn for trackio."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageColor

from stage.runs import Run
from stage.tracking import overlays
from stage.tracking.samples import Samples
from stage.tracking.section import SampleSection
from stage.tracking.table import Batch, Reading, asked, row
from tests.support.runs import wandb_files
from vlm.masks import pixels_of, runs_of
from vlm.pictures.drawing import PREDICTED, TRUE

BATCH = Batch(step=3, covers=1, last=9, group=2)
LEFT = "<seg>" + "0*8;" * 2 + "1*4,0*4;" * 2 + "0*8;" * 4 + "</seg>"
"""Of 8 × 8 cells rows 2 and 3, columns 0 to 3."""


def rows_of(**columns) -> list[dict]:
    """Two completions about a picture of 448 × 448 pixels, whose true mask is rows 112 to 224, all columns."""
    mask = np.zeros((448, 448), bool)
    mask[112:224] = True
    common = {
        "images": [Image.new("RGB", (448, 448))],
        "task": "segmentation",
        "source": "s",
        "id": "1",
        "size": [448] * 2,
    }
    common |= {
        "resized": [224, 224],
        "mask": runs_of(mask),
        "form": "rscovlm",
        "answer": None,
        "boxes": None,
        "quads": None,
    }
    return [common | columns] * 2


def made(said: str, pixels: int = 112**2, reading: Reading | None = None, **columns) -> tuple:
    found = asked(rows_of(**columns), BATCH, 2, pixels)
    reading = reading or Reading(tagged=False)
    return [row(one, BATCH, reading, ("Q", said), {"mask": 0.5}, 0.0) for one in found], found


def test_masks_are_of_the_small_pictures_pixels():
    """448² is shown as 112²: rows 28 to 56; the answer has the left half of them."""
    (found, _), _ = made(LEFT)
    found = json.loads(json.dumps(found))
    true, said = (pixels_of(found["masks"][name]) for name in ("truth", "answer"))
    assert found["image_size"] == [112, 112] and true.shape == said.shape == (112, 112)
    assert true[28:56].all() and true.sum() == 28 * 112
    assert said[28:56, :56].all() and said.sum() == 28 * 56
    assert "mask" not in found["truth"] and found["read"] is None and overlays.boxes_of(found) == {}


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("the whole left half", {}),
        (LEFT, {"size": None}),
        (LEFT, {"resized": None}),  # the form counts cells of the picture as the model saw it
        ("", {}),
    ],
)
def test_what_cannot_be_read_has_no_mask(said, changes):
    (found, _), _ = made(said, **changes)
    assert found["masks"]["answer"] is None
    assert overlays.mask_overlays(found).keys() == {"truth"}


def test_nothing_said_is_an_empty_mask():
    (found, _), _ = made("<seg>" + "0*8;" * 8 + "</seg>")
    assert pixels_of(found["masks"]["answer"]).sum() == 0


def test_a_row_is_read_in_its_own_form_and_others_in_the_recipes():
    said = "<seg>" + "0*32;" * 16 + "1*32;" * 16 + "</seg>"
    for reading, form in ((Reading(tagged=False), "grid32"), (Reading(tagged=False, form="grid32"), None)):
        (found, _), _ = made(said, reading=reading, form=form)
        assert pixels_of(found["masks"]["answer"]).sum() == 112 * 56


def test_other_tasks_have_no_masks():
    (found, _), _ = made("x", task="vqa", mask=None, form=None)
    assert "masks" not in found and "dates" not in found and overlays.mask_overlays(found) is None


def test_a_mask_of_a_large_picture_is_not_expanded(monkeypatch):
    """20,000 × 16,000 pixels, half of which is the mask; a line of half a drawn pixel stays visible."""
    monkeypatch.setattr("vlm.pictures.overlaid.pixels_of", None)
    from vlm.masks import rings_to_runs
    from vlm.pictures.overlaid import scaled

    size = (20_000, 16_000)
    half = scaled(rings_to_runs([[0, 0, 10_000, 0, 10_000, 16_000, 0, 16_000]], size), (100, 80))
    assert half.shape == (80, 100) and half[:, :50].all() and half.sum() == 80 * 50
    line = scaled(rings_to_runs([[0, 8_010, 20_000, 8_010, 20_000, 8_110, 0, 8_110]], size), (100, 80))
    assert line[40].all() and line.sum() == 100


def test_overlays_for_wandb():
    (found, _), _ = made(LEFT)
    made_of = overlays.mask_overlays(found)
    assert made_of["truth"]["class_labels"] == {3: "no mask", 4: "true mask", 5: "answer's mask"}
    assert np.unique(made_of["truth"]["mask_data"]).tolist() == [3, 4]
    assert (made_of["answer"]["mask_data"] == 5).sum() == 28 * 56
    assert not {0, 1, 2} & made_of["truth"]["class_labels"].keys()  # those of boxes


def test_masks_are_drawn_for_trackio(tmp_path):
    """Of a black picture: within both masks either colour's fill; the true line along the outside, the other's
    inside."""
    lines, found = made(LEFT)
    Samples(Run(tmp_path), SampleSection()).write(lines, found)
    tracker = SimpleNamespace(Image=lambda value, caption=None: value, Table=lambda **given: given)
    table = overlays.table(lines, tracker, tmp_path, overlaid=False)
    picture = dict(zip(table["columns"], table["data"][0], strict=True))["image"]
    assert picture.size == (112, 112)
    assert picture.getpixel((80, 26)) == picture.getpixel((20, 57)) == ImageColor.getrgb(TRUE)
    assert picture.getpixel((20, 28)) == picture.getpixel((55, 40)) == ImageColor.getrgb(PREDICTED)
    green, both = picture.getpixel((90, 40)), picture.getpixel((30, 40))
    assert green[1] > 40 > green[0] and both[0] > 50 and both[1] > 50
    assert sum(picture.getpixel((90, 90))) < 20


def test_pictures_of_several_dates_are_named(tmp_path):
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    rows = [{"images": images, "task": "caption", "dates": ["2019-04", "2020", "2021-07-01"], "id": "1"}] * 2
    found = asked(rows, BATCH, 2, 4096)
    lines = [row(one, BATCH, Reading(), ("Q", "A"), {}, 0.0) for one in found]
    assert lines[0]["dates"] == ["2019-04", "2020", "2021-07-01"] and len(lines[0]["further"]) == 2
    tracker = SimpleNamespace(Image=lambda value, caption=None: caption, Table=lambda **given: given)
    Samples(Run(tmp_path), SampleSection()).write(lines, found)
    table = overlays.table(lines, tracker, tmp_path, overlaid=False)
    assert table["data"][0][-1] == ["picture 2, 2020", "picture 3, 2021-07-01"]
    assert overlays.named({}, 2) == "picture 2"


def test_wandb_takes_them(tmp_path, monkeypatch):
    """A run of wandb without an account, read back."""
    import wandb

    for name, value in (("MODE", "offline"), ("DATA_DIR", str(tmp_path / "wandb")), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    lines, found = made(LEFT)
    wandb.init(project="p", dir=tmp_path)
    Samples(Run(tmp_path), SampleSection(), report_to=["wandb"]).write(lines, found)
    wandb.finish()
    read = wandb_files.read(tmp_path)
    (table,) = read.tables
    picture = table[0]["image"]
    assert picture["masks"].keys() == {"truth", "answer"}
    with Image.open(read.files[picture["masks"]["answer"]["path"]]) as sent:
        assert (np.asarray(sent) == 5).sum() == 28 * 56 and sent.size == (112, 112)
    classes = json.loads(read.files[picture["classes"]["path"]].read_text())["class_set"]
    assert {one["id"]: one["name"] for one in classes} == {3: "no mask", 4: "true mask", 5: "answer's mask"}
