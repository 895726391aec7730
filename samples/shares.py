"""The arithmetic of mixtures: how many rows, and which."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from samples import Sample


def percentage(percent: float, count: int) -> int:
    """How many of `count` rows this percentage is: the nearest whole number, halves up."""
    return math.floor(Fraction(str(percent)) * count / 100 + Fraction(1, 2))


def quotas(ratios: Sequence[float], total: int) -> list[int]:
    """`total` rows split in these proportions, each within one row of the exact share (largest remainders)."""
    parts = [Fraction(str(ratio)) for ratio in ratios]
    exact = [total * part / sum(parts) for part in parts]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda n: counts[n] - exact[n])
    for number in by_remainder[: total - sum(counts)]:
        counts[number] += 1
    return counts


def draw_key(seed: int, sample: Sample) -> int:
    """A row's place in the draw, below 2⁶⁴: smaller ones are drawn first."""
    text = f"{seed}\0{sample.source}\0{sample.id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def drawn(keys: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Numbers of the `count` rows with the smallest keys, ascending; equal keys (equal ids) go by their order."""
    return np.sort(np.argsort(np.asarray(keys, np.uint64), kind="stable")[:count])
