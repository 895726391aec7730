"""Every different picture of the data, decoded once for all checks, however many rows show it.

Pictures go to worker processes in batches, of which only a few are in flight at a time, so memory does not grow with
the pixels. What is kept of a picture: its name, size, a digest of its pixels and its perceptual hash, some 400 bytes.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np

from samples.doctor.brightness import tone
from vlm.common.errors import DataError, UserError
from vlm.pictures import images
from vlm.pictures.digests import digest, perceptual_hash

BATCH = 16
"""Pictures handed to a worker at a time."""
UNDER_WAY = 4
"""Batches for each worker that are in flight at most."""
TRAIN, EVAL = 1, 2
ROLES = {"train": TRAIN, "eval": EVAL}


class Look(NamedTuple):
    """What decoding a picture told."""

    size: tuple[int, int] | None = None
    "(width, height) in pixels, upright; None where it cannot be decoded."
    pixels: bytes = b""
    "16 bytes of `vlm.pictures.digests.digest`."
    looks: bytes = b""
    "The perceptual hash, packed; empty where the picture has no features."
    tone: str = ""
    "What of `samples.doctor.brightness.KINDS` it is."
    fault: str = ""
    "Why it cannot be decoded."
    orientation: int = 1
    "Of EXIF, 1 to 8; 1 is upright as it is stored."


PENDING = Look(fault="not decoded yet")


def look(picture: str | bytes) -> Look:
    """Decode one picture. Never raises for what is wrong with the picture."""
    try:
        found, size, turn = images.preview(picture), images.size(picture), images.orientation(picture)
    except UserError as error:  # of a recipe, too: no rasterio
        return Look(fault=str(error))
    bits = perceptual_hash(found)
    looks = b"" if bits is None else np.packbits(bits).tobytes()
    return Look(size, digest(found)[:16], looks, tone(found), orientation=turn)


def look_at(pictures: Sequence[str | bytes]) -> list[Look]:
    """A worker's task."""
    return [look(picture) for picture in pictures]


def _leave_ctrl_c() -> None:
    """Ctrl-C reaches every process of the terminal; the main one decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Gallery:
    """The pictures by number. A context manager: leaving it ends the workers.

    workers: processes that decode; 1 decodes in this one. told: called with (decoded, known) as they change.
    """

    def __init__(self, workers: int, told: Callable[[int, int], None] = lambda decoded, known: None):
        self.workers, self.told = workers, told
        self.numbers: dict[str | bytes, int] = {}
        self.names: list[str] = []
        "The file, or for bytes that a row brings, their digest."
        self.looks: list[Look] = []
        self.roles = array("B")
        "TRAIN, EVAL, or both added."
        self.rows = {role: array("L") for role in ROLES}
        "How many rows of each role show it."
        self.shown_by: dict[str, list[str]] = {role: [] for role in ROLES}
        "The first row of each role that shows it."
        self._batch: list[tuple[int, str | bytes]] = []
        self._under_way: dict[Future[list[Look]], list[int]] = {}
        self._pool: ProcessPoolExecutor | None = None
        self.decoded = 0

    def __enter__(self) -> Gallery:
        if self.workers > 1:
            # spawn: what the main process has loaded (a tokenizer's threads) does not survive a fork
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_leave_ctrl_c)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:  # after an error: what is not begun is dropped, what is takes moments
            self._pool.shutdown(cancel_futures=kind is not None)

    def add(self, picture: str | bytes, role: str, row: str) -> int:
        """The picture's number; decodes it, soon, if it is new. row: how the row that shows it is named."""
        key = hashlib.sha256(picture).digest() if isinstance(picture, bytes) else picture
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.names)
            self.names.append(picture if isinstance(picture, str) else f"bytes in {row}")
            self.looks.append(PENDING)
            self.roles.append(0)
            for each in ROLES:
                self.rows[each].append(0)
                self.shown_by[each].append("")
            self._batch.append((number, picture))
            if len(self._batch) == BATCH:
                self._hand_over()
        self.roles[number] |= ROLES[role]
        self.rows[role][number] += 1
        self.shown_by[role][number] = self.shown_by[role][number] or row
        return number

    def finish(self) -> None:
        """Wait until every picture is decoded."""
        if self._batch:
            self._hand_over()
        while self._under_way:
            self._collect()

    def _hand_over(self) -> None:
        numbers, pictures = [n for n, _ in self._batch], [p for _, p in self._batch]
        self._batch = []
        if self._pool is None:
            self._keep(numbers, look_at(pictures))
            return
        while len(self._under_way) >= UNDER_WAY * self.workers:
            self._collect()
        try:
            self._under_way[self._pool.submit(look_at, pictures)] = numbers
        except BrokenProcessPool as error:
            raise self._broken(numbers) from error

    def _collect(self) -> None:
        done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        for future in done:
            numbers = self._under_way[future]
            try:
                self._keep(numbers, future.result())
            except BrokenProcessPool as error:
                raise self._broken(numbers) from error
            del self._under_way[future]

    def _keep(self, numbers: Sequence[int], looks: Sequence[Look]) -> None:
        for number, found in zip(numbers, looks, strict=True):
            self.looks[number] = found
        self.decoded += len(numbers)
        self.told(self.decoded, len(self.names))

    def _broken(self, numbers: Sequence[int]) -> DataError:
        among = [n for group in (*self._under_way.values(), numbers) for n in group]
        return DataError(
            f"a worker process died while it decoded one of {len(set(among))} pictures, {self.names[min(among)]} to "
            f"{self.names[max(among)]}; is there enough memory? --workers 1 decodes one at a time and shows which"
        )
