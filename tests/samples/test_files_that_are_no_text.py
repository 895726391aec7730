"""Files that are no UTF-8 say what they are and what to do; keys that stand twice are faults; names are explained."""

import gzip
import json
import logging
import re
import unicodedata

import pytest
from PIL import Image

import samples
from evals import predictions
from rewards.score.training import preferences
from samples import Faults
from tests.support.sample_rows import dump
from vlm.common.errors import DataError

ROW = {"images": [], "task": "vqa", "messages": [{"role": "user", "content": "Was?"}], "answer": "机场跑道"}
TEXT = json.dumps(ROW, ensure_ascii=False) + "\n"
PACKED = [
    ("utf-16", TEXT.encode("utf-16"), r"found UTF-16 \(by its byte order mark\).*iconv -f utf-16 -t utf-8"),
    ("utf-16le", TEXT.encode("utf-16le"), r"UTF-16 without a byte order mark \(little-endian\).*iconv -f utf-16le"),
    ("utf-16be", TEXT.encode("utf-16be"), r"UTF-16 without a byte order mark \(big-endian\).*iconv -f utf-16be"),
    ("utf-32", TEXT.encode("utf-32"), r"found UTF-32 .*iconv -f utf-32"),
    ("gzip", gzip.compress(TEXT.encode()), r"found a gzip archive, .*gunzip -k"),
    ("zip", b"PK\x03\x04" + b"\0" * 40, r"found a zip archive, .*unzip"),
    ("png", b"\x89PNG\r\n\x1a\n", r"found a PNG picture"),
    ("lfs", b"version https://git-lfs.github.com/spec/v1\n", r"pointer of Git LFS.*git lfs pull"),
]


@pytest.mark.parametrize(("name", "data", "message"), PACKED, ids=[one[0] for one in PACKED])
@pytest.mark.parametrize("format", [None, "nadir"])
def test_what_is_no_text_says_what_it_is(tmp_path, name, data, message, format):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        list(samples.read(path, format, on_fault="skip"))


def test_rows_in_gbk_are_faults_that_show_what_they_decode_as(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TEXT.encode() + TEXT.encode("gbk"))
    message = r"line 2, .*no UTF-8 but read as GBK \('机场跑道'\); write it as UTF-8: iconv -f gbk -t utf-8 "
    with pytest.raises(DataError, match=message):
        list(samples.read(path))
    faults = Faults()
    assert [one.answer for one in samples.read(path, on_fault="skip", faults=faults)] == ["机场跑道"]
    assert dict(faults.kinds) == {"encoding": 1}
    path.write_bytes(TEXT.encode("gbk") * 2)  # no row is good: the format cannot be told, and the cause is
    with pytest.raises(DataError, match=r"no row is an object; line 1, .*read as GBK"):
        samples.read(path)
    path.write_bytes(f"[{TEXT}]".encode("gbk"))
    with pytest.raises(DataError, match=r"read as GBK \('机场跑道'\)"):
        list(samples.read(path, "nadir", on_fault="skip"))


def test_one_byte_encodings_and_damage_are_told_apart(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TEXT.replace("机场跑道", "café à côté").encode("cp1252"))
    with pytest.raises(DataError, match=r"read as Windows-1252 \('éàôé'\).*iconv -f windows-1252"):
        list(samples.read(path, "nadir"))
    path.write_bytes(TEXT.encode().replace("场".encode(), "场".encode()[:2]))
    with pytest.raises(DataError, match=r"bytes that are no UTF-8 \(0xe5 at \d+: invalid continuation byte\)"):
        list(samples.read(path, "nadir"))


def test_labels_in_gbk(tmp_path):
    (tmp_path / "labelTxt").mkdir()
    line = "4 2 12 2 12 10 4 10 {} 0\n"
    (tmp_path / "labelTxt" / "P1.txt").write_bytes(line.format("plane").encode() + line.format("机场").encode("gbk"))
    with pytest.raises(DataError, match=r"file P1.txt, line 2, .*read as GBK \('机场'\)"):
        list(samples.read(tmp_path))


def test_a_broken_first_row_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"images": [], "task": "vqa"\n')
    with pytest.raises(DataError, match=r"no row is an object; line 1, .*'\{\"images\": \[\], \"task\": \"vqa\"'"):
        samples.read(path)
    path.write_text(json.dumps({"version": 3, "entries": [ROW]}, indent=1))
    with pytest.raises(DataError, match="The file is one JSON object, with the keys version, entries"):
        samples.read(path)
    path.write_text("")
    with pytest.raises(DataError, match="an empty file"):
        samples.read(path)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"images": [], "task": "vqa", "answer": "1", "answer": "2"}', "answer"),
        ('{"images": [], "messages": [{"role": "user", "content": "a", "content": "b"}]}', "content"),
    ],
)
def test_a_key_that_stands_twice_is_a_fault(tmp_path, text, key, listed):
    path = tmp_path / ("rows.json" if listed else "rows.jsonl")
    lines = [TEXT.strip(), text, TEXT.strip()]
    path.write_text(f"[{', '.join(lines)}]" if listed else "\n".join(lines))
    where = "row 2" if listed else "line 2"
    with pytest.raises(DataError, match=rf"{where}, field '{key}': found this key twice in one object"):
        list(samples.read(path, "nadir"))
    faults = Faults()
    assert len(list(samples.read(path, "nadir", on_fault="skip", faults=faults))) == 2
    assert dict(faults.kinds) == {"twice": 1}


NFC, NFD = unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")
WRITTEN = [
    ("Lake.PNG", "lake.png", r"there is one named '/.*/lake.png' \(another case\)"),
    ("A/lake.png", "a/lake.png", r"named '/.*/a/lake.png' \(another case\)"),
    ("a\\lake.png", "a/lake.png", r"named '/.*/a/lake.png' \(backslashes\)"),
    ("lake.png ", "lake.png", r"named '/.*/lake.png' \(blanks at the ends\)"),
    (NFD, NFC, r"\(another Unicode form, NFC or NFD\)"),
    (NFC, NFD, r"\(another Unicode form, NFC or NFD\)"),
    ("file:///data/lake.png", "lake.png", r"a path is written without 'file:', such as '/data/lake.png'"),
    ("https://a.b/lake.png", "lake.png", r"an address: pictures are not fetched"),
]


@pytest.mark.parametrize(("said", "there", "message"), WRITTEN, ids=[repr(one[0]) for one in WRITTEN])
@pytest.mark.parametrize("layout", ["nadir", "conversations", "refgeo"])
def test_a_picture_that_is_named_in_another_way_is_the_cause(tmp_path, layout, said, there, message):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 20)).save(tmp_path / there)
    talk = [{"from": "human", "value": "Was?"}, {"from": "gpt", "value": "x"}]
    row = {
        "nadir": ROW | {"images": [said]},
        "conversations": {"image": said, "conversations": talk, "task": "vqa"},
        "refgeo": {"image_id": said, "question": "it", "bbox": [1, 2, 11, 12]},
    }[layout]
    with pytest.raises(DataError, match=rf"{re.escape(str(tmp_path))}.*an image file that exists; .*{message}"):
        list(samples.read(dump(tmp_path / "rows.jsonl", [row]), layout))


def test_a_file_that_is_not_there_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"rows.jsonl: no such file \({tmp_path}/rows.jsonl\)$"):
        samples.read("rows.jsonl")
    (tmp_path / "Rows.jsonl").write_text(TEXT)
    with pytest.raises(DataError, match=r"no such file .*there is one named '.*Rows.jsonl' \(another case\)"):
        samples.read("rows.jsonl")


def test_another_suffix_is_found_where_the_layout_has_that_and_said_once(tmp_path, caplog):
    Image.new("RGB", (40, 20)).save(tmp_path / "1.png")
    row = {"image_id": "1.jpg", "question": "it", "bbox": [1, 2, 11, 12]}
    path = dump(tmp_path / "rows.jsonl", [row, row | {"image_id": "1.png"}, row])
    faults = Faults()
    with caplog.at_level(logging.WARNING, "samples"):
        found = list(samples.read(path, faults=faults))
    assert [one.images for one in found] == [[str(tmp_path / "1.png")]] * 3 and faults.swapped == 2
    said = [one.getMessage() for one in caplog.records]
    assert said == [
        f"{path}: 2 names of pictures have another suffix than their files (the first: '1.jpg' is '1.png'); those "
        "files are used"
    ]
    assert "2 names of pictures have another suffix" in str(faults)
    Image.new("RGB", (40, 20)).save(tmp_path / "1.tif")
    with pytest.raises(DataError, match="there are 1.png and 1.tif, and which is meant cannot be seen"):
        list(samples.read(path))
    row = {"image": "1.jpg", "conversations": [{"from": "human", "value": "Was?"}, {"from": "gpt", "value": "x"}]}
    with pytest.raises(DataError, match="an image file that exists"):  # no such habit here
        list(samples.read(dump(tmp_path / "talk.jsonl", [row]), "conversations", task="vqa"))


@pytest.mark.parametrize("there", ["airport_1.png", "images/airport_1.tif"])
def test_aid_of_geochats_bench_is_found_under_another_suffix(tmp_path, there):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 20)).save(tmp_path / there)
    row = {"question_id": "Airport/airport_1", "image": "airport_1.jpg", "text": "Which?", "ground_truth": "Airport"}
    faults = Faults()
    (found,) = samples.read(dump(tmp_path / "aid.jsonl", [row]), faults=faults)
    assert found.images == [str(tmp_path / there)] and faults.swapped == 1


def test_predictions_and_preferences_say_the_same(tmp_path):
    row = {"id": "1", "source": "s", "task": "vqa", "completion": "机场", "answer": "机场"}
    path = tmp_path / "predictions.jsonl"
    text = json.dumps(row, ensure_ascii=False) + "\n"
    path.write_text(text)
    assert [one.answer for one in predictions.read(path)] == ["机场"]
    for data, message in (
        (text.encode("gbk"), r"predictions.jsonl: found bytes that are no UTF-8 but read as GBK \('机场机场'\)"),
        (text.encode("utf-16"), "found UTF-16"),
        (text.replace('"answer"', '"task"').encode(), "line 1, field 'task': found this key twice"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            predictions.read(path)
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    pair = {"image": "A.png", "question": "Was?", "chosen": "机场", "rejected": "x"}
    path = dump(tmp_path / "pairs.jsonl", [pair])
    with pytest.raises(DataError, match=r"there is one named '.*a.png' \(another case\)"):
        list(preferences.read(path))
    path.write_bytes(json.dumps(pair, ensure_ascii=False).encode("gbk"))
    with pytest.raises(DataError, match="read as GBK"):
        list(preferences.read(path))
