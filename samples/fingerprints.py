"""What tells apart the data and the model that a run began with, cheaply: seconds for what is many gigabytes."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from samples import Sample

WORDS = (".json", ".jinja", ".txt", ".model")
"""Ends of a checkpoint's files that are read whole: configuration, tokenizer, chat template."""
FIELDS = ("messages", "task", "answer", "boxes", "quads", "size", "choices", "source", "id", "kind")


class RowDigest:
    """SHA-256 of rows in their order, every field of them. Pictures count by name (below `folder`: relative to it) and
    size; those that stand in the row, by their bytes. How a raster is read is part of its name."""

    def __init__(self, folder: Path):
        self.folder, self._found = folder, hashlib.sha256()

    def see(self, sample: Sample) -> None:
        row = [_picture(image, self.folder) for image in sample.images], [getattr(sample, name) for name in FIELDS]
        if sample.references is not None:  # a field that came later: rows without it keep their digests
            row[1].append(sample.references)
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


def _picture(image: str | bytes, folder: Path) -> str:
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
         "weights": {"model.safetensors": {"bytes": 123, "header": sha256}, …}}

    A header names each tensor with shape, type and place in the file; the numbers themselves are not read.
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
            file.name: {"bytes": file.stat().st_size, "header": _header(file)}
            for file in files
            if file.suffix == ".safetensors"
        },
    }


def _cached(path: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _header(file: Path) -> str:
    """SHA-256 of a safetensors header: 8 bytes with its length (little-endian), then JSON."""
    with file.open("rb") as stream:
        size = stream.read(8)
        return hashlib.sha256(size + stream.read(struct.unpack("<Q", size)[0])).hexdigest()
