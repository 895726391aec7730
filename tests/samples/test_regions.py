"""True regions of a zoom: read, cut to the image, checked, carried to rewards and predictions, never shown."""

from __future__ import annotations

import json

import pytest

import samples
from evals import predictions
from samples import Faults, Sample, fingerprints
from samples.columns import Columns
from samples.facts import CODEC
from samples.readers.keys import slip
from samples.rows import chat_rows, prompt_rows
from samples.sample import write
from samples.store import Drawn
from tests.support.sample_rows import dump, put_images, row
from vlm.common.errors import DataError
from vlm.sections import PromptSection

REGIONS = [[10, 20, 90, 80], [-5, 50, 260, 120]]
"""Of a picture of 200 x 100: the second one overhangs it at three sides."""
CUT = [[10.0, 20.0, 90.0, 80.0], [0.0, 50.0, 200.0, 100.0]]


@pytest.fixture
def folder(tmp_path):
    return put_images(tmp_path)


def question(**changes):
    return row(task="vqa", boxes=..., answer="3", **changes)


@pytest.mark.parametrize("verify", [True, False])
def test_regions_are_cut_to_the_image_and_that_is_counted(folder, verify):
    rows = [question(regions=REGIONS), question(regions=CUT), question(regions=[]), question()]
    faults = Faults()
    found = list(samples.read(dump(folder / "rows.jsonl", rows), faults=faults, verify_images=verify))
    assert [one.regions for one in found] == [CUT, CUT, None, None]
    assert found[0].size == (200, 100) and found[0].boxes is None
    assert faults.cut == 1 and "in 1 of the kept rows, boxes or regions were cut to the image" in str(faults)


@pytest.mark.parametrize(
    ("kind", "regions", "message"),
    [
        ("box_outside", [[200, 20, 240, 80]], "a region that meets the image of 200 x 100"),
        ("box_outside", [[10, 20, 90, 80], [10, -40, 90, 0]], r"found \[10.0, -40.0, 90.0, 0.0\]"),
        ("box_outside", [[10, 20, float("inf"), 80]], "finite pixel coordinates"),
        ("box_inverted", [[90, 20, 10, 80]], r"\[90.0, 20.0, 10.0, 80.0\], inverted or empty, expected x1 < x2"),
        ("box_inverted", [[10, 20, 90, 20]], "inverted or empty"),
        ("wrong_type", [10, 20, 90, 80], "found 10, expected a list of regions"),
        ("wrong_type", [[10, 20, 90]], "a list of regions"),
        ("wrong_type", "all", "found 'all'"),
    ],
)
def test_faulty_regions(folder, kind, regions, message):
    path = dump(folder / "rows.jsonl", [question(regions=regions), question()])
    with pytest.raises(DataError, match=rf"rows.jsonl, line 1, field 'regions': .*{message}"):
        list(samples.read(path))
    faults = Faults()
    assert len(list(samples.read(path, on_fault="skip", faults=faults))) == 1 and faults.kinds == {kind: 1}


def test_regions_need_a_picture(folder):
    path = dump(folder / "rows.jsonl", [question(images=[], size=[200, 100], regions=CUT)])
    with pytest.raises(DataError, match="field 'images': found none, expected an image: regions are of the first"):
        list(samples.read(path))


def test_other_layouts_that_have_them(folder):
    asked = {"prompt": "How many?", "image": "a.png", "task": "vqa", "answer": "3", "regions": REGIONS}
    assert next(samples.read(dump(folder / "trl.jsonl", [asked]), "trl")).regions == CUT
    turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "3"}]
    shared = {"messages": turns, "images": ["a.png"], "regions": REGIONS}
    assert next(samples.read(dump(folder / "share.json", [shared]), "sharegpt")).regions == CUT


@pytest.mark.parametrize(
    ("frame", "region"),
    [
        ("unit", [0.05, 0.2, 0.45, 0.8]),
        ("percent", [5, 20, 45, 80]),
        ("per_mille", [50, 200, 450, 800]),
        ("xywh", [10, 20, 80, 60]),
    ],
)
def test_regions_are_in_the_frame_of_the_source(folder, frame, region):
    path = dump(folder / "rows.jsonl", [question(regions=[region])])
    assert next(samples.read(path, frame=frame)).regions == [pytest.approx(CUT[0])]


def test_regions_that_look_like_fractions_are_doubted(folder):
    path = dump(folder / "rows.jsonl", [question(regions=[[0.05, 0.2, 0.45, 0.8]])] * 60)
    with pytest.raises(DataError, match="look like 0–1 .* `frame: unit`"):
        list(samples.read(path))


def test_a_region_of_the_world_is_a_column_and_no_slip(folder):
    fields = ("regions", "answer")
    assert [slip(key, fields) for key in ("region", "reasons", "regoins", "Regions")] == [
        None, None, "regions", "regions",
    ]  # fmt: skip
    assert next(samples.read(dump(folder / "rows.jsonl", [question(region="Europe")]))).columns == {"region": "Europe"}


def test_written_and_kept_as_they_were(folder):
    sample = next(samples.read(dump(folder / "rows.jsonl", [question(regions=REGIONS)])))
    write(folder / "again.jsonl", [sample])
    assert json.loads((folder / "again.jsonl").read_text())["regions"] == CUT
    again = next(samples.read(folder / "again.jsonl"))
    assert again.regions == CUT
    assert list(Drawn.of([again], CODEC)) == [again]


def test_rewards_get_them_and_no_prompt_has_them(folder):
    path = dump(folder / "rows.jsonl", [question(regions=REGIONS), question()])
    section = PromptSection(style="direct")
    rows = prompt_rows(samples.read(path), section)
    assert [one["regions"] for one in rows] == [CUT, None]
    assert rows[0]["prompt"] == rows[1]["prompt"]
    assert (
        chat_rows(samples.read(path), section)[0]["messages"] == chat_rows(samples.read(path), section)[1]["messages"]
    )
    assert Columns(samples.read(path)).by_task == {"vqa": {"answer", "regions"}}


def test_a_row_without_regions_keeps_its_digest(folder):
    """The digest of `Sample([], [], "caption")` as it was before the field was there."""
    plain = Sample([], [], "caption")
    digests = [
        fingerprints.of_rows([one], folder)
        for one in (plain, Sample([], [], "caption", regions=CUT), Sample([], [], "caption", regions=CUT[:1]))
    ]
    assert digests[0] == "cf38b87cf6161cc5584ee251722b19614d75c917d13ac0e946d1a1589fbb94b9" and len(set(digests)) == 3


def test_predictions_have_them(folder, tmp_path):
    sample = next(samples.read(dump(folder / "rows.jsonl", [question(regions=REGIONS)])))
    said = predictions.from_sample(sample, "3")
    assert said.regions == CUT
    predictions.write(tmp_path / "predictions.jsonl", [said])
    assert predictions.read(tmp_path / "predictions.jsonl") == [said]
    faulty = json.loads(predictions.line(said)) | {"regions": [[1, 2, 3]]}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(faulty) + "\n")
    with pytest.raises(DataError, match=r"field 'regions': found \[1, 2, 3\], expected \[x1, y1, x2, y2\]"):
        predictions.read(tmp_path / "predictions.jsonl")
