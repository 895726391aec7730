"""samples.readers.json_list: lists are streamed, and what is read is what `json.loads` reads."""

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import samples
from samples.readers import json_list, rows
from samples.readers.rows import RowFault, Rows
from tests.support.sample_rows import dump, turns
from vlm.common.errors import DataError

TRICKY = [
    {"a": 1, "b": 1.5e-7, "c": 12345678901234567890123, "d": [None, True, {"x": "]"}]},
    {"text": 'a "quoted" \\ back, [brackets], {braces} and é漢😀'},
    {},
    {"nan": float("nan"), "half": "\ud800"},
    3,
    "text",
    -12.75,
    [1, 2],
    None,
]


def plain(found):
    """The rows as texts (NaN is not equal to itself), faults as None."""
    return [(number, None if isinstance(row, RowFault) else repr(row)) for number, row in found]


def whole(path):
    """The plain twin: the list held in memory."""
    items = json.loads(path.read_bytes().decode("utf-8-sig"))
    return [(number, repr(item) if isinstance(item, dict) else None) for number, item in enumerate(items, 1)]


@pytest.mark.parametrize("block", [1, 2, 5, 64, 1 << 18])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf", b"\n  "])
def test_a_streamed_list_has_the_rows_of_one_that_is_held(tmp_path, monkeypatch, block, indent, head):
    monkeypatch.setattr(json_list, "BLOCK", block)
    path = tmp_path / "x.json"
    path.write_bytes(head + json.dumps(TRICKY, indent=indent).encode())
    assert plain(Rows(path)) == whole(path)
    path.write_bytes(head + json.dumps(TRICKY[:2], ensure_ascii=False).encode() + b"\n")
    stream = Rows(path)
    assert stream.is_list and plain(stream) == whole(path) == plain(stream), "read anew on each pass"
    path.write_bytes(head + b"[ ]")
    assert list(Rows(path)) == []


@pytest.mark.parametrize(
    ("text", "message", "before"),
    [
        (b'[{"a": 1}, {"a": 2}', r"behind row 2 \(found 'the end of the file'", 2),
        (b'[{"a": 1} {"a": 2}]', r"behind row 1 \(found '{', expected ','", 1),
        (b'[{"a": 1},]', r"behind row 1 \(Expecting value", 1),
        (b'[{"a": 1}] x', r"behind row 1 \(found 'x' after the list", 1),
        (b'[{"a": 1}, {"a" 2}]', r"behind row 1 \(Expecting ':'", 1),
        (b'[{"a": "\xff"}]', r"no UTF-8", 0),
        (b"[", r"behind row 0", 0),
    ],
)
def test_a_broken_list_gives_the_rows_before_and_says_where_it_broke(tmp_path, text, message, before):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    found = []
    with pytest.raises(DataError, match=f"x.json: found text that is no JSON .*{message}"):
        found.extend(Rows(path))
    assert len(found) in (0, before)
    found = []
    with pytest.raises(DataError):
        for row in Rows(path):
            found.append(row)
    assert len(found) == before


def test_a_row_without_end_is_not_read_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(json_list, "BLOCK", 16)
    monkeypatch.setattr(json_list, "LONGEST", 1000)
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"a": "' + b"x" * 100_000)
    with pytest.raises(DataError, match="Unterminated string"):
        list(Rows(path))
    with pytest.raises(DataError, match="no such file"):
        Rows(tmp_path / "gone.json")


@pytest.mark.parametrize("block", [1, 3, 1 << 18])
def test_a_list_inside_an_object(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_list, "BLOCK", block)
    path = tmp_path / "x.json"
    path.write_text('\ufeff {"qtype": {"1": "]", "2": [3]}, "n": 12, "data": [{"a": 1}, {"b": "}"}], "more": 1}')
    assert Rows(path).key == "data" and [row for _, row in Rows(path)] == [{"a": 1}, {"b": "}"}]
    path.write_text('{"questions": []}')
    assert Rows(path).key == "questions" and list(Rows(path)) == []
    for text, why in (
        ('{"qtype": {"1": 2}}', "no list under the key 'data'"),
        ('{"qtype": 1, "data": {"a": 1}}', "found '{', expected '\\['"),
        ('{"questions": [{"a": 1}', "behind row 1 .found 'the end"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=why):
            list(Rows(path))
    path.write_text('{"questions": 3}')  # no list: a line of JSONL
    assert Rows(path).key is None and list(Rows(path)) == [(1, {"questions": 3})]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON, max_size=5), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_any_list_is_read_as_json_reads_it(tmp_path, items, block, plain_unicode, indent):
    path = tmp_path / "any.json"
    path.write_text(json.dumps(items, ensure_ascii=not plain_unicode, indent=indent), "utf-8", "replace")
    before, json_list.BLOCK = json_list.BLOCK, block
    try:
        assert plain(Rows(path)) == whole(path)
    finally:
        json_list.BLOCK = before


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_memory_is_flat(tmp_path, monkeypatch, name):
    """The peak over 4,000 rows of as many images is that over 500: held whole, a list's would be eightfold."""
    monkeypatch.setattr(rows, "REMEMBERED", 256)
    monkeypatch.setattr(json_list, "BLOCK", 1 << 14)
    monkeypatch.setattr(rows.os.path, "isfile", lambda path: True)
    peaks = []
    for count in (500, 4_000):
        path = tmp_path / name
        made = ({"image": f"{i}.png", "conversations": turns("<image>\nWhat?", f"{i}")} for i in range(count))
        dump(path, list(made))
        tracemalloc.start()
        assert sum(1 for _ in samples.read(path, "conversations", task="vqa", verify_images=False)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000 and peaks[1] < 600_000, peaks
