"""Keys that a format does not read: slips, columns, and what other projects mean by them."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import samples
from samples import Faults, write
from samples.mixture import count, draw
from samples.readers.formats import FORMATS
from samples.readers.keys import READ, distance, pictured, slip
from samples.rows import prompt_rows
from samples.sections import DataSection, SourceSection
from vlm.common.errors import DataError
from vlm.sections import PromptSection

ASKED = {"role": "user", "content": "How many ships?"}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    return tmp_path


def put(folder, *rows, name="rows.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def ours(**more):
    return {"images": ["a.png"], "task": "vqa", "messages": [ASKED], "answer": "3"} | more


def swift(question="<image>Where is <ref-object>?", answer="<bbox>", **more):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"images": ["a.png"], "messages": turns} | more


def read(folder, row, **options):
    return next(samples.read(put(folder, row), **options))


# Slips.


def test_every_format_of_rows_has_its_keys():
    assert {one.name for one in FORMATS.values() if one.walk is None} <= READ.keys() <= FORMATS.keys()


def test_distances_by_hand():
    assert [distance(*pair) for pair in (("size", "size"), ("sise", "size"), ("anwser", "answer"), ("ab", "ba"))] == [
        0, 1, 1, 1,
    ]  # fmt: skip
    assert (distance("file", "size"), distance("", "abc"), distance("bbox", "boxes")) == (2, 3, 3)


def test_a_slip_of_a_field():
    fields = ("size", "answer", "images", "boxes", "id")
    assert [slip(key, fields) for key in ("sise", "anwser", "Images", "image", "SIZE", "awsner")] == [
        "size", "answer", "images", "images", "size", "answer",
    ]  # fmt: skip
    assert not any(slip(key, fields) for key in ("file", "time", "tile", "site", "ids", "idx", "licence", "bbox"))


@pytest.mark.parametrize(("key", "field"), [("sise", "size"), ("anwser", "answer"), ("image", "images")])
def test_a_slip_is_a_fault(folder, key, field):
    row = ours()
    row[key] = row.pop(field, [200, 100])
    with pytest.raises(DataError, match=rf"rows.jsonl, line 1, field '{key}': found a key .* expected '{field}'"):
        read(folder, row)
    said = {"format": "nadir", "columns": {key: key}}
    if field == "size":
        assert read(folder, row, **said).columns == {"sise": [200, 100]}
    else:  # it is needed, so the row is refused for lacking it
        with pytest.raises(DataError, match=f"field '{field}': found"):
            read(folder, row, **said)


def test_a_slip_beside_its_field_and_short_columns_travel(folder):
    row = ours(size=[200, 100], sise=1, ids=[4], tile="7/3", file="x.tif", licence="CC0")
    assert read(folder, row).columns == {"sise": 1, "ids": [4], "tile": "7/3", "file": "x.tif", "licence": "CC0"}


# Columns.


def test_columns_travel_to_the_table(folder):
    path = put(folder, ours(solution=3, id=1), ours(level={"a": [1]}, id=2), ours(solution="x", id=3))
    rows = prompt_rows(samples.read(path), PromptSection())
    assert [rows[n]["solution"] for n in range(3)] == [3, None, "x"]
    assert [row["level"] for row in rows] == [None, {"a": [1]}, None]
    assert "level" not in prompt_rows(samples.read(put(folder, ours())), PromptSection())[0]


def test_columns_are_listed_once_for_each_source(folder, capsys):
    one, other = put(folder, ours(b=1, id=1), ours(a=2, b=3, id=2)), put(folder, ours(row=1), name="other.jsonl")
    data = DataSection(train=[SourceSection(path=str(path)) for path in (one, other)])
    for drawn in (lambda: draw(data, "train", 0), lambda: count(data, "train", 0)):
        drawn()
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == f"{one}: columns that travel on: b, a"
        assert lines[1].startswith(f"{other}: columns that stay behind: row (training uses these names itself")
        assert len(lines) == 2


def test_columns_are_written_and_told_apart(folder):
    path = put(folder, ours(solution=3, id=1))
    read = list(samples.read(path))
    assert write(folder / "copy.jsonl", read) == 1
    assert [one.columns for one in samples.read(folder / "copy.jsonl")] == [{"solution": 3}]
    data = DataSection(train=[SourceSection(path=str(path))])
    before = draw(data, "train", 0).parts[0].digest
    put(folder, ours(solution=4, id=1))
    assert draw(data, "train", 0).parts[0].digest != before


def test_columns_are_renamed(folder):
    row = {"images": ["a.png"], "task": "vqa", "problem": "How many ships?", "label": "3", "answer": "no"}
    names = {"question": "problem", "answer": "label"}
    found = read(folder, row, columns=names)
    assert (found.messages, found.answer, found.columns) == ([ASKED], "3", None)
    with pytest.raises(DataError, match=r"columns: question: found no column 'problm'.*did you mean 'problem'\?"):
        read(folder, row, columns={"question": "problm"})
    with pytest.raises(ValueError, match="given two names"):
        SourceSection(path="x", columns={"a": "c", "b": "c"})


def test_a_slip_ends_a_dry_run(folder):
    """Pictures need not be here then, but keys are as they will be."""
    path = put(folder, ours(id=1), ours(id=2, sise=[200, 100]))
    with pytest.raises(DataError, match="line 2, field 'sise'"):
        count(DataSection(train=[SourceSection(path=str(path))]), "train", 0)
    skipped = DataSection(train=[SourceSection(path=str(path))], on_fault="skip")
    assert count(skipped, "train", 0).rows == 1


# Other projects.


@pytest.mark.parametrize(
    ("kind", "frame", "box"),
    [("real", [20, 30, 60, 90], [20, 30, 60, 90]), ("norm1", [0.1, 0.3, 0.3, 0.9], [20, 30, 60, 90])],
)
def test_objects_become_boxes(folder, kind, frame, box):
    """200 x 100 pixels: 0.1 of the width is 20, 0.9 of the height is 90."""
    row = swift(objects={"ref": ["the dam"], "bbox": [frame], "bbox_type": kind})
    found = read(folder, row, format="sharegpt")
    assert found.boxes == [pytest.approx(box)] and found.task == "grounding" and found.answer is None
    assert found.messages == [{"role": "user", "content": "Where is the dam?"}] and found.columns is None
    if kind == "real":
        bare = row | {"objects": {"ref": ["the dam"], "bbox": [frame]}}
        assert read(folder, bare, format="sharegpt").boxes == [box]


def test_objects_in_json_and_in_our_rows(folder):
    answer = (
        '```json\n[{"bbox_2d": <bbox>, "label": "<ref-object>"}, {"bbox_2d": <bbox>, "label": "<ref-object>"}]\n```'
    )
    objects = {"ref": ["ship", "ship"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}
    found = read(folder, swift("Find all ships", answer, objects=objects), format="nadir", task="grounding")
    assert found.boxes == [[1, 2, 3, 4], [5, 6, 7, 8]]
    text = read(folder, swift("Is <ref-object> old?", "Yes, <ref-object> is.", objects={"ref": ["A", "B"]}),
                format="nadir", task="open_ended")  # fmt: skip
    assert [turn["content"] for turn in text.messages] == ["Is A old?", "Yes, B is."]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (swift(objects={"ref": ["a"], "bbox": [[1, 2, 3, 4]], "bbox_type": "norm1000"}), "objects.bbox_type"),
        (swift(objects={"ref": ["a"], "bbox": [[1, 2, 3, 4]], "image_id": [1]}), "objects.image_id"),
        (swift(objects={"ref": ["a"], "bbox": [[1, 2]]}), "field 'objects'"),
        (swift(objects={"ref": ["a"], "bbox": []}), "objects.bbox.*0 for 1 <bbox>"),
        (swift(objects={"ref": [], "bbox": [[1, 2, 3, 4]]}), "objects.ref.*0 for 1 <ref-object>"),
        (swift("What is at <bbox>?", "a", objects={"bbox": [[1, 2, 3, 4]]}), "in the last answer alone"),
        (swift("Where?", "It is at <bbox>", objects={"bbox": [[1, 2, 3, 4]]}), "nothing but its boxes"),
        (swift("<video>What?", "a"), "field 'messages'.*no stage reads videos"),
        (swift("What?", "a", videos=["a.mp4"]), "field 'videos'.*no stage reads videos"),
        (swift("What?", "a", video="a.mp4"), "field 'video'.*no stage reads videos"),
        (swift("What?", "a", tools='[{"name": "zoom"}]'), "field 'tools'"),
        (swift("What?", "a", rejected_response="b"), "field 'rejected_response'.*belongs to preferences"),
        (swift("What?", "a", chosen={"from": "gpt", "value": "b"}), "field 'chosen'.*belongs to preferences"),
        (swift("What?", "a", label=False), "field 'label'.*marked as bad"),
        (swift("What?", "a", kto_tag=False), "field 'kto_tag'.*marked as bad"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_name(folder, row, message):
    for format, task in (("sharegpt", None), ("nadir", "open_ended")):
        if format == "nadir":
            turns = [turn | {"content": turn["content"].replace("<image>", "")} for turn in row["messages"]]
            row = row | {"messages": turns}
        with pytest.raises(DataError, match=rf"rows.jsonl, line 1, .*{message}"):
            read(folder, row, format=format, task=task)


def test_empty_keys_of_other_projects_pass(folder):
    row = swift("<image>What?", "a", videos=[], audios=[], tools="", system="", rejected_response=None, label=True)
    assert read(folder, row, format="sharegpt").columns == {"label": True}


def test_turns_that_are_not_to_be_learned_are_refused(folder):
    row = swift("What?", "a")
    row["messages"][1]["loss"] = False
    with pytest.raises(DataError, match="field 'messages.loss'"):
        read(folder, row, format="sharegpt")


@pytest.mark.parametrize("format", ["sharegpt", "nadir", "conversations", "trl"])
def test_a_system_text_becomes_the_system_turn(folder, format):
    row = {"images": ["a.png"], "task": "vqa", "answer": "3", "system": "Be brief."}
    turns = [ASKED, {"role": "assistant", "content": "3"}]
    if format == "conversations":
        row["conversations"] = [{"from": "human", "value": "How many ships?"}, {"from": "gpt", "value": "3"}]
    elif format == "trl":
        row |= {"prompt": [ASKED], "completion": turns[1:]}
    else:
        row["messages"] = turns
    found = read(folder, row, format=format)
    assert found.messages == [{"role": "system", "content": "Be brief."}, *turns] and found.columns is None
    if format == "sharegpt":
        row["messages"] = [{"role": "system", "content": "Other."}, *turns]
        with pytest.raises(DataError, match="field 'system'"):
            read(folder, row, format=format)


def test_a_picture_under_an_unread_key_is_refused(folder):
    row = {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "a"}], "img_name": "a.png"}
    with pytest.raises(DataError, match="field 'img_name'.*'images' or 'image'.*columns: {images: img_name}"):
        read(folder, row, task="open_ended")
    renamed = read(folder, row, task="open_ended", columns={"images": "img_name"})
    assert [str(image).endswith("a.png") for image in renamed.images] == [True]
    assert [pictured(value) for value in ("a.PNG", ["a.tif"], [], "a ship", {"path": "b.jpg"}, b"\x89PNG..", 3)] == [
        True, True, False, False, True, True, False,
    ]  # fmt: skip


def test_wrong_keys_are_counted_under_skip(folder):
    faults = Faults()
    path = put(folder, ours(id=1), ours(anwser=1, id=2) | {"answer": "3"}, ours(videos=["x"], id=3))
    row = ours(anwser="3", id=4)
    del row["answer"]
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert len(list(samples.read(path, on_fault="skip", faults=faults))) == 2
    assert faults.kinds == {"other_key": 1, "unknown_key": 1}
