"""TEOChatlas's rows: order in time, frames, boxes, polygons, tasks. Expected values by hand; pictures are 40 x 20."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

import samples
from samples import Faults
from samples.mixture import tables
from samples.readers.formats import detect
from samples.readers.look import Look
from samples.readers.temporal import footprints, series
from samples.sections import DataSection, SourceSection
from tests.support.layouts import build
from vlm import masks
from vlm.common.errors import DataError

EVAL = "TEOChatlas/eval"
SEQUENCE = "This is a sequence of satellite images capturing the same location at different times: <video>\n"
SHOWN = "This is a sequence of satellite images capturing the same location at different times in chronological order: "


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("teochatlas") / "data")


@pytest.fixture
def folder(tmp_path):
    for name in "abcde":
        Image.new("RGB", (40, 20)).save(tmp_path / f"{name}.png")
    return tmp_path


def put(folder, **changes):
    row = {"id": "1", "video": ["a.png", "b.png", "c.png"], "task": "question_answering", "dataset": "s2_sre_qa"}
    turns = changes.pop("turns", (SEQUENCE + "What?", "A road."))
    row["conversations"] = [{"from": who, "value": said} for who, said in zip(("human", "gpt"), turns, strict=True)]
    path = folder / "rows.json"
    path.write_text(json.dumps([row | changes]))
    return path


def one(folder, frames=None, **changes):
    faults = Faults()
    (found,) = samples.read(put(folder, **changes), "teochatlas", frames=frames, faults=faults)
    return found, [text for _, text in faults.notes]


def names(sample):
    return [image.rsplit("/", 1)[1] for image in sample.images]


def test_boxes_and_polygons_of_the_fixture(root):
    path, faults = root / EVAL / "xBD_Change_Detection_Localization.json", Faults()
    assert detect(Look(path)).name == "teochatlas"
    first, last = samples.read(path, faults=faults)
    assert names(first) == ["a_pre.png", "a_post.png"] and first.dates == ["2017-08-28", "2018-09-11"]
    assert [turn["content"] for turn in first.messages] == ["all the buildings"]  # the order how to write boxes is gone
    assert (first.task, first.boxes) == ("grounding", [[0, 0, 20, 10], [30, 10, 40, 20]])
    # 256 x 256 → 40 x 20: 127 is 19.8 and 9.9, and Pillow's fill takes both ends in
    true = masks.pixels_of(first.mask)
    assert true.shape == (20, 40) and true[:10, :20].all() and not true[:10, 22:].any() and true[11:, 31:].all()
    assert last.boxes == [[10, 0, 30, 10]] and last.dates is None
    assert dict(faults.left_out) == {"no_box": 1}
    (said,) = [text for _, text in faults.notes if "order" in text]
    assert said.endswith(f"1 {series.REORDERED}")


def test_turns_without_from_and_the_mask_of_damage(root):
    first, second = samples.read(root / EVAL / "xBD_Change_Detection_Classification.json")
    assert (first.task, first.answer, first.regions) == ("classification", "Minor damage", [[0, 0, 20, 10]])
    assert "[0, 0, 50, 50]" in first.messages[0]["content"]  # a box in a question stands as it is
    assert (second.answer, [turn["role"] for turn in second.messages]) == ("Destroyed", ["user", "assistant"])
    assert masks.area(second.mask) < masks.area(first.mask)


def test_frames_are_bounded_and_it_is_said(root):
    path, faults = root / EVAL / "fMoW_High_Res.json", Faults()
    (sample,) = samples.read(path, frames=3, faults=faults)
    assert names(sample) == ["4.png", "3.png", "1.png"]  # of 2013, 2014, 2015, 2016: steps 0, 1.5 → 2, 3
    assert sample.dates == ["2013-12-31", "2015-07-09", "2016-01-05"]
    assert sample.messages[0]["content"].startswith(f"{SHOWN}<image><image><image>\nWhich class")
    assert any(text.endswith("1 rows show 3 of their pictures (frames: 3): first, last, and between")
               for _, text in faults.notes)  # fmt: skip
    assert len(next(samples.read(path)).images) == len(next(samples.read(path, frames=8)).images) == 4


def test_kinds_of_answers(root):
    yes, place, region = samples.read(root / EVAL / "S2Looking_SRE_QA.json")
    assert (yes.task, yes.answer, yes.kind) == ("vqa", "Yes", "question_answering")
    assert place.messages == [{"role": "user", "content": "the new building at the left"}]
    assert (region.answer, region.regions) == ("In a building was built.", [[0, 0, 10, 10]])


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"dataset": "fMoW_Low_Res", "task": "temporal_scene_classification"}, "classification"),
        ({"dataset": "UCMerced", "task": "scene"}, "classification"),
        ({"dataset": "QFabric_RQA2", "task": "region_based_question_answering"}, "classification"),
        ({"dataset": "QFabric_TRE_RTQA", "task": "region_based_temporal_question_answering"}, "vqa"),
        ({"dataset": "CDVQA", "task": "change_to_what"}, "vqa"),
        ({"dataset": "xBD", "task": "region_captioning"}, "caption"),
        ({"dataset": "xBD", "task": "disaster_classification"}, "classification"),
        ({"dataset": "xBD", "task": "something"}, "open_ended"),
    ],
)
def test_tasks(folder, row, task):
    sample, notes = one(folder, **row)
    assert (sample.task, sample.kind) == (task, row["task"])
    assert any("no published evaluator scores" in text for text in notes) == (task == "open_ended")


def test_dates_of_three_spellings_sort_stably(folder):
    found, notes = one(folder, timestamp=["2019-4-2", "2018-01-01", "2019-04-02"])
    assert (names(found), found.dates) == (["b.png", "a.png", "c.png"], ["2018-01-01", "2019-04-02", "2019-04-02"])
    metadata = [{"timestamp": day} for day in ("2018-01-01", "2019-01-01", "2019-01-02")]
    found, notes = one(folder, metadata=metadata)
    assert (names(found), found.dates, notes) == (["a.png", "b.png", "c.png"], [m["timestamp"] for m in metadata], [])
    assert series.day("2019", "x") == "2019" and series.day(" 2019-4 ", "x") == "2019-04"
    found, notes = one(folder)
    assert (names(found), found.dates, notes) == (["a.png", "b.png", "c.png"], None, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestamp": ["2019-01-01"]}, "field 'timestamp': found 1 dates for 3 pictures, expected one for each"),
        ({"timestamp": ["2019-01-01", "soon", "2019-01-02"]}, "field 'timestamp': found 'soon', expected a date"),
        ({"timestamp": ["2019-01-01", "2019-02-30", "2019-03-01"]}, "found '2019-02-30' .*expected a date"),
        ({"timestamp": ["2019-01-01", None, "2019-03-01"]}, "field 'timestamp': found None, expected a date"),
        ({"timestamp": "2019-01-01"}, "field 'timestamp': found '2019-01-01', expected a list"),
        ({"video": ["a.png", "gone.png"]}, "field 'images': found .*gone.png.*expected an image file that exists"),
        ({"video": ["a.png", "../x.png"]}, "field 'video': found '../x.png', expected a name below"),
        ({"video": ["x/y/TEOChatlas/eval/../../z.png"]}, "field 'video': found '../../z.png', expected a name below"),
        ({"video": ["TEOChatlas/eval/a/../b.png", "/etc/a.png"]}, "field 'video': found '/etc/a.png', expected a name"),
        ({"video": []}, "field 'video': found .*expected a list of picture files"),
        ({"turns": ("<video><video>\nWhat?", "x")}, "found 2 of <video>, expected one, or one for each of 3 pictures"),
        ({"turns": ("What?", "[10, 10, 5, 20]")}, "field 'boxes': found .*inverted"),
        ({"turns": ("What?", "[10, 10, 120, 20]")}, "field 'boxes': found .*expected a box inside the image"),
        ({"task": "change_detection_localization", "turns": ("What?", "Here: [1, 2, 3, 4]")}, "boxes in percent alone"),
        ({"turns": ("What?", "[1, 2, 3, 4]"), "polygon": "POLYGON ((0 0, 300 0, 3 3, 0 0))"}, r"the corner \(300, 0\)"),
        ({"turns": ("What?", "[1, 2, 3, 4]"), "polygon": "LINESTRING (0 0, 3 3)"}, "found a LineString"),
        ({"turns": ("What?", "[1, 2, 3, 4]"), "polygon": "nothing"}, "field 'polygon': found .*a polygon as WKT"),
    ],
)  # fmt: skip
def test_faults_name_their_field(folder, changes, message):
    with pytest.raises(DataError, match=message):
        one(folder, **changes)


def test_what_is_left_out(folder):
    faults = Faults()
    with pytest.raises(DataError, match="all 1 rows are faulty or ask nothing; .*names 'image 3'"):
        list(samples.read(put(folder, turns=("When? See image 3. <video>", "x")), frames=2, faults=faults))
    assert dict(faults.left_out) == {"frames": 1}
    with pytest.raises(DataError, match="text with boxes inside"):
        list(samples.read(put(folder, turns=("What?", "A ship at [1, 2, 3, 4]."))))


def test_frames_are_for_series(folder):
    with pytest.raises(DataError, match="found frames: 1, expected 2 at least"):
        samples.read(put(folder), frames=1)
    (folder / "own.jsonl").write_text('{"images": ["a.png"], "question": "What?", "task": "vqa", "answer": "x"}')
    with pytest.raises(DataError, match="frames: 3, but rows of nadir are no series; leave `frames` out .*teochatlas"):
        samples.read(folder / "own.jsonl", frames=3)
    SourceSection(path="x", format="teochatlas", frames=8).check()
    with pytest.raises(ValidationError, match="frames = 8, but rows of captions are no series"):
        SourceSection(path="x", format="captions", frames=8).check()
    with pytest.raises(ValidationError, match="frames = 1, expected 2 at least"):
        SourceSection(path="x", frames=1).check()


def test_rows_that_are_kept_for_later_starts_depend_on_frames(root, tmp_path):
    """A table of all pictures is not taken for one of two; what was told of a row is told again."""
    path = str(root / EVAL / "fMoW_High_Res.json")
    for frames, count in ((None, 4), (2, 2), (3, 3), (2, 2)):
        data = DataSection(cache=str(tmp_path), train=[SourceSection(path=path, frames=frames)])
        table = tables.stored(data.train[0], data, 0)
        assert [len(sample.images) for sample in table] == [count]
        assert any(f"show {count} of" in text for _, text in table.about["notes"]) == (frames is not None)


def test_a_video_file_is_still_refused(folder):
    path = put(folder, video="clip.mp4")
    with pytest.raises(DataError, match="no stage reads videos"):
        list(samples.read(path, "conversations", task="vqa"))


def test_round_trip(root, tmp_path):
    """Written as our own JSONL, rows are the same but for their place."""
    for name in ("xBD_Change_Detection_Localization", "xBD_Change_Detection_Classification", "fMoW_High_Res"):
        read = list(samples.read(root / EVAL / f"{name}.json"))
        samples.write(tmp_path / "own.jsonl", read)
        again = list(samples.read(tmp_path / "own.jsonl"))
        assert again == read


@given(st.integers(1, 60), st.integers(2, 20))
def test_frames_are_spread_evenly(count, most):
    """First and last kept, increasing, and steps that differ by one at most."""
    kept = series.spread(count, most)
    assert len(kept) == min(count, most) and kept[0] == 0 and kept[-1] == count - 1
    steps = np.diff(kept)
    assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_shapes_are_drawn_as_pillow_fills_them():
    """A box of whole pixels has both of its ends: 0 … 2 are three columns."""
    ring = footprints.corners([0, 0, 2 / 256 * 100, 1 / 256 * 100], 100, 100)
    pixels = footprints.drawn([ring])
    assert pixels.shape == (256, 256) and pixels.sum() == 6 and pixels[:2, :3].all()
    assert footprints.rings("POLYGON EMPTY", "polygon") == [] and not footprints.drawn([]).any()
