"""Rows of several objects, of which some are no shape in the picture; true boxes without area; pictures EXIF turns."""

from __future__ import annotations

import json
import shutil

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import samples
from evals.benchmarks.catalogue import find
from evals.predictions import from_sample
from evals.scoring.reading import Reading
from samples import Faults
from samples.readers.detection.objects import meets
from tests.support.doctored import doctor, put_data
from tests.support.sample_rows import dump, put_images, row
from vlm.common.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return put_images(tmp_path)  # 200 x 100


# --- VRSBench: true boxes without area

FLAT = "{<92><0><96><0>}"


def referring(*truths, **more):
    asked = {"image_id": "a.png", "question": "the van", "dataset": "DOTA", "type": "ref"}
    return [asked | {"ground_truth": said, "question_id": n} | more for n, said in enumerate(truths)]


def test_flat_truths_of_the_benchmark_are_read_and_counted_by_its_arithmetic(folder):
    """Truth 92–96 × 0 percent: with +1 it is 5 × 1. Said 92–96 × 0–1 is 5 × 2: IoU 5/10; the same: 1; 0–4: 5/25."""
    path = dump(folder / "VRSBench_EVAL_referring.json", referring(FLAT, FLAT, FLAT, "{<25><40><33><60>}"))
    faults = Faults()
    found = list(samples.read(path, "vrsbench", faults=faults))  # on_fault: error, as benchmarks read
    assert (faults.rows, faults.kept, str(faults)) == (4, 4, "4 rows = 4 kept + 0 skipped")
    assert found[0].boxes == [pytest.approx([184, 0, 192, 0])]
    said = ["{<92><0><96><1>}", "{<92><0><96><0>}", "{<92><0><96><4>}", "{<25><40><33><60>}"]
    asked = [from_sample(sample, text) for sample, text in zip(found, said, strict=True)]
    metrics = find("vrsbench-refer").score(asked, Reading("geochat", "text")).metrics
    assert metrics["grounding/miou"].n == 4
    assert metrics["grounding/miou"].value == pytest.approx((5 / 10 + 1 + 5 / 25 + 1) / 4)
    assert metrics["grounding/acc@0.5"].value == pytest.approx(3 / 4)
    assert metrics["grounding/acc@0.5:plain"].value == pytest.approx(1 / 4)  # no area, no overlap
    assert metrics["grounding/ciou"].value == pytest.approx((5 + 5 + 5 + 9 * 21) / (10 + 5 + 25 + 9 * 21))


def test_inverted_truths_are_faults_as_before(folder):
    for said in ("{<96><0><92><5>}", "{<10><9><20><4>}"):
        path = dump(folder / "VRSBench_EVAL_referring.json", referring(said))
        with pytest.raises(DataError, match="found '{<"):
            list(samples.read(path, "vrsbench"))


def test_unique_and_other_objects_stand_beside_the_total(folder):
    rows = referring("{<0><0><50><50>}", unique=True) + referring("{<0><0><50><50>}", "{<0><0><50><50>}", unique=False)
    rows = [asked | {"question_id": number} for number, asked in enumerate(rows)]
    path = dump(folder / "VRSBench_EVAL_referring.json", rows)
    found = list(samples.read(path, "vrsbench"))
    assert [sample.kind for sample in found] == ["ref,unique", "ref,non-unique", "ref,non-unique"]
    said = ["{<0><0><50><50>}", "{<0><0><50><50>}", "{<60><60><90><90>}"]
    asked = [from_sample(sample, text) for sample, text in zip(found, said, strict=True)]
    metrics = find("vrsbench-refer").score(asked, Reading("geochat", "text")).metrics
    parts = {name: metrics[f"grounding/acc@0.5{name}"] for name in ("", "[unique]", "[non-unique]")}
    assert {name: (one.value, one.n) for name, one in parts.items()} == {
        "": (pytest.approx(2 / 3), 3), "[unique]": (1.0, 1), "[non-unique]": (0.5, 2)
    }  # fmt: skip


# --- objects without area beside others

GOOD, LINE, POINT = [10, 20, 90, 80], [10, 20, 10, 80], [7, 7, 7, 7]


def test_a_flat_object_does_not_refuse_its_row(folder):
    path = dump(folder / "mine.jsonl", [row(boxes=[GOOD, LINE, POINT]), row(), row(boxes=[LINE])])
    faults = Faults()
    found = list(samples.read(path, on_fault="skip", faults=faults))
    assert [sample.boxes for sample in found] == [[GOOD], [GOOD]]
    assert (faults.rows, faults.kept, dict(faults.kinds), dict(faults.objects)) == (
        3, 2, {"box_inverted": 1}, {"flat_object": 2}
    )  # fmt: skip
    assert "flat_object: 2 objects left out of kept rows (first: " in str(faults)
    assert "mine.jsonl, line 1, object 2: [10.0, 20.0, 10.0, 80.0] has no area" in str(faults)
    with pytest.raises(DataError, match=r"line 1, field 'boxes': found \[10.0, 20.0, 10.0, 80.0\], inverted or empty"):
        list(samples.read(path))  # on_fault: error


def test_flat_quadrilaterals_and_their_boxes(folder):
    quad, line = [10, 20, 90, 20, 90, 80, 10, 80], [10, 20, 90, 60, 50, 40, 10, 20]
    path = dump(folder / "mine.jsonl", [row(boxes=[[0, 0, 9, 9], GOOD], quads=[line, quad])])
    faults = Faults()
    (found,) = samples.read(path, on_fault="skip", faults=faults)
    assert (found.quads, found.boxes, dict(faults.objects)) == ([quad], [GOOD], {"flat_object": 1})
    bow_tie = [10, 20, 90, 80, 90, 20, 10, 80]
    path = dump(folder / "mine.jsonl", [row(boxes=..., quads=[quad, bow_tie]), row()])
    faults = Faults()
    assert len(list(samples.read(path, on_fault="skip", faults=faults))) == 1  # it is no line, but no shape either
    assert dict(faults.kinds) == {"box_inverted": 1}


def test_inverted_and_outside_boxes_still_refuse_their_row(folder):
    rows = [row(boxes=[GOOD, [90, 20, 10, 80]]), row(boxes=[GOOD, [10, 20, 900, 80]]), row()]
    faults = Faults()
    (found,) = samples.read(dump(folder / "mine.jsonl", rows), on_fault="skip", faults=faults)
    assert dict(faults.kinds) == {"box_inverted": 1, "box_outside": 1} and not faults.objects


# --- DOTA tiles, whose labels may end outside


def tile(folder, *lines):
    (folder / "labelTxt").mkdir(exist_ok=True)
    (folder / "labelTxt" / "a.txt").write_text("\n".join(lines) + "\n")
    return folder


INSIDE = "10 10 50 10 50 40 10 40"
OVER = "180 20 240 20 240 60 180 60"
BEYOND = "398 716 398 694 464 698 465 718"


def test_objects_beyond_a_tile_leave_the_others(folder):
    lines = (f"{OVER} plane 0", f"{BEYOND} plane 0", f"{BEYOND} plane 1", f"{INSIDE} plane 1", f"{BEYOND} ship 0")
    faults = Faults()
    found = list(samples.read(tile(folder, *lines), "dota", faults=faults))  # on_fault: error
    (sample,) = found
    assert sample.quads == [[180, 20, 240, 20, 240, 60, 180, 60], [10, 10, 50, 10, 50, 40, 10, 40]]  # uncut
    assert sample.boxes == [[180, 20, 200, 60], [10, 10, 50, 40]]
    assert (sample.labels, sample.difficult, sample.classes) == (["plane"] * 2, [False, True], ["plane", "ship"])
    assert dict(faults.objects) == {"object_outside": 3} and not faults.left_out
    assert (faults.rows, faults.kept, faults.skipped) == (1, 1, 0)
    assert "object_outside: 3 objects left out of kept rows" in str(faults) and "image of 200 x 100" in str(faults)


def test_a_picture_of_whose_objects_all_lie_outside_is_left_out(folder):
    """It would look empty, but its labels are hardly of it."""
    tile(folder, f"{INSIDE} plane 0")
    (folder / "labelTxt" / "b.txt").write_text(f"{BEYOND} plane 0\n{BEYOND} plane 0\n")
    shutil.copy(folder / "a.png", folder / "b.png")
    faults = Faults()
    assert [one.id for one in samples.read(folder, "dota", faults=faults)] == ["a"]
    assert dict(faults.left_out) == {"no_objects": 1} and not faults.objects
    assert "all 2 objects lie outside the image of 200 x 100" in faults.examples["no_objects"]


def test_a_label_that_crosses_itself_is_a_fault_of_its_line(folder):
    """As one of a published tile (of mmrotate's test data) does: 126 191 128 171 123 178 221 199."""
    lines = (f"{INSIDE} plane 0", "126 91 128 71 123 78 181 99 plane 0", "10 10 20 10 30 10 40 10 plane 0")
    faults = Faults()
    (found,) = samples.read(tile(folder, *lines), "dota", on_fault="skip", faults=faults)
    assert found.quads == [[10, 10, 50, 10, 50, 40, 10, 40]] and dict(faults.kinds) == {"box_inverted": 2}
    assert (found.labels, found.difficult) == (["plane"], None)
    with pytest.raises(DataError, match="file a.txt, line 2, .* found '126 91 .*expected four corners in order around"):
        list(samples.read(folder, "dota"))


@settings(max_examples=200)
@given(st.lists(st.integers(-300, 500), min_size=8, max_size=8))
def test_meeting_the_image_is_shapelys(quad):
    polygon = shapely.Polygon(list(zip(quad[::2], quad[1::2], strict=True)))
    if polygon.is_valid:
        assert meets(quad, (200, 100)) == (polygon.intersection(shapely.box(0, 0, 200, 100)).area > 0)


def test_a_tilted_shape_whose_box_meets_the_image_may_not():
    assert not meets([-100, 60, -60, 100, 60, 220, -100, 220], (200, 100))
    assert meets([-100, 60, 20, 60, 20, 220, -100, 220], (200, 100))


# --- pictures that EXIF turns


def turned(path, orientation, size=(64, 48)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.effect_noise(size, 90).convert("RGB").save(path, exif=exif, quality=95)


@pytest.mark.parametrize(
    ("orientation", "box", "size", "warned"),
    [
        (6, [5, 5, 40, 40], None, True),  # 48 x 64 upright; within 64 x 48, too
        (6, [5, 5, 40, 60], None, False),  # y2 = 60 > 48: it can only be upright
        (6, [5, 5, 40, 40], [48, 64], False),
        (3, [5, 5, 60, 40], None, True),  # upside down: both fit always
        (1, [5, 5, 40, 40], None, False),
    ],
)
def test_the_doctor_names_pictures_whose_boxes_fit_both_ways(tmp_path, orientation, box, size, warned, capsys):
    put_data(tmp_path)
    turned(tmp_path / "t.jpg", orientation)
    more = {} if size is None else {"size": size}
    dump(tmp_path / "train.jsonl", [row(images=["t.jpg"], boxes=[box], id="7", **more)])
    assert doctor(tmp_path) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    found = [line for line in report["warnings"] if "turned by EXIF" in line]
    assert found == ["1 pictures are turned by EXIF, and boxes fit both as stored and upright: state `size` in the rows"
                     ] * warned  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert (f"t.jpg, EXIF orientation {orientation}: 1 rows, first train/7" in said) == warned
    assert doctor(tmp_path, strict=True) == int(warned or bool(report["warnings"]))
