"""What a run of GRPO with tools leaves to be looked at, and how the HTML report shows it."""

from __future__ import annotations

import json

import pandas
import pytest
from PIL import Image

from stage.tracking import overlays
from studies.report import page
from studies.report.runs import labels, samples
from studies.report.runs.folders import read
from tests.support.runs import logged_runs
from tests.support.runs.logged_runs import SAID, TALKS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("turns")]
SHOWN = [[[0, 0, 112, 112]], [], [], [[112, 112, 224, 224]]]
"""Regions of TALKS: per mille of 224 x 224 pixels."""
SPOKEN = [2, 1, 2, 2]
"""Turns of the model."""


@pytest.fixture(scope="module")
def folder(tiny_model, demo_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("shown") / "turns"
    logged_runs.conversed(tiny_model, demo_data, out)
    return out / "run"


def test_trls_table_says_turns_and_regions(folder):
    """TRL writes a file a step, here that of the evaluation over that of training: eight completions."""
    tables = [pandas.read_parquet(path) for path in sorted((folder / "completions").glob("*.parquet"))]
    assert sum(map(len, tables)) == 8
    for place, row in enumerate(row for table in tables for row in table.to_dict("records")):
        said, regions = TALKS[place % 4], SHOWN[place % 4]
        turns, crops = json.loads(row["turns"]), json.loads(row["crops"])
        assert [turn["content"] for turn in turns if turn["role"] == "assistant"] == said[: SPOKEN[place % 4]]
        assert [crop["box"] for crop in crops] == regions
        assert all((crop["turn"], crop["image"]) == (1, 0) and len(crop["size"]) == 2 for crop in crops)
        assert row["image_file"] and row["task"] == "grounding"
        if len(turns) == 1:
            assert row["completion"] == SAID[0]
            continue
        told = "<image>This is that region. Go on." if regions else turns[1]["content"]
        assert row["completion"] == f"assistant: {said[0]}\ntool: {told}\nassistant: {said[1]}"
        assert regions or "outside of the picture" in told


def test_kept_samples_hold_the_chain_and_its_pictures(folder):
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(8))
    for row in rows:
        place = row["row"] % 4
        assert row["regions"] == [[10, 10, 20, 20]] and len(row["turns"]) == 2 * SPOKEN[place] - 1
        assert row["answer"] == ("no" if place < 3 else None)  # of the last turn, which is a call of the fourth
        assert [crop["box"] for crop in row["crops"]] == SHOWN[place]
        for crop in row["crops"]:
            assert crop["of"] == [224, 224]
            with Image.open(folder / crop["file"]) as picture:
                assert picture.size == (112, 112)
        assert overlays.boxes_of(row).get("zoom", []) == SHOWN[place]


def test_the_report_shows_the_same_from_either_table(folder, monkeypatch):
    text = page.html(page.Asked(labels.curves([str(folder)], False)))
    assert "Turns and zooms" in text and "blue and numbered" in text
    kept = samples.read(read(folder), 100)
    monkeypatch.setattr(samples, "SAMPLES", "none.jsonl")
    completed = samples.read(read(folder), 100)
    for one in (*kept, *completed):
        assert one.size in ([224, 224], (224, 224)) and len(one.said) == 4
        found = {said.turns[0]["content"] if said.turns else said.text: said for said in one.said}
        assert found.keys() == {turns[0] for turns in TALKS}
        for turns, regions in zip(TALKS, SHOWN, strict=True):
            assert [crop.box for crop in found[turns[0]].crops] == regions
            assert all(crop.picture is not None for crop in found[turns[0]].crops)
