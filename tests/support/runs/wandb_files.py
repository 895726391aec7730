"""What an offline run of wandb holds, read back from the files that `wandb sync` would send."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as records

LIMIT = 60
"""Seconds."""
HEADER, BLOCK = b":W&B", 32768
FULL, FIRST, LAST = 1, 2, 4


@dataclass
class Offline:
    """One run, with the last word on everything."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[Any] = field(default_factory=list)
    tables: list[list[dict[str, Any]]] = field(default_factory=list)
    "In order; cells by column."
    files: dict[str, Path] = field(default_factory=dict)
    "Of all tables: path as a cell names it → where it lies."


def read(folder: Path) -> Offline:
    """The one offline run below `folder`, a training's; waits until wandb's own process has ended it."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + LIMIT
    while not (written := _written(path)) or written[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.05)
    found = Offline()
    for record in written:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            _update(found.config, record.run.config)
        elif kind == "config":
            _update(found.config, record.config)
        elif kind == "history":
            items = record.history.item
            found.history.append({".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
        elif kind == "alert":
            found.alerts.append(record.alert)
        elif kind == "artifact":
            found.files |= {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
            (table,) = [entry for entry in record.artifact.manifest.contents if entry.path.endswith(".table.json")]
            content = json.loads(Path(table.local_path).read_text())
            found.tables.append([dict(zip(content["columns"], row, strict=True)) for row in content["data"]])
    return found


def _written(path: Path) -> list[Any]:
    found = []
    for content in _records(path.read_bytes()):
        found.append(records.Record())
        found[-1].ParseFromString(content)
    return found


def _update(config: dict[str, Any], record: Any) -> None:
    for item in record.update:
        config[".".join(item.nested_key) or item.key] = json.loads(item.value_json)


def _records(data: bytes) -> Iterator[bytes]:
    """LevelDB's log format (https://github.com/google/leveldb/blob/main/doc/log_format.md) behind seven bytes: blocks
    of 32 KiB; in them checksum, length, type and a record or a part of one."""
    assert data[:4] == HEADER or len(data) < 7
    place, record = 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:  # too short for a record: filled up
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if place + 7 + length > len(data):
            return  # being written
        part, place = data[place + 7 : place + 7 + length], place + 7 + length
        record = part if kind in (FULL, FIRST) else record + part
        if kind in (FULL, LAST):
            yield record
