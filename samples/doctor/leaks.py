"""Contamination: pictures that training and evaluation share.

    same file     one path in both
    same pixels   other files that decode to the same pixels: copies, lossless conversions, stripped metadata
    alike         perceptual hashes at most NEAR bits apart: re-compressed, rescaled, brightened

The first two are certain. The third is for a person to judge, for other things look alike, too: empty sea, the same
place on another day, neighbouring tiles that overlap almost wholly. `vlm.pictures.digests` has what was measured;
crops are not found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from samples.doctor.gallery import EVAL, TRAIN, Gallery
from vlm.pictures.digests import BITS

NEAR = 24
"""Bits of 255. Were the bits of unrelated pictures fair coins, one pair in 10⁴⁰ would be that near."""
BLOCK = 2048
"""Pictures compared with as many others at a time: 2048² distances are 16 MiB."""
CERTAIN = ("same file", "same pixels")


@dataclass(frozen=True, slots=True)
class Leak:
    """A picture of the evaluation and the one of training that it is, or looks most like."""

    kind: str
    train: str
    "The file."
    eval: str
    train_row: str
    "The first row that shows it."
    eval_row: str
    rows: int
    "Evaluation rows that show it."
    bits: int
    "Bits in which the perceptual hashes differ; 0 for the same pixels."

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def leaks(gallery: Gallery) -> list[Leak]:
    """Each picture of the evaluation that is in training, too: the certain ones first, then the nearest."""
    roles = np.asarray(gallery.roles)
    by_pixels: dict[bytes, int] = {}
    for number in np.flatnonzero(roles & TRAIN).tolist():
        if pixels := gallery.looks[number].pixels:
            by_pixels.setdefault(pixels, number)
    found, left = [], []
    for number in np.flatnonzero(roles & EVAL).tolist():
        pixels = gallery.looks[number].pixels
        if roles[number] & TRAIN:
            found.append(_leak(gallery, "same file", number, number, 0))
        elif pixels in by_pixels:
            found.append(_leak(gallery, "same pixels", by_pixels[pixels], number, 0))
        else:
            left.append(number)
    found.sort(key=lambda leak: CERTAIN.index(leak.kind))
    return found + _alike(gallery, np.flatnonzero(roles & TRAIN).tolist(), left)


def _leak(gallery: Gallery, kind: str, train: int, held_out: int, bits: int) -> Leak:
    names, rows = gallery.names, gallery.shown_by
    shown = (rows["train"][train], rows["eval"][held_out], gallery.rows["eval"][held_out])
    return Leak(kind, names[train], names[held_out], *shown, bits)


def _alike(gallery: Gallery, train: list[int], held_out: list[int]) -> list[Leak]:
    train, held_out = ([n for n in side if gallery.looks[n].looks] for side in (train, held_out))
    if not train:
        return []
    found = []
    for start in range(0, len(held_out), BLOCK):
        part = held_out[start : start + BLOCK]
        signs = _signs(gallery, part)
        nearest, bits = np.zeros(len(part), np.int64), np.full(len(part), BITS + 1.0)
        for other in range(0, len(train), BLOCK):
            # (b, b): bits that differ, from the ±1 products; exact, for the sums are whole numbers below 2²⁴
            apart = (BITS - signs @ _signs(gallery, train[other : other + BLOCK]).T) / 2
            best = apart.argmin(axis=1)
            least = apart[np.arange(len(part)), best]
            closer = least < bits
            nearest[closer], bits[closer] = best[closer] + other, least[closer]
        for place in np.flatnonzero(bits <= NEAR).tolist():
            found.append(_leak(gallery, "alike", train[nearest[place]], part[place], int(bits[place])))
    return sorted(found, key=lambda leak: leak.bits)


def _signs(gallery: Gallery, numbers: list[int]) -> np.ndarray:
    """(n, BITS) float32 of ±1."""
    packed = np.frombuffer(b"".join(gallery.looks[number].looks for number in numbers), np.uint8)
    bits = np.unpackbits(packed.reshape(len(numbers), -1), axis=1, count=BITS)
    return bits.astype(np.float32) * 2 - 1
