"""Marks of training rows that a model answers without their picture (`launch/data.py --blind`), and leaving them out.

    data:
      drop_blind: runs/r1/doctor/blind.jsonl

    {"key": "93b1c4d2a0e85f17", "file": "rl.jsonl", "row": 12, "source": "rl", "id": "7", "task": "vqa",
     "kind": "count", "share": 1.0, "draws": 1, "blind": true, "model": "Qwen/Qwen2-VL-2B-Instruct",
     "prompt": "5f0c9e2b71"}

A line for each row that passed its source's filters, those that cannot be marked among them (`share` and `blind` null,
with `why`). `key` tells the row: a hash of its pictures' names (below its file's folder), conversation, task, answer
and choices, so that marks hold whatever the source is called, and wherever in the file the row stands. Every row of
`data.train` must have one. `blind` is what decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samples.fingerprints import picture_name
from samples.sample import Sample
from vlm.common.errors import DataError

if TYPE_CHECKING:
    from samples.sections import DataSection
    from vlm.sections import PromptSection

FIELDS = ("key", "file", "blind", "model", "prompt")


def row_key(sample: Sample, folder: Path) -> int:
    """Tells a row by what is asked, below 2⁶⁴. folder: absolute, which its pictures' names are seen from."""
    pictures = [picture_name(image, folder) for image in sample.images]
    row = [pictures, sample.messages, sample.task, sample.answer, sample.choices]
    text = json.dumps(row, ensure_ascii=True, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def folder_of(path: str | Path) -> Path:
    """The folder that names of a source's pictures are seen from."""
    found = Path(path)
    return (found if found.is_dir() else found.parent).absolute()


def prompt_key(section: PromptSection) -> str:
    """Tells how questions are asked: system prompt by style, and wording."""
    said = json.dumps([section.style, section.system, section.wording], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:10]


@dataclass(frozen=True, eq=False)
class Marks:
    """What a file of marks says."""

    path: str
    known: np.ndarray
    "Keys of all its rows, sorted."
    blind: np.ndarray
    "Of those that are left out, sorted."
    models: tuple[str, ...]
    prompts: tuple[str, ...]
    files: tuple[str, ...]

    def of(self, key: int) -> bool | None:
        """Whether the row is left out; None where there is no mark of it."""
        if not _holds(self.known, key):
            return None
        return _holds(self.blind, key)

    def of_all(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows,) whether each is left out, and whether it has no mark."""
        return np.isin(keys, self.blind), ~np.isin(keys, self.known)

    def refuse(self, path: str, rows: int, missing: int, first: str) -> None:
        """Raises: DataError where rows of a source have no mark. first: the name of the first of them."""
        if missing:
            files = ", ".join(self.files[:4]) + (" …" if len(self.files) > 4 else "")
            raise DataError(
                f"data.drop_blind: {self.path} has no mark for {missing:,} of the {rows:,} rows of {path}, the first "
                f"{first}; it was made for the rows of {files}. Mark these: python launch/data.py RECIPE --blind MODEL"
            )

    def said(self, prompt: str) -> list[str]:
        """What is to be known of it. prompt: `prompt_key` of the recipe; empty where that is not known."""
        who = ", ".join(self.models) or "nobody"
        lines = [f"data.drop_blind: rows that {who} answers without their picture are left out ({self.path})"]
        if prompt and {*self.prompts} - {prompt}:
            lines.append(
                f"note: {who} was asked by another prompt than this recipe's when {Path(self.path).name} was made "
                f"({', '.join(self.prompts)}, this one is {prompt})"
            )
        return lines


def _holds(keys: np.ndarray, key: int) -> bool:
    place = int(np.searchsorted(keys, np.uint64(key)))
    return place < len(keys) and int(keys[place]) == key


def marks_of(data: DataSection, role: str) -> Marks | None:
    """Those that `data.train` is drawn by; None for `data.eval`, and where the recipe names none. Raises: as `read`."""
    if role != "train" or data.drop_blind is None:
        return None
    path = Path(data.drop_blind)
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(
            f"data.drop_blind: {path} cannot be read ({error.strerror}); it is written by: python launch/data.py "
            "RECIPE --blind MODEL"
        ) from error
    return _read(str(path), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)
def _read(path: str, *state: int) -> Marks:
    return read(path)


def read(path: str) -> Marks:
    """Raises: DataError naming file, line and field."""
    known: list[int] = []
    blind: list[int] = []
    told: dict[str, dict[str, None]] = {name: {} for name in ("model", "prompt", "file")}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    key, out, row = _mark(line, f"data.drop_blind: {path}, line {number}")
                    known.append(key)
                    blind += [key] if out else []
                    for name, values in told.items():
                        values[row[name]] = None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.drop_blind: {path} cannot be read ({error})") from error
    models, prompts, files = (tuple(values) for values in told.values())
    return Marks(path, _sorted(known), _sorted(blind), models, prompts, files)


def _sorted(keys: list[int]) -> np.ndarray:
    return np.unique(np.array(keys, np.uint64))


def _mark(line: str, where: str) -> tuple[int, bool, dict[str, Any]]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{where}: found no JSON ({error}), expected a mark as launch/data.py --blind writes it"
        ) from error
    missing = [name for name in FIELDS if not isinstance(row, dict) or name not in row]
    if missing:
        raise DataError(
            f"{where}, field {missing[0]!r}: found none, expected a mark as launch/data.py --blind writes it"
        )
    if row["blind"] not in (True, False, None):
        raise DataError(f"{where}, field 'blind': found {row['blind']!r}, expected true, false or null")
    try:
        key = int(row["key"], 16)
    except (ValueError, TypeError):
        key = -1
    if not 0 <= key < 2**64:
        raise DataError(f"{where}, field 'key': found {row['key']!r}, expected 16 hexadecimal digits")
    for name in ("model", "prompt", "file"):
        if not isinstance(row[name], str):
            raise DataError(f"{where}, field {name!r}: found {row[name]!r}, expected a text")
    return key, row["blind"] is True, row


def first_missing(missing: np.ndarray, rows: Sequence[Sample]) -> str:
    """The name of the first row that has no mark; "" where all have."""
    places = np.flatnonzero(missing)
    if not len(places):
        return ""
    row = rows[int(places[0])]
    return f"{row.source}/{row.id}"
