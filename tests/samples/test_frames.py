"""The frame of boxes that a layout leaves open: what a source declares, and files in another frame told apart."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import samples
from samples import Faults
from samples.mixture import count, draw
from samples.readers.frames import FRAMES, Frames, in_pixels
from samples.readers.rows import Place
from samples.sections import DataSection, SourceSection
from tests.support.doctored import doctor, put_data
from tests.support.sample_rows import dump, row
from vlm.common.errors import DataError
from vlm.masks import rings_to_runs

SIZE = (400, 200)
SAME = {
    "pixel": [40, 50, 200, 200],
    "unit": [0.1, 0.25, 0.5, 1.0],
    "percent": [10, 25, 50, 100],
    "per_mille": [100, 250, 500, 1000],
    "xywh": [40, 50, 160, 150],
}
"""One box of a 400 x 200 image."""


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    Image.new("RGB", (2000, 1600)).save(tmp_path / "large.png")
    return tmp_path


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("stated", [True, False])
def test_a_declared_frame_becomes_pixels(folder, frame, stated):
    more = {"size": list(SIZE)} if stated else {}
    path = dump(folder / "mine.jsonl", [row(boxes=[SAME[frame]], **more)] * 60)
    for verify in (True, False):
        found = list(samples.read(path, frame=frame, verify_images=verify))
        assert len(found) == 60 and found[0].boxes == [pytest.approx([40, 50, 200, 200])] and found[0].size == SIZE


@pytest.mark.parametrize(
    ("frame", "quad"),
    [
        ("unit", [0.1, 0.1, 0.5, 0.1, 0.5, 0.5, 0.1, 0.5]),
        ("per_mille", [100, 100, 500, 100, 500, 500, 100, 500]),
        ("xywh", [40, 20, 200, 20, 200, 100, 40, 100]),  # corners have no other way to be written
    ],
)
def test_quadrilaterals_follow(folder, frame, quad):
    path = dump(folder / "mine.jsonl", [row(boxes=..., quads=[quad])])
    (found,) = samples.read(path, frame=frame)
    assert found.quads == [pytest.approx([40, 20, 200, 20, 200, 100, 40, 100])]
    assert found.boxes == [pytest.approx([40, 20, 200, 100])]


@pytest.mark.parametrize(
    ("frame", "ring"), [("unit", [0.1, 0.1, 0.5, 0.1, 0.5, 0.5]), ("percent", [10, 10, 50, 10, 50, 50])]
)
def test_rings_of_masks_follow(folder, frame, ring):
    """In a declared frame; in one that is not, they are doubted as boxes are."""
    rows = [row(task="segmentation", boxes=..., mask=[ring], answer=...)] * 60
    path = dump(folder / "mine.jsonl", rows)
    expected = rings_to_runs([[40, 20, 200, 20, 200, 100]], SIZE)
    assert {json.dumps(one.mask) for one in samples.read(path, frame=frame)} == {json.dumps(expected)}
    with pytest.raises(DataError, match=f"frame: {frame}" if frame == "percent" else "hold no pixel"):
        list(samples.read(path))


def test_other_open_layouts(folder):
    turns = [{"from": "human", "value": "<image>\nthe dam"}]
    path = dump(folder / "share.json", [{"messages": turns, "images": ["a.png"], "boxes": [SAME["unit"]]}])
    (found,) = samples.read(path, "sharegpt", task="grounding", frame="unit")
    assert found.boxes == [pytest.approx(SAME["pixel"])]
    asked = {"prompt": "the dam", "image": "a.png", "task": "grounding", "boxes": [SAME["xywh"]]}
    (found,) = samples.read(dump(folder / "trl.jsonl", [asked]), "trl", frame="xywh")
    assert found.boxes == [pytest.approx(SAME["pixel"])]


@pytest.mark.parametrize(
    ("said", "boxes"),
    [
        ("<|box_start|>(100,250),(500,1000)<|box_end|>", 1),
        ("<|box_start|>( 100.0, 250 ), (500,1000)<|box_end|>, <|box_start|>(100,250),(500,1000)<|box_end|>", 2),
        ("<|box_start|>(100,250),(500,1000)<|box_end|><|box_start|>(100,250),(500,1000)<|box_end|>", 2),
        ("[[100,250,500,1000]]", 1),
        ("<|box_start|>(100,250),(500,1000)", 0),
        ("<|box_start|>(100,250),(500,1000)<|box_end|> or so", 0),
        ("<|box_start|>(100,2.5.0),(500,1000)<|box_end|>", 0),
        ("(100,250),(500,1000)", 0),  # its published reward reads such a truth as none
    ],
)
def test_scorers_truths_in_both_of_its_forms(folder, said, boxes):
    asked = {"problem": "the dam", "answer": said, "type": "iou", "image": "a.png"}
    path = dump(folder / "rl.jsonl", [asked])
    if boxes:
        (found,) = samples.read(path, "scorers_rl_per_mille")
        assert found.boxes == [pytest.approx(SAME["pixel"])] * boxes
        return
    with pytest.raises(DataError, match="field 'answer': found"):
        list(samples.read(path, "scorers_rl_per_mille"))


def test_a_layout_that_fixes_its_frame_takes_no_other(folder):
    path = dump(folder / "vg.json", [{"image": "a.png", "conversations": []}])
    with pytest.raises(
        DataError, match=r"frame: unit, but vg_dior fixes the frame .* leave `frame` out .*nadir, shareg"
    ):
        samples.read(path, "vg_dior", frame="unit")
    with pytest.raises(ValueError, match="frame = 'unit', but vhm fixes the frame"):
        SourceSection(path=str(path), format="vhm", frame="unit")
    with pytest.raises(DataError, match="found the frame 'cm', expected one of pixel, unit"):
        samples.read(path, "nadir", frame="cm")
    SourceSection(path=str(path), format="nadir", frame="unit")


@pytest.mark.parametrize(
    ("boxes", "frame", "message"),
    [
        ([[0.5, 0.5, 0.1, 0.9]], "unit", r"\[200.0, 100.0, 40.0, 180.0\], inverted .*\(in pixels, from frame: unit\)"),
        ([[0.5, 0.5, 1.1, 0.9]], "unit", r"expected a box inside the image.*\(in pixels, from frame: unit\)"),
        ([[1, 2, 3]], "unit", r"found \[1, 2, 3\], expected a list of boxes"),
        ("1,2", "xywh", "found '1,2', expected a list of boxes"),
        ([[350, 0, 60, 10]], "xywh", r"found \[350.0, 0.0, 410.0, 10.0\]"),
    ],
)
def test_what_is_wrong_in_a_declared_frame_is_refused(folder, boxes, frame, message):
    with pytest.raises(DataError, match=message):
        list(samples.read(dump(folder / "mine.jsonl", [row(boxes=boxes)]), frame=frame))


# --- told apart


def boxes_in(rng: np.random.Generator, size: tuple[int, int], many: int) -> np.ndarray:
    """(many, 4) boxes in pixels: two random corners, at least 1% of the image apart."""
    ends = np.sort(rng.random((many, 2, 2)) * 0.98, axis=1)
    ends[:, 1] += 0.02
    return (ends * size).reshape(many, 4)


def written(boxes: np.ndarray, frame: str, size: tuple[int, int]) -> list[list[float]]:
    """By hand, not by `vlm.boxes`."""
    if frame == "xywh":
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    extent = {"unit": 1, "percent": 100, "per_mille": 1000}.get(frame)
    return (boxes if extent is None else boxes / np.tile(size, 2) * extent).tolist()


def put(folder, frame: str, many: int, image: str = "large.png", size=(2000, 1600)):
    boxes = written(boxes_in(np.random.default_rng(0), size, many), frame, size)
    return dump(folder / "mine.jsonl", [row(images=[image], boxes=[box], id=str(n)) for n, box in enumerate(boxes)])


LOOKS = {"unit": "0–1", "percent": "0–100", "per_mille": "0–1000", "xywh": "xywh"}


@pytest.mark.parametrize("frame", LOOKS)
def test_fifty_boxes_of_another_frame_are_an_error_and_ten_a_warning(folder, frame, caplog):
    path = put(folder, frame, 60)
    with pytest.raises(DataError, match=f"these look like {LOOKS[frame]} .*`frame: {frame}`, or `frame: pixel`"):
        list(samples.read(path))  # of xywh the first inverted row, with the reason behind it
    with pytest.raises(DataError, match=f"mine.jsonl: .* boxes, and these look like {LOOKS[frame]}"):
        list(samples.read(path, on_fault="skip"))
    assert len(list(samples.read(path, frame=frame))) == 60
    data = DataSection(train=[SourceSection(path=str(path), limit=10)], on_fault="skip")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        draw(data, "train", 0)
    assert f"these look like {LOOKS[frame]}" in caplog.text  # the limit ended the reading early
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        count(data, "train", 0)
    assert f"these look like {LOOKS[frame]}" in caplog.text
    with pytest.raises(DataError, match="these look like"):
        draw(DataSection(train=[SourceSection(path=str(path))], on_fault="skip"), "train", 0)


def test_pixels_that_are_declared_are_not_doubted(folder, caplog):
    path = put(folder, "unit", 60)
    with caplog.at_level(logging.WARNING):
        assert len(list(samples.read(path, frame="pixel"))) == 60
    assert not caplog.text


def test_the_doctor_names_them(folder, capsys):
    put_data(folder)
    for many, fit in ((60, 1), (10, 0)):
        put(folder, "per_mille", many).rename(folder / "train.jsonl")
        assert doctor(folder) == fit
        report = json.loads((folder / "out" / "report.json").read_text())
        assert any("look like 0–1000" in line for line in report["faults" if many == 60 else "warnings"])
        said = " ".join(capsys.readouterr().out.split())
        assert ("fault:" if many == 60 else "warning:") in said and "`frame: per_mille`" in said


def test_per_mille_on_smaller_pictures(folder):
    """Every second box exceeds a 400 x 200 picture, and none 1,000: the reason stands behind the first fault."""
    path = put(folder, "per_mille", 60, "a.png", SIZE)
    with pytest.raises(
        DataError, match=r"expected a box inside the image.* In these \d+ boxes, and these look like 0–1000"
    ):
        list(samples.read(path))


def test_a_mixture_of_frames_is_a_warning(folder, caplog):
    boxes = [[0.1, 0.1, 0.5, 0.5]] * 60 + [[10, 10, 1500, 1200]] * 5
    path = dump(folder / "mine.jsonl", [row(images=["large.png"], boxes=[box]) for box in reversed(boxes)])
    with caplog.at_level(logging.WARNING):
        assert len(list(samples.read(path))) == 65
    assert "60 of 65 boxes are within 0–1: is the file of several frames?" in caplog.text


def judged(sizes: list[tuple[int, int]], boxes: list[list[float]]) -> Frames:
    found, nowhere = Frames(), Place.__new__(Place)
    for size, box in zip(sizes, boxes, strict=True):
        found.see({"size": list(size), "boxes": [box]}, nowhere)
    return found


def simulated(rng: np.random.Generator, how: str) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Picture sizes and boxes in pixels of one file; its pictures are alike in half of the files."""
    many = int(rng.integers(50, 120))
    low, high = sorted(rng.integers(30, 6000, 2).tolist())
    sizes = rng.integers(low, high + 1, (many, 2))
    if rng.random() < 0.5:
        sizes[:] = sizes[0]
    if how == "corners":
        parts = np.stack([boxes_in(rng, (1, 1), 1)[0] for _ in range(many)])
    else:  # small objects, spread evenly or kept to the middle
        centre = rng.random((many, 2)) if how == "small" else np.clip(rng.normal(0.5, 0.2, (many, 2)), 0, 1)
        half = rng.uniform(0.005, 0.05, (many, 2))
        parts = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1)
    boxes = parts * np.tile(sizes, 2)
    return [(int(w), int(h)) for w, h in sizes], np.round(boxes) if rng.random() < 0.5 else boxes


@pytest.mark.parametrize("how", ["corners", "small", "middle"])
def test_at_most_one_in_a_hundred_files_in_pixels_is_doubted(how):
    """1,000 files of 50 boxes and more, looked at after each box, as reading does."""
    rng, alarms, doubts = np.random.default_rng(7), 0, 0
    for _ in range(1000):
        sizes, boxes = simulated(rng, how)
        found, nowhere, alarm = Frames(), Place.__new__(Place), False
        for size, box in zip(sizes, boxes.tolist(), strict=True):
            found.see({"size": list(size), "boxes": [box]}, nowhere)
            alarm = alarm or found.certain
        alarms += alarm
        doubts += bool(str(found))
    assert alarms <= 10 and doubts <= 10, (alarms, doubts)


@pytest.mark.parametrize("frame", ["unit", "percent", "per_mille", "xywh"])
def test_files_in_another_frame_are_found(frame):
    """On pictures of 1,200 pixels and more, where every frame can be seen from 50 boxes."""
    rng = np.random.default_rng(3)
    for _ in range(100):
        size = (int(rng.integers(1200, 5000)), int(rng.integers(1200, 5000)))
        found = judged([size] * 50, written(boxes_in(rng, size, 50), frame, size))
        assert found.looks == frame and found.certain


@settings(max_examples=200)
@given(st.sampled_from(FRAMES), st.lists(st.integers(0, 100), min_size=4, max_size=4), st.data())
def test_there_and_back(frame, numbers, data):
    """Any box of any picture, written by hand in a frame and read in it, is the box."""
    size = (data.draw(st.integers(1, 4000)), data.draw(st.integers(1, 4000)))
    x1, x2, y1, y2 = *sorted(numbers[:2]), *sorted(numbers[2:])
    box = [x1 / 100 * size[0], y1 / 100 * size[1], x2 / 100 * size[0], y2 / 100 * size[1]]
    (said,) = written(np.array([box]), frame, size)
    read = in_pixels({"boxes": [said], "size": list(size)}, frame, Place.__new__(Place))
    assert read["boxes"] == [pytest.approx(box, abs=1e-6)]


@settings(max_examples=200)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=9)))
def test_whatever_stands_for_boxes_is_left_to_the_checks(value):
    faults = Faults()
    for frame in FRAMES:
        in_pixels({"boxes": value, "quads": value, "size": [9, 9]}, frame, Place.__new__(Place))
    faults.frames.see({"boxes": value, "quads": value, "size": [9, 9]}, Place.__new__(Place))
