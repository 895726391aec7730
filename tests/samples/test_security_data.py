"""What downloaded data may not do: reach out of its folder, fill the memory, or start a program."""

from __future__ import annotations

import ast
import json
import os
import struct
import zlib

import pytest
from PIL import Image

import samples
from rewards.prefer.recipe import CandidateSource
from rewards.prefer.rows import collect as candidates
from rewards.score.training import preferences
from samples.readers.rows import Place
from tests.support.processes.commands import ROOT
from vlm.common.errors import DataError
from vlm.pictures import images

TURNS = [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "A ship."}]
ASKED = [{"role": "user", "content": "What is it?"}]


@pytest.fixture
def data(tmp_path):
    """A folder with rows to come and one image; the file beside it is nobody's business."""
    (tmp_path / "data").mkdir()
    for name in ("secret.png", "data/own.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    return tmp_path / "data"


def talk(name):
    return {"image": name, "conversations": TURNS}


ROWS = {
    "conversations": talk,
    "sharegpt": lambda name: {"images": [name], "messages": TURNS},
    "geochat": lambda name: talk(name),
    "trl": lambda name: {"prompt": "What?", "image": name, "answer": "a", "task": "vqa"},
    "refgeo": lambda name: {"image_id": name, "question": "x", "bbox": [1, 2, 9, 9], "question_id": 1, "dataset": "d"},
    "lrs_vqa": lambda name: {"text": "x", "ground_truth": "2", "image": name, "image_size": 1},
    "vrsbench": lambda name: {"image_id": name, "ground_truth": "2", "question_id": 1, "question": "x", "type": "t"},
    "scorers_rl": lambda name: {"problem": "x", "answer": "a", "type": "em", "images": [name]},
    "nadir": lambda name: {"images": [name], "messages": ASKED, "task": "vqa", "answer": "2"},
}
"""format → a row that names this image."""
INWARD = ["own.png", "./own.png", "a/../own.png"]
OUTWARD = ["../secret.png", "a/../../secret.png", "./../data/../secret.png"]


def read(data, format, name, **options):
    file = data / "rows.jsonl"
    file.write_text(json.dumps(ROWS[format](name)) + "\n")
    task = "vqa" if format == "conversations" else None
    return [sample.images[0] for sample in samples.read(file, format, task=task, **options)]


@pytest.mark.parametrize("format", ROWS)
def test_a_row_stays_below_its_folder(data, format):
    for name in INWARD:
        assert read(data, format, name) == [str(data / "own.png")]
    for name in OUTWARD:
        with pytest.raises(
            DataError, match=r"rows.jsonl, line 1, field '.*': found '.*', expected a name below"
        ) as caught:
            read(data, format, name)
        assert str(data) in str(caught.value) and "`outside: true`" in str(caught.value)
    assert read(data, format, str(data / "own.png")) == [str(data / "own.png")], "absolute, and below the folder"
    secret = str(data.parent / "secret.png")
    if format == "nadir":
        assert read(data, format, secret) == [secret], "our own stages write absolute paths"
    else:
        with pytest.raises(DataError, match="expected a name below"):
            read(data, format, secret)
    for name in (*OUTWARD, secret):
        assert read(data, format, name, outside=True) == [secret]


def test_other_fields_that_become_folders(data):
    rows = data / "rows.jsonl"
    rows.write_text(json.dumps(talk("secret.png") | {"image_path": ".."}) + "\n")
    with pytest.raises(DataError, match="field 'image_path': found '..', expected a name below"):
        list(samples.read(rows, "conversations"))
    rows.write_text(json.dumps(ROWS["refgeo"]("secret.png") | {"dataset": "../.."}) + "\n")
    with pytest.raises(DataError, match="field 'dataset'"):
        list(samples.read(rows, "refgeo"))


def test_our_own_format_in_a_downloaded_table_has_no_privilege(data):
    import pyarrow
    from pyarrow import parquet

    row = ROWS["nadir"](str(data.parent / "secret.png"))
    parquet.write_table(pyarrow.Table.from_pylist([row]), data / "rows.parquet")
    with pytest.raises(DataError, match="row 1, field 'images': .*expected a name below"):
        list(samples.read(data / "rows.parquet", "nadir"))


def test_preferences_and_candidates(data):
    file = data / "rows.jsonl"
    secret = data.parent / "secret.png"
    published = {"question": "x", "chosen": "a", "rejected": "b"}
    for name in (*OUTWARD, str(secret)):
        file.write_text(json.dumps(published | {"image_path": name}) + "\n")
        with pytest.raises(DataError, match="missing_image|an image file that exists"):
            list(preferences.read(file))
        assert [one.images for one in preferences.read(file, outside=True)] == [[str(secret)]]
    for name in OUTWARD:
        file.write_text(json.dumps({"question": "x", "ranked": ["a", "b"], "images": [name]}) + "\n")
        with pytest.raises(DataError, match="expected a name below"):
            list(preferences.read(file))
        file.write_text(json.dumps(ROWS["nadir"](name) | {"candidates": ["a", "b"]}) + "\n")
        with pytest.raises(DataError, match="expected a name below"):
            candidates([CandidateSource(path=str(file))], "error")
        assert candidates([CandidateSource(path=str(file), outside=True)], "error")[0].sample.images == [str(secret)]


def test_symbolic_links_are_the_owners(data):
    (data / "link.png").symlink_to(data.parent / "secret.png")
    assert read(data, "conversations", "link.png") == [str(data / "link.png")]


def test_devices_and_folders_are_no_images(data):
    place = Place(data / "rows.jsonl", outside=True)
    for name in ("/dev/zero", "..", "/proc/self/environ"):
        try:
            found = place.find(name)
        except DataError:
            continue
        with pytest.raises(DataError, match="not an image file"):
            images.size(found)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of a few bytes whose header promises width × height pixels (PNG specification, 11.2.2 IHDR)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bmp(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(info), 0, 0, 54) + info


MIB = 2**20
BOMBS = {
    "100,000 × 100,000": (png(100_000, 100_000), "exceeds limit|at most"),
    "1 × 2³¹-1": (png(1, 2**31 - 1), "exceeds limit|at most"),
    "2³¹-1 × 1": (png(2**31 - 1, 1), "exceeds limit|at most"),
    "bitmap": (bmp(60_000, 60_000), "exceeds limit|at most"),
    "text of 64 MiB in a PNG": (png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(64 * MIB), 9))), "too large"),
    "profile of 64 MiB": (png(8, 8, (b"iCCP", b"a\0\0" + zlib.compress(bytes(64 * MIB), 9))), "too large"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_headers(data, name):
    content, words = BOMBS[name]
    assert len(content) < 80_000
    (data / "own.png").write_bytes(content)
    for image in (content, str(data / "own.png")):
        for function in (images.load, images.size):
            with pytest.raises(DataError, match=words):
                function(image)
    with pytest.raises(DataError, match=f"rows.jsonl, line 1, .*({words})"):
        read(data, "conversations", "own.png")


def test_of_many_frames_one_is_decoded(data):
    """200 frames of 500 × 500 would be 150 MB; the first is 750 kB."""
    first, rest = Image.new("L", (500, 500), 9), [Image.new("L", (500, 500))] * 199
    first.save(data / "many.tif", save_all=True, append_images=rest, compression="tiff_deflate")
    import tracemalloc

    tracemalloc.start()
    picture = images.load(str(data / "many.tif"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture.getpixel((0, 0)) == (9, 9, 9) and peak < 20e6


def test_a_picture_starts_no_program(data, monkeypatch):
    """Pillow hands EPS to Ghostscript: `gs` from the PATH."""
    trace = data / "it-ran"
    (data / "gs").write_text(f"#!/bin/sh\ntouch {trace}\n")
    (data / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{data}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    Image.new("RGB", (8, 8)).save(data / "own.png", "EPS")
    for function in (images.load, images.size):
        with pytest.raises(DataError, match="not an image file.*expected JPEG, PNG"):
            function(str(data / "own.png"))
    assert not trace.exists()
    with pytest.raises(OSError):  # without the ban it is started, and here leaves no picture
        Image.open(data / "own.png").load()
    assert trace.exists()


def test_every_picture_goes_through_the_one_place():
    """No other module of the product opens pictures, or reads what can run code."""
    dangerous = {"Image.open", "rasterio.open", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"}
    dangerous |= {"torch.load", "np.load"}
    found = {}
    for folder in ("vlm", "samples", "stage", "rewards", "sft", "rl", "evals", "studies", "launch"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            for call in calls:
                name = ast.unparse(call.func)
                said = {word.arg: ast.unparse(word.value) for word in call.keywords}
                safe = said.get("weights_only") == "True" or said.get("allow_pickle") == "False"
                if name in dangerous and not safe or name in ("eval", "exec"):
                    found.setdefault(str(path.relative_to(ROOT)), []).append(name)
    assert found == {"vlm/pictures/images.py": ["Image.open"], "vlm/pictures/rasters.py": ["rasterio.open"]}


LAUGHS = '<!DOCTYPE a [<!ENTITY x0 "lol">' + "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "text", [LAUGHS + "]><a>&x9;</a>", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>']
)
def test_annotations_in_xml_expand_nothing(data, text):
    (data / "Annotations").mkdir()
    (data / "Annotations" / "1.xml").write_text(text)
    with pytest.raises(DataError, match="1.xml: found text that is no XML") as caught:
        list(samples.read(data, "dior_rsvg", split="all"))
    assert "root:" not in str(caught.value) and len(str(caught.value)) < 1000
