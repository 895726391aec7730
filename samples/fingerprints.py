"""What tells apart the data and the model that a run began with, cheaply: seconds for what is many gigabytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from samples import Sample
from vlm.pictures import rasters

WORDS = (".json", ".jinja", ".txt", ".model")
"""Ends of a checkpoint's files that are read whole: configuration, tokenizer, chat template."""
FIELDS = ("messages", "task", "answer", "boxes", "quads", "size", "choices", "source", "id", "kind")

MOST = 20_000
"""Rows of a source whose pictures are read at each start of a run."""
GONE = b"gone"
PIECE, PIECES = 4096, 16
"""Bytes read at each place of a large file, and evenly spaced places: of a picture PIECES, of a weight's tensor 3."""


class RowDigest:
    """SHA-256 of rows in their order, every field of them. Pictures count by name (below `folder`: relative to it) and
    size; those that stand in the row, by their bytes. How a raster is read is part of its name."""

    def __init__(self, folder: Path):
        self.folder, self._found = folder, hashlib.sha256()

    def see(self, sample: Sample) -> None:
        row = [picture_name(image, self.folder) for image in sample.images], [getattr(sample, name) for name in FIELDS]
        if sample.references is not None:  # a field that came later: rows without it keep their digests
            row[1].append(sample.references)
        if sample.regions is not None:  # likewise
            row[1].append({"regions": sample.regions})
        for name in ("mask", "dates"):
            if (value := getattr(sample, name)) is not None:
                row[1].append({name: value})
        self._found.update(_encode(row).encode() + b"\n")
        if sample.columns:
            self._found.update(json.dumps(sample.columns, sort_keys=True, default=repr).encode() + b"\n")

    def hex(self) -> str:
        return self._found.hexdigest()


_encode = json.JSONEncoder(ensure_ascii=True, default=list).encode


def of_rows(samples: Iterable[Sample], folder: Path) -> str:
    """`RowDigest` of all of them."""
    found = RowDigest(folder)
    for sample in samples:
        found.see(sample)
    return found.hex()


class RecordDigest(RowDigest):
    """The same of rows that are another dataclass with `images`, such as preferences."""

    def see(self, record: Any) -> None:
        fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        fields["images"] = [picture_name(image, self.folder) for image in record.images]
        self._found.update(json.dumps(fields, sort_keys=True, default=repr).encode() + b"\n")


def pictures_of(rows: Sequence[Any], start: int = 0, stop: int | None = None) -> str:
    """`of_pictures` of some rows; of more than MOST, of as many that are spread evenly."""
    stop = len(rows) if stop is None else stop
    count = min(stop - start, MOST)
    numbers = (start + (stop - start) * n // count for n in range(count))
    return of_pictures(image for number in numbers for image in rows[number].images)


def of_pictures(images: Iterable[str | bytes]) -> str:
    """SHA-256 of the contents of picture files, each once, in their order: of small files all, of larger ones length
    and PIECES places. Those that stand in a row count with the row (`of_rows`). One that is gone counts as such."""
    paths = dict.fromkeys(rasters.plain(image) for image in images if isinstance(image, str))
    found = hashlib.sha256()
    with ThreadPoolExecutor(16) as threads:  # a file server answers many at a time
        for digest in threads.map(_content, paths):
            found.update(digest)
    return found.hexdigest()


def of_each_picture(images: Iterable[str | bytes]) -> dict[str | bytes, str]:
    """Each picture → SHA-256 of its content, as `of_pictures` reads it: what tells two pictures apart, whatever their
    files are called and however a raster is read. A file that is gone is like no other."""
    wanted = list(dict.fromkeys(images))
    files = list(dict.fromkeys(rasters.plain(image) for image in wanted if isinstance(image, str)))
    with ThreadPoolExecutor(16) as threads:
        found = dict(zip(files, threads.map(_content, files), strict=True))

    def said(image: str | bytes) -> str:
        bare = rasters.plain(image)
        if isinstance(bare, bytes):
            return _pieces(BytesIO(bare), 0, len(bare), PIECES).hexdigest()
        content = found[bare]
        return f"gone: {bare}" if content == GONE else content.hex()

    return {image: said(image) for image in wanted}


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return _pieces(file, 0, file.seek(0, 2), PIECES).digest()
    except FileNotFoundError:
        return GONE


def _pieces(file: BinaryIO, start: int, size: int, count: int) -> Any:
    """SHA-256 of a part of a file: its length and `count` evenly spaced pieces, or all of it where it is short."""
    found = hashlib.sha256(struct.pack("<Q", size))
    if size <= count * PIECE:
        file.seek(start)
        found.update(file.read(size))
        return found
    for number in range(count):
        file.seek(start + number * (size - PIECE) // (count - 1))
        found.update(file.read(PIECE))
    return found


def picture_name(image: str | bytes, folder: Path) -> str:
    """A picture's name below `folder` (absolute), else its path; of bytes their SHA-256."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    if not any(part in image for part in ("//", "/./")) and not image.endswith(("/", "/.")):
        # a name that needs no cleaning; Paths take more time than all other fields of a row
        return image.removeprefix(f"{folder.as_posix().rstrip('/')}/")
    return Path(image).relative_to(folder).as_posix() if Path(image).is_relative_to(folder) else image


def of_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_checkpoint(path: str, revision: str | None = None) -> dict[str, Any]:
    """Of a folder, or of what the cache holds of a hub id:

        {"path": …, "commit": of the hub or None, "files": {"config.json": sha256, …},
         "weights": {"model.safetensors": {"bytes": 123, "header": sha256, "sampled": sha256}, …}}

    A header names each tensor with shape, type and place in the file; of its numbers three places are read.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        found = _cached(path, revision)
        if found is None:
            return {"path": path, "commit": None, "files": {}, "weights": {}}
        folder = found
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return {
        "path": path,
        "commit": None if Path(path).expanduser().is_dir() else folder.name,
        "files": {file.name: of_file(file) for file in files if file.suffix in WORDS},
        "weights": {
            file.name: {"bytes": file.stat().st_size, **_weights(file)}
            for file in files
            if file.suffix == ".safetensors"
        },
    }


def _cached(path: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _weights(file: Path) -> dict[str, str]:
    """Of a safetensors file: 8 bytes with the length of its header (little-endian), JSON, then the tensors."""
    with file.open("rb") as stream:
        size = stream.read(8)
        text = stream.read(struct.unpack("<Q", size)[0])
        sampled = hashlib.sha256()
        for name, entry in sorted(json.loads(text).items()):
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                sampled.update(_pieces(stream, 8 + len(text) + start, end - start, 3).digest())
    return {"header": hashlib.sha256(size + text).hexdigest(), "sampled": sampled.hexdigest()}
