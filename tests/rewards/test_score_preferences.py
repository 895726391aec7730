"""Preferences from files: the published JSON and parquet, our own JSONL, and rows that are wrong."""

import io
import json

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from rewards.score.training.preferences import Preference, collect, read, write
from rewards.score.training.recipe import PreferenceSource
from samples import Faults
from tests.support.sample_rows import dump
from vlm.common.errors import DataError

SHIPS = {"question": "How many ships?", "chosen": "Two ships.", "rejected": "Five.", "image_name": "a.png"}


@pytest.fixture
def folder(tmp_path):
    """A red picture as a.png and a blue one as b.png below images/pairs/, where pairs.json expects them."""
    place = tmp_path / "images" / "pairs"
    place.mkdir(parents=True)
    Image.new("RGB", (56, 56), "red").save(place / "a.png")
    Image.new("RGB", (56, 56), "blue").save(place / "b.png")
    return tmp_path


def encoded(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (56, 56), colour).save(buffer, "PNG")
    return buffer.getvalue()


def table(path, texts, images=None):
    columns = {"text": texts} | ({} if images is None else {"image": images})
    parquet.write_table(pyarrow.table(columns), path)
    return path


def pairs(folder, *rows, name="pairs.json"):
    return dump(folder / name, list(rows))


def message(*args, **options):
    with pytest.raises(DataError) as caught:
        list(read(*args, **options))
    return str(caught.value)


def test_published_json(folder):
    """With and without a question, `image_name` or `image_path`, and several rejected texts."""
    caption = {"chosen": "A red field.", "rejected": ["A lake.", "A road."], "image_path": "b.png", "id": 7}
    found = list(read(pairs(folder, SHIPS, caption), images=folder / "images"))
    a, b = (str(folder / "images/pairs" / name) for name in ("a.png", "b.png"))
    assert found == [
        Preference([a], "How many ships?", ["Two ships.", "Five."], source="pairs", id="#1"),
        # the two rejected texts are not ranked among each other
        Preference([b], "", ["A red field.", "A lake."], source="pairs", id="7.1"),
        Preference([b], "", ["A red field.", "A road."], source="pairs", id="7.2"),
    ]


def test_rows_without_a_picture_are_text_only(folder):
    text = {key: SHIPS[key] for key in ("question", "chosen", "rejected")}
    assert [p.images for p in read(pairs(folder, text))] == [[]]
    assert [p.images for p in read(pairs(folder, SHIPS), text_only=True)] == [[]]


def test_a_picture_that_is_not_there_is_no_reason_to_score_blind(folder):
    """Published: where the folder of images is missing, its rows silently become text only."""
    error = message(pairs(folder, SHIPS, name="other.json"), images=folder / "images")
    assert "other.json, row 1, field 'image_name': found 'a.png' (below" in error and "`text_only: true`" in error
    assert "the image folder" in message(pairs(folder, SHIPS), images=folder / "nowhere")


def test_parquet(folder):
    texts = [json.dumps({key: SHIPS[key] for key in ("question", "chosen", "rejected")})] * 3
    images = [{"bytes": encoded("red"), "path": None}, {"bytes": None, "path": "/made/elsewhere/b.png"}, None]
    path = table(folder / "pairs.parquet", texts, images)
    first, second, third = read(path, images=folder / "images")
    assert first == Preference([encoded("red")], "How many ships?", ["Two ships.", "Five."], source="pairs", id="#1")
    assert second.images == [str(folder / "images/pairs/b.png")] and third.images == []
    assert {p.question for p in (first, second, third)} == {"How many ships?"}


def test_fault_16_both_sides_keep_image_and_question(folder):
    """Published: from parquet the rejected sample loses its image, and the question is dropped."""
    text = json.dumps({"question": "How many ships?", "chosen": "Two.", "rejected": ["Five.", "Red."]})
    path = table(folder / "pairs.parquet", [text], [{"bytes": encoded("red"), "path": "a.jpg"}])
    sides = [exchange for record in read(path) for exchange in record.exchanges()]
    assert [exchange.messages[-1]["content"] for exchange in sides] == ["Two.", "Five.", "Two.", "Red."]
    for exchange in sides:
        assert exchange.images == (encoded("red"),)
        assert exchange.messages[0] == {"role": "user", "content": "How many ships?"}


def test_our_jsonl_is_read_as_it_was_written(folder):
    Image.new("RGB", (56, 56)).save(folder / "own.png")
    ratings = [{"clarity": 5.0}, {"clarity": 3.0}, {"clarity": 1.0}]
    records = [
        Preference([str(folder / "own.png")], "Q", ["a", "b", "c"], ["relevance"], ratings, 0.5, "judge", "x"),
        Preference([encoded("blue")], "", ["a", ""], source="judge", id="y"),
    ]
    assert write(folder / "own.jsonl", records) == 2
    assert json.loads((folder / "own.jsonl").read_text().splitlines()[0])["images"] == ["own.png"]
    assert list(read(folder / "own.jsonl")) == records


def test_image_tags_are_taken_out_of_questions(folder):
    row = SHIPS | {"question": "<image>\nHow many ships?"}
    assert next(read(pairs(folder, row), images=folder / "images")).question == "How many ships?"


FAULTS = {
    "chosen missing": ({"chosen": None}, "field 'chosen': found none, expected a text or a list of texts"),
    "no rejected": ({"rejected": []}, "field 'rejected': found no texts"),
    "rejected a number": ({"rejected": 3}, "field 'rejected': found 3"),
    "equal sides": ({"rejected": "Two ships."}, "expected different texts"),
    "says nothing": ({"chosen": " "}, "expected a best text that says something"),
    "question a list": ({"question": ["Q"]}, "field 'question': found ['Q'], expected text"),
    "margin below 0": ({"margin": -1}, "field 'margin': found -1"),
    "half a surrogate": ({"chosen": "\ud800"}, "field 'chosen'"),
    "turns": ({"chosen": [{"role": "user", "content": "Q"}]}, "expected a text or a list of texts"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_rows_of_the_published_layout(folder, name):
    changes, expected = FAULTS[name]
    error = message(pairs(folder, SHIPS, SHIPS | changes), images=folder / "images")
    assert error.startswith(f"{folder / 'pairs.json'}, row 2, ") and expected in error


OWN = {
    "one text": ({"ranked": ["a"]}, "expected two or more texts, best first"),
    "no list": ({"ranked": "a"}, "field 'ranked': found 'a'"),
    "ratings of one": ({"ratings": [{"clarity": 1}]}, "for each of the 2 texts"),
    "a rating that is text": ({"ratings": [{"clarity": 1}, {"clarity": "5"}]}, "field 'ratings'"),
    "dimensions": ({"dimensions": "relevance"}, "field 'dimensions': found 'relevance', expected a list of texts"),
    "images": ({"images": "a.png"}, "field 'images': found 'a.png', expected a list of paths"),
}


@pytest.mark.parametrize("name", OWN)
def test_faulty_rows_of_our_own(tmp_path, name):
    changes, expected = OWN[name]
    error = message(dump(tmp_path / "own.jsonl", [{"ranked": ["a", "b"]}, {"ranked": ["a", "b"]} | changes]))
    assert error.startswith(f"{tmp_path / 'own.jsonl'}, line 2, ") and expected in error


def test_faulty_parquets(tmp_path):
    texts = ['{"chosen": "a", "rejected": "b"}', "no json", "[1]"]
    path = table(tmp_path / "t.parquet", texts)
    assert message(path).startswith(f"{path}, row 2, field 'text': found 'no json'")
    faults = Faults()
    assert len(list(read(path, on_fault="skip", faults=faults))) == 1
    assert (faults.rows, faults.kept, dict(faults.kinds)) == (3, 1, {"json": 1, "wrong_type": 1})
    parquet.write_table(pyarrow.table({"caption": ["a"]}), tmp_path / "c.parquet")
    assert "found the columns caption; expected `text`" in message(tmp_path / "c.parquet")
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:40])
    assert "cut.parquet: a parquet file that cannot be read" in message(tmp_path / "cut.parquet")
    unreadable = table(tmp_path / "u.parquet", texts[:1], [{"bytes": b"no picture", "path": None}])
    assert "row 1, field 'images': found image of 10 bytes: cannot be read" in message(unreadable)


def test_files_that_hold_no_preferences(tmp_path):
    assert "no such file" in message(tmp_path / "gone.json")
    assert "no preferences (keys of the first row: messages)" in message(dump(tmp_path / "a.json", [{"messages": []}]))
    assert "keys of the first row: none" in message(dump(tmp_path / "b.jsonl", []))
    bad = dump(tmp_path / "c.jsonl", [{"ranked": ["a"]}, {"ranked": ["b"]}])
    assert "all 2 rows are faulty; " in message(bad, on_fault="skip")


def test_collecting_counts_what_it_skips_and_stops_at_the_limit(tmp_path, caplog):
    rows = [{"ranked": ["a", "b"]}, {"ranked": ["a"]}, {"ranked": ["c", "d"]}, {"ranked": ["e", "f"]}]
    path = str(dump(tmp_path / "own.jsonl", rows))
    found = collect([PreferenceSource(path=path, limit=2), PreferenceSource(path=path)], "skip", "train")
    assert [p.ranked[0] for p in found] == ["a", "c", "a", "c", "e"]
    assert "4 rows = 3 kept + 1 skipped" in caplog.text and "line 2, field 'ranked'" in caplog.text
    with pytest.raises(DataError, match="line 2, field 'ranked'"):
        collect([PreferenceSource(path=path)], "error", "train")
