"""Masks and several pictures on the report page: outlines, what runs and evaluations have, and how Chromium draws."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from evals import predictions
from evals.predictions import Prediction
from studies.report import page
from studies.report.runs import labels, outlines
from studies.report.runs import samples as kept
from studies.report.runs.folders import Folder
from tests.support.browser import Browser, chromium
from tests.support.runs.run_folders import curve, evaluation, sample, samples, training
from vlm.common.errors import DataError
from vlm.masks import runs_of


def corners(path: str) -> list[list[tuple[int, int]]]:
    """The rings of a path of M, H, V and Z."""
    rings = []
    for ring in path.split("Z")[:-1]:
        x, y = map(int, re.match(r"M(\d+) (\d+)", ring).groups())
        way = [(x, y)]
        for letter, number in re.findall(r"([HV])(\d+)", ring):
            x, y = (int(number), y) if letter == "H" else (x, int(number))
            way.append((x, y))
        assert way[-1][0] == way[0][0] or way[-1][1] == way[0][1]  # Z goes along a side, too
        rings.append(way)
    return rings


def inside(path: str, size: tuple[int, int]) -> np.ndarray:
    """Cells whose centre a ray to the right leaves through an odd number of sides: the rule evenodd."""
    width, height = size
    found = np.zeros((height, width), bool)
    for ring in corners(path):
        for (ax, ay), (bx, by) in zip(ring, ring[1:] + ring[:1], strict=True):
            if ax == bx:
                found[min(ay, by) : max(ay, by), :ax] ^= True
    return found


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_path_filled_is_its_mask(mask):
    found = outlines.outlined(runs_of(mask))
    assert found.size == mask.shape[::-1] and (inside(found.path, found.size) == mask).all()


def test_holes_and_touching_corners_by_hand():
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert sorted(map(len, corners(outlines.outlined(runs_of(ring)).path))) == [4, 4]
    assert outlines.outlined(runs_of(np.eye(2, dtype=bool))).path == "M0 0H1V1H0ZM1 1H2V2H1Z"
    assert outlines.outlined(runs_of(np.zeros((2, 3), bool))).path == ""


def test_large_and_ragged_masks_are_drawn_coarser():
    large = outlines.outlined(runs_of(np.ones((500, 1000), bool)))
    assert large == ((192, 96), "M0 0H192V96H0Z")
    noise = outlines.outlined(runs_of(np.random.default_rng(0).random((192, 192)) < 0.5))
    assert noise.size[0] < 192 and sum(map(len, corners(noise.path))) <= outlines.CORNERS


def picture(path: Path, grey: int, size=(64, 48)) -> str:
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return str(path)


TRUE = np.zeros((48, 64), bool)
TRUE[12:36, 16:48] = True
SAID = "<seg>0*2;1*1,0*1;</seg>"
"""The left lower quarter."""


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with two samples: a mask and what was said of it, and a question about a pair."""
    folder = training(tmp_path / "run", curve([0.1, 0.2]))
    (folder / "samples").mkdir()
    for n in range(2):
        picture(folder / f"samples/{n}.png", 90 + 60 * n)
    said = np.zeros((48, 64), bool)
    said[24:, :32] = True
    truth = {"answer": None, "boxes": None, "quads": None, "size": [640, 480]}
    masks = {"truth": runs_of(TRUE), "answer": runs_of(said)}
    common = {"read": None, "image": "samples/0.png", "image_size": [64, 48]}
    masked = sample(1, 0, SAID, task="segmentation", truth=truth, masks=masks, **common)
    bare = sample(1, 0, "no", task="segmentation", truth=truth, masks=masks | {"answer": None}, **common)
    pair = {"further": ["samples/1.png", "../../etc/passwd"], "dates": ["2019-04", "2021-06"]}
    samples(
        folder, [masked, bare, sample(1, 1, "a house", task="caption", truth=truth | {"answer": "a"}, **common, **pair)]
    )
    return folder


def test_samples_of_a_run(run):
    first, second = kept.read(Folder(run, "r"), 10)
    assert first.mask.size == (64, 48) and (inside(first.mask.path, first.mask.size) == TRUE).all()
    said = {one.answer: one.mask for one in first.said}
    assert inside(said[SAID].path, (64, 48))[24:, :32].all() and said["no"] is None
    assert second.further == [(2, run / "samples/1.png")]  # what is outside of the run is none of its pictures
    assert second.dates == ["2019-04", "2021-06"] and second.mask is None


def test_predictions_of_an_evaluation(tmp_path):
    """In the row's form, or the recipe's; of an answer that is no mask, none."""
    folder = evaluation(tmp_path / "eval", {"segmentation/giou": 0.5}, inside="text", prompt={"masks": "grid32"})
    names = [picture(tmp_path / f"{n}.png", 90) for n in range(12)]
    said = ((SAID, "rscovlm"), ("<seg>" + "1*32;" * 32 + "</seg>", None), ("no", "rscovlm"))
    common = {"mask": runs_of(TRUE), "size": (64, 48), "resized": (56, 56), "image": names[0], "images": names}
    common["dates"] = [f"20{10 + k}" for k in range(12)]
    rows = [
        Prediction(str(n), "s", "segmentation", text, "the dam", form=form, **common)
        for n, (text, form) in enumerate(said)
    ]
    predictions.write(folder / "predictions.jsonl", rows)
    found = kept.read(Folder(folder, "e", recipe={"inside": "text", "prompt": {"masks": "grid32"}}), 10)
    shown = [one.said[0].mask for one in found]
    assert inside(shown[0].path, shown[0].size)[24:, :32].all() and inside(shown[0].path, (64, 48)).sum() == 24 * 32
    assert shown[1] == ((64, 48), "M0 0H64V48H0Z") and shown[2] is None
    assert all(one.mask == outlines.outlined(runs_of(TRUE)) for one in found)
    numbers = [number for number, _ in found[0].further]
    assert len(numbers) == 7 and (numbers[0], numbers[-1]) == (2, 12) and found[0].dates[11] == "2021"
    assert found[0].further[-1][1] == Path(names[11])


def test_a_mask_that_is_none_is_told_of(run):
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    rows[0]["masks"]["truth"] = {"size": [48, 64], "counts": "?"}
    samples(run, rows)
    with pytest.raises(DataError, match="samples.jsonl, line 1, mask: .*expected COCO's compressed text"):
        kept.read(Folder(run, "r"), 10)


@pytest.mark.skipif(chromium() is None, reason="no chromium here")
def test_the_page_draws_them(run, tmp_path):
    file = tmp_path / "r.html"
    file.write_text(page.html(page.Asked(labels.curves([str(run)], True))), encoding="utf-8")
    assert "Masks likewise, lightly filled." in file.read_text()
    with Browser() as browser:
        opened = browser.open(file, 1280, 844, False)
        opened.settle()
        opened.evaluate("document.getElementById('samples').scrollIntoView(); new Promise((d) => setTimeout(d, 300))")
        kinds = "[...document.querySelectorAll('.card svg path')].map((one) => one.getAttribute('class'))"
        assert opened.evaluate(kinds) == ["halo", "true", "halo", "stated"]
        # where the true mask is filled: its middle half, of the picture as it is laid out
        box = (
            "(name) => { const b = document.querySelector(name).getBoundingClientRect();"
            "return [b.x, b.y, b.width, b.height]; }"
        )
        x, y, width, height = opened.evaluate(f"({box})('.card img')")
        left, top, wide, high = opened.evaluate(f"({box})('.card path.true')")
        assert [left - x, top - y, wide, high] == pytest.approx([width / 4, height / 4, width / 2, height / 2], abs=2.5)
        captions = "[...document.querySelectorAll('.card .several figcaption')].map((one) => one.textContent)"
        assert opened.evaluate(captions) == ["1 · 2019-04", "2 · 2021-06"]
        assert opened.evaluate("[...document.images].every((image) => image.naturalWidth === 64)")
        assert opened.faults == [] and opened.requests == []
