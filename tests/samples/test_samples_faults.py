"""samples: faulty rows are named or counted, never passed on."""

import json

import pytest

import samples
from samples import Faults
from tests.support.sample_rows import dump, put_images, row
from vlm.common.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return put_images(tmp_path)


FAULTS = [
    ("unknown_task", row(task="groundng"), r"field 'task': found 'groundng', expected one of grounding, vqa"),
    ("missing_field", row(task=...), "field 'task': found none"),
    ("missing_field", row(messages=...), "field 'messages': found none"),
    ("missing_field", row(images=...), "field 'images': found none"),
    ("missing_image", row(images=["gone.png"]), r"found '/.*/gone.png', expected an image file that exists"),
    ("missing_image", row(images=[], size=[9, 9], boxes=[[1, 1, 2, 2]]), "grounding needs one"),
    ("unreadable_image", row(images=["notes.png"]), "not an image file"),
    ("unreadable_image", row(images=["data:;base64,%%"]), "base64"),
    ("no_boxes", row(boxes=...), "field 'boxes': found None, expected at least one box"),
    ("no_boxes", row(boxes=[]), "at least one box"),
    ("box_inverted", row(boxes=[[90, 20, 10, 80]]), r"found \[90.0, 20.0, 10.0, 80.0\], inverted or empty"),
    ("box_inverted", row(boxes=[[10, 20, 10, 80]]), "expected x1 < x2"),
    ("box_outside", row(boxes=[[10, 20, 200.01, 80]]), "inside the image, 0 to 200 and 0 to 100"),
    ("box_outside", row(boxes=[[-0.01, 20, 20, 80]]), "inside the image"),
    ("box_outside", row(boxes=[[10, 20, 30, 100.01]]), "inside the image"),
    ("box_outside", row(boxes=[[10, 20, float("nan"), 80]]), "finite"),
    ("box_outside", row(boxes=[[10, 20, 10**400, 80]]), "finite"),
    ("size_mismatch", row(size=[100, 200]), r"found \[100, 200\], expected the image's own \[200, 100\]"),
    ("wrong_type", row(size=[200, True]), "field 'size'"),
    ("wrong_type", row(boxes=[10, 20, 90, 80]), "field 'boxes': found 10"),
    ("wrong_type", row(boxes=[["10", 20, 90, 80]]), "field 'boxes'"),
    ("wrong_type", row(images="a.png"), "field 'images': found 'a.png', expected a list of paths"),
    ("wrong_type", row(task="vqa", answer=3), "field 'answer': found 3, expected text"),
    ("wrong_type", row(task="vqa", answer="\ud800"), "valid Unicode"),
    ("wrong_type", row(messages=["hi"]), r"field 'messages\[1\]'"),
    ("conversation", row(messages=[{"role": "assistant", "content": "x"}]), "expected 'user'"),
    ("conversation", row(messages=[]), "at least one user turn"),
    (
        "image_tag",
        row(messages=[{"role": "user", "content": "<image> x <image>"}]),
        r"2 <image> tags, expected as many as images \(1\)",
    ),
    ("missing_field", row(task="vqa"), "field 'answer'"),
    ("missing_field", row(task="vqa", answer=" . "), "field 'answer'"),
    ("missing_field", row(task="choice", answer="A"), "field 'choices'"),
    ("choices", row(task="choice", answer="A", choices=["Dam", "dam."]), "different texts"),
    ("not_a_choice", row(task="choice", answer="C", choices=["dam", "port"]), "field 'answer': found 'C'"),
    ("wrong_type", [1, 2], "a JSON object"),
]


@pytest.mark.parametrize(("kind", "bad", "message"), FAULTS)
def test_a_faulty_row_is_named_or_skipped_and_counted(folder, kind, bad, message):
    (folder / "notes.png").write_text("no image")
    path = dump(folder / "mine.jsonl", [row(), bad, row()])
    with pytest.raises(DataError, match=rf"mine.jsonl, line 2, .*{message}"):
        list(samples.read(path))
    faults = Faults()
    assert [sample.id for sample in samples.read(path, on_fault="skip", faults=faults)] == ["#1", "#3"]
    assert (faults.rows, faults.kept, faults.skipped, dict(faults.kinds)) == (3, 2, 1, {kind: 1})
    assert "line 2" in faults.examples[kind] and "3 rows = 2 kept + 1 skipped" in str(faults)


def test_edges_belong_to_the_image(folder):
    path = dump(folder / "m.jsonl", [row(boxes=[[0, 0, 200, 100], [-0.0009, 0, 200.0009, 100]])])
    assert len(next(samples.read(path)).boxes) == 2


def test_headers_are_opened_only_when_asked_or_needed(folder):
    (folder / "notes.png").write_text("no image")
    vqa = row(images=["notes.png"], task="vqa", answer="yes", boxes=...)
    path = dump(folder / "m.jsonl", [vqa, row(images=["notes.png"], size=[200, 100]), row()])
    assert [s.size for s in samples.read(path, verify_images=False)] == [None, (200, 100), (200, 100)]
    with pytest.raises(DataError, match="line 1, field 'images': .*notes.png: cannot be read"):
        next(samples.read(path))


def test_lines_that_are_no_json(folder):
    good = json.dumps(row()).encode()
    deep = b"[" * 50_000
    path = folder / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\n{" + deep + b"\n\xff\xfe\n{'a': 1}\n" + good)
    faults = Faults()
    assert [sample.id for sample in samples.read(path, on_fault="skip", faults=faults)] == ["#1", "#6"]
    assert dict(faults.kinds) == {"json": 2, "encoding": 1} and faults.rows == 5  # the empty line is no row
    with pytest.raises(DataError, match=r"m.jsonl, line 3, field '\(whole row\)'"):
        list(samples.read(path))


def test_whole_files_that_are_wrong(folder):
    with pytest.raises(DataError, match="gone.jsonl: no such file"):
        samples.read(folder / "gone.jsonl")
    with pytest.raises(DataError, match=r"unknown layout \(a folder"):
        samples.read(folder)
    with pytest.raises(DataError, match="is a folder, expected a file of the format nadir"):
        samples.read(folder, "nadir")
    (folder / "x.json").write_text('[{"a": 1},')
    with pytest.raises(DataError, match="x.json: found text that is no JSON"):
        samples.read(folder / "x.json")
    path = dump(folder / "m.jsonl", [row(task="x"), row(task="y")])
    with pytest.raises(DataError, match="all 2 rows are faulty; .*line 1, field 'task'"):
        list(samples.read(path, on_fault="skip"))
    with pytest.raises(DataError, match="found the task 'x' for this source"):
        samples.read(path, task="x")
    path.write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        list(samples.read(path, "nadir"))


def test_jsonl_is_streamed(folder):
    path = dump(folder / "m.jsonl", [row(), row(task="x")])
    stream = samples.read(path)
    assert next(stream).id == "#1"
    with pytest.raises(DataError, match="line 2"):
        next(stream)
