"""Tables of checked samples: what is kept, when it is built anew, and that it holds what the files say."""

import datetime
import json
import logging
import multiprocessing
import os
import pickle
import signal
import tracemalloc
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samples import Sample, mixture
from samples.facts import CODEC
from samples.fingerprints import of_rows
from samples.mixture import tables
from samples.rows import chat_rows, prompt_rows
from samples.sections import DataSection, SourceSection
from samples.store import Drawn, Table, Writer, content
from samples.store import table as store_table
from tests.support.sample_rows import dump
from vlm.common.errors import DataError
from vlm.sections import PromptSection

PROMPT = PromptSection(style="direct", notation="qwen2_vl")


class Quiet:
    """A check that refuses nothing, and says so."""

    identity = ""

    def __call__(self, sample):
        pass


def question(number, **changes):
    turns = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"It is {number}."}]
    return {"images": ["a.png"], "messages": turns, "task": "vqa", "answer": str(number), "id": str(number)} | changes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NADIR_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    return tmp_path


def data(*paths, **changes):
    return DataSection(train=[SourceSection(path=str(path)) for path in paths], **changes)


def drawn(*paths, check=None, **changes):
    return mixture.draw(data(*paths, **changes), "train", 0, check)


def kept(folder):
    return sorted(folder.glob("cache/tables/*/*/rows.arrow"))


@pytest.fixture
def unread(monkeypatch):
    """Makes it an error to read a source from now on."""

    def forbid():
        monkeypatch.setattr(tables, "Source", lambda *given, **named: pytest.fail("the rows are read again"))

    return forbid


def test_records_come_back_as_they_were():
    columns = {"x": 0.1 + 0.2, "half": "\ud83d", "when": datetime.datetime(2024, 2, 29, 1, 2, 3, 4), "day": None}
    columns |= {"price": Decimal("1.10"), "raw": b"\0\xff", "far": datetime.timedelta(days=-3, microseconds=7)}
    turns = [{"role": "user", "content": "船?"}]
    records = [
        Sample(["/a.png", b"\x89PNG", b""], turns, "vqa", "ja", size=(3, 4), columns=columns, source="s", id="1"),
        Sample([], turns, "grounding", boxes=[[1 / 3, 0.0, 2.0, 1e-7]], quads=None, choices=["a", "b"], id="é"),
    ]
    found = Drawn.of(records, CODEC)
    assert list(found) == records
    assert [type(value) for value in found[0].columns.values()] == [type(value) for value in columns.values()]
    assert found[-1] == records[1] and found[0:2] == records
    with pytest.raises(IndexError):
        found[2]
    with pytest.raises(DataError, match=r"s: row '1': a value of the type complex cannot be kept in a table"):
        Drawn.of([Sample([], turns, "vqa", columns={"z": 1j}, source="s", id="1")], CODEC)


def test_pieces_hold_a_bounded_number_of_bytes_and_offsets_of_64_bits(tmp_path):
    """Arrow's short offsets end at 2 GiB of one column in one piece."""
    writer = Writer(CODEC, tmp_path, piece=1000)
    records = [Sample([bytes([n]) * 400], [], "caption", id=str(n)) for n in range(7)]
    for record in records:
        writer.add(record)
    about = writer.close()
    (tmp_path / store_table.ABOUT).write_text(json.dumps(about))
    table = Table.open(tmp_path, CODEC)
    assert [len(batch) for batch in table._batches] == [3, 3, 1] or len(table._batches) == 4
    assert list(table) == records
    kinds = table._batches[0].schema
    assert str(kinds.field("record").type) == "large_binary"
    assert str(kinds.field("pictures").type) == "large_list<item: large_binary>"
    assert pickle.loads(pickle.dumps(table))[5] == records[5]


def test_pictures_in_bytes_stand_beside_paths(folder):
    import pyarrow
    from pyarrow import parquet

    encoded = (folder / "a.png").read_bytes()
    turns = [[{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]]
    columns = {"images": [[encoded]], "messages": turns, "task": ["vqa"], "answer": ["c"], "id": ["inside"]}
    parquet.write_table(pyarrow.table(columns), folder / "b.parquet")
    dump(folder / "a.jsonl", [question(1)])
    for on_fault in ("error", "skip"):
        found = drawn(folder / "b.parquet", folder / "a.jsonl", on_fault=on_fault)
        assert [sample.id for sample in found.samples] == ["inside", "1"]
        for rows in (prompt_rows, chat_rows):
            assert [row["images"][0].size for row in rows(found.samples, PROMPT)] == [(20, 10)] * 2


def test_a_second_start_reads_nothing_and_says_the_same(folder, unread, capsys, caplog):
    caplog.set_level(logging.INFO)
    rows = [question(1, level=3), question(2, images=["gone.png"]), question(3), question(4, task="caption")]
    path = dump(folder / "a.jsonl", rows)

    def start():
        caplog.clear()
        found = drawn(path, on_fault="skip", tasks=["vqa"])
        said = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
        return found.record(), list(found.samples), found.samples.facts(), said, capsys.readouterr().err

    first = start()
    assert len(kept(folder)) == 1
    unread()
    second = start()
    assert second == first
    assert "columns that travel on: level" in second[4] and any("gone.png" in text for _, _, text in second[3])
    source = second[0]["sources"][0]
    assert (source["rows"], source["faulty"], source["tasks"]["caption"]["read"]) == (2, 1, 1)
    assert source["sha256"] == of_rows(second[1], folder)


@pytest.mark.parametrize("hidden", [False, True])
def test_content_that_changed_is_read_anew(folder, hidden):
    """At once, at equal length; with `hidden` the time of change is put back, as some copies do."""
    path = dump(folder / "a.jsonl", [question(1)])
    before = os.stat(path)
    assert drawn(path).samples[0].answer == "1"
    dump(path, [question(2)])
    if hidden:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size
    assert drawn(path).samples[0].answer == "2"
    assert len(kept(folder)) == 1, "the table of the old content is gone"


def test_bytes_of_a_file_at_rest_are_not_read_again(tmp_path, monkeypatch):
    path, memory = dump(tmp_path / "a.jsonl", [question(1)]), tmp_path / "memory"
    now = content.time.time_ns()
    first = content.digest(path, memory)
    read = []
    real = content.hashlib.file_digest
    monkeypatch.setattr(content.hashlib, "file_digest", lambda *given: read.append(1) or real(*given))
    assert content.digest(path, memory) == first and read == [1], "it was written a moment before: read again"
    monkeypatch.setattr(content.time, "time_ns", lambda: now + 60_000_000_000)
    assert content.digest(path, memory) == first and len(read) == 2
    assert content.digest(path, memory) == first and len(read) == 2, "it had rested for a minute"
    memory.write_text("{")
    assert content.digest(path, memory) == first and len(read) == 3


def test_settings_that_matter_have_tables_of_their_own(folder):
    path = dump(folder / "a.jsonl", [question(n) for n in range(4)])
    assert len(drawn(path).samples) == 4
    one = DataSection(train=[SourceSection(path=str(path), limit=2, name="other")])
    found = mixture.draw(one, "train", 0).samples
    assert [(sample.source, sample.id) for sample in found] == [("other", "0"), ("other", "1")]
    assert len(kept(folder)) == 2
    drawn(path, check=lambda sample: None)
    assert len(kept(folder)) == 2, "a check that does not say what it refuses: nothing is kept"
    place = folder / "elsewhere"
    drawn(path, cache=str(place))
    assert len(list(place.glob("tables/*/*/rows.arrow"))) == 1
    seeds = DataSection(train=[SourceSection(path=str(path), percent=50)])
    for seed in (0, 1):  # the draw's own keys are noted beside the rows
        of_memory = mixture.Source(seeds.train[0], seeds, seed, "error")
        rows = list(of_memory)
        expected = [rows[number].id for number in of_memory.uses(None)]
        assert [sample.id for sample in mixture.draw(seeds, "train", seed).samples] == expected
    assert len(kept(folder)) == 2


def test_pictures_that_changed_are_seen_at_the_next_start(folder):
    path = dump(folder / "a.jsonl", [question(1, boxes=[[0, 0, 20, 10]])])
    assert drawn(path).samples[0].size == (20, 10)
    Image.new("RGB", (5, 5)).save(folder / "a.png")
    with pytest.raises(DataError, match=r"a.jsonl, line 1, field 'boxes'.*0 to 5 and 0 to 5"):
        drawn(path)
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"a.jsonl, line 1, field 'images'"):
        drawn(path)


def test_a_damaged_table_is_built_anew(folder, caplog):
    path = dump(folder / "a.jsonl", [question(1)])
    drawn(path)
    with kept(folder)[0].open("r+b") as file:
        file.truncate(100)
    assert drawn(path).samples[0].answer == "1"
    assert "is damaged" in caplog.text
    caplog.clear()
    assert drawn(path).samples[0].answer == "1" and not caplog.text


def test_what_cannot_be_kept_is_read_by_each_process(folder, monkeypatch, caplog):
    """A cache that cannot be written; rows that were joined from several files, and folders."""
    path = dump(folder / "a.jsonl", [question(1)])
    monkeypatch.setenv("NADIR_CACHE", str(path / "below"))
    assert drawn(path).samples[0].answer == "1"
    assert "no table can be kept there" in caplog.text
    monkeypatch.setenv("NADIR_CACHE", str(folder / "cache"))
    captions = {"images": [{"filename": "a.png", "sentences": [{"raw": "a dam"}], "split": "train"}]}
    (folder / "captions.json").write_text(json.dumps(captions))
    found = drawn(folder / "captions.json").samples
    assert found[0].answer == "a dam" and found.parts[0][0].folder is None
    assert not kept(folder)
    percent = DataSection(train=[SourceSection(path=str(folder / "captions.json"), percent=100)])
    assert len(mixture.draw(percent, "train", 0).samples) == 1


def test_a_full_disk_and_a_file_that_grows_are_named(folder, monkeypatch):
    path = dump(folder / "a.jsonl", [question(1)])

    class Grows(Quiet):
        def __call__(self, sample):
            with path.open("a") as file:
                file.write("\n")

    with pytest.raises(DataError, match=r"a.jsonl: has changed while it was read"):
        drawn(path, check=Grows())
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match=r"No space left on device; NADIR_CACHE or data.cache"):
        drawn(path)
    assert not kept(folder) and not list(folder.glob("cache/tables/*/building"))


def started(target, *given):
    process = multiprocessing.get_context("fork").Process(target=target, args=given)
    process.start()
    return process


def test_two_processes_at_once_build_one_table(folder):
    path = dump(folder / "a.jsonl", [question(n) for n in range(300)])
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(2), context.SimpleQueue()

    class Seen(Quiet):
        def __init__(self):
            self.count = 0

        def __call__(self, sample):
            self.count += 1

    def start():
        check = Seen()
        barrier.wait()
        samples = drawn(path, check=check).samples
        found.put((check.count, len(samples), samples[299].answer))

    processes = [started(start), started(start)]
    answers = sorted(found.get() for _ in processes)
    for process in processes:
        process.join()
    assert answers == [(0, 300, "299"), (300, 300, "299")]
    assert len(kept(folder)) == 1


def test_after_kill_9_in_the_middle_the_next_start_builds_anew(folder):
    path = dump(folder / "a.jsonl", [question(n) for n in range(9)])

    class Killed(Quiet):
        def __call__(self, sample):
            if sample.id == "5":
                os.kill(os.getpid(), signal.SIGKILL)

    process = started(lambda: drawn(path, check=Killed()))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = folder.glob("cache/tables/*/building/rows.arrow")
    assert [sample.id for sample in drawn(path, check=Quiet()).samples] == [str(n) for n in range(9)]
    assert len(kept(folder)) == 1 and not left.exists()


@pytest.mark.parametrize("rows", [prompt_rows, chat_rows])
def test_workers_that_are_not_forked_get_the_rows(folder, rows):
    """A data loader pickles its table for them; the kept one is opened again there."""
    path = dump(folder / "a.jsonl", [question(n) for n in range(50)])
    table = rows(drawn(path).samples, PROMPT)
    packed = pickle.dumps(table)
    assert pickle.loads(packed)[7] == table[7] and len(packed) < 20_000
    few = rows([Sample([], question(1)["messages"], "vqa", "b")], PROMPT)
    assert pickle.loads(pickle.dumps(few))[0] == few[0]


def test_copies_are_numbered_as_they_come():
    random = np.random.default_rng(3)
    turns = [{"role": "user", "content": "a"}]
    records = [Sample([], turns, "vqa", "b", source="s", id=str(n)) for n in random.integers(0, 6, 40)]
    expected, seen = [], Counter()
    for record in records:
        expected.append(seen[record.id])
        seen[record.id] += 1
    found = Drawn.of(records, CODEC)
    assert found.copies().tolist() == expected
    assert [row["copy"] for row in prompt_rows(records, PROMPT)] == expected
    both = Drawn([*found.parts, *Drawn.of(records[:1], CODEC).parts])
    assert both.copies().tolist() == [*expected, seen[records[0].id]]
    assert Drawn.of([records[0]], CODEC).copies() is None


def test_references_are_checked_once(folder, monkeypatch):
    turns = [{"role": "user", "content": "the dam"}]
    rows = [question(n, task="grounding", messages=turns, boxes=[[0, 0, 9, 9]]) for n in range(3)]
    path = dump(folder / "a.jsonl", rows)
    first = chat_rows(drawn(path).samples, PROMPT)[2]["messages"][-1]
    written = []
    from samples import rows as module

    reference = module.reference
    monkeypatch.setattr(module, "reference", lambda *given: written.append(given) or reference(*given))
    table = chat_rows(drawn(path).samples, PROMPT)
    assert not written and table[2]["messages"][-1] == first and len(written) == 1
    chat_rows(drawn(path).samples, PROMPT.model_copy(update={"notation": "geochat"}))
    assert len(written) == 1 + 3, "another notation is another check"


def test_digests_are_those_of_paths_taken_apart():
    def slow(image, folder):
        return Path(image).relative_to(folder).as_posix() if Path(image).is_relative_to(folder) else image

    from samples.fingerprints import picture_name

    names = [
        "/a/b/c.png",
        "/a/bc/d.png",
        "/a//b/c.png",
        "/a/./b/c.png",
        "/x",
        "x/y",
        "/a/b/c/",
        "/a/b/c/.",
        "/a/../a/x",
    ]
    names += ['/a/b/x.tif\0{"u": "http://"}', "/a/b/./c"]
    for folder in map(Path, ("/a/b", "/", "/a/../a")):
        assert [picture_name(name, folder) for name in names] == [slow(name, folder) for name in names]


@pytest.mark.parametrize("rows", [prompt_rows, chat_rows])
def test_memory_does_not_grow_with_the_rows(folder, rows):
    """What a started run holds of 2,000 rows and of 300: row numbers (4 bytes each), no samples (1.4 kB each)."""

    def held(count):
        path = dump(folder / f"{count}.jsonl", [question(n, level={"of": [n]}) for n in range(count)])
        drawn(path)
        tracemalloc.start()
        table = rows(drawn(path).samples, PROMPT)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(table) == count and (rows is chat_rows or table[count - 1]["level"] == {"of": [count - 1]})
        return size

    held(300)  # imports
    assert held(2000) - held(300) < 50_000
