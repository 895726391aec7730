"""Images and texts as vectors of length 1, whose dot product is a similarity: by CLIP, or without any weights.

    images   perceptual hash (`vlm.pictures.digests`): scaling, compression, a change of brightness hardly change it
    texts    TF-IDF of hashed character n-grams: spelling, punctuation and a few other words change it little

A vector of zeros means "nothing to compare" (a featureless image, a blank text); it is similar to nothing, itself
included, so such rows are kept.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from stage.guards.halving import in_batches
from vlm.answers import normalise
from vlm.pictures.clip import Clip
from vlm.pictures.digests import BITS, perceptual_hash
from vlm.pictures.images import preview

NGRAMS = (3, 4)
BUCKETS = 2**18
CLIP_BATCH = 64


def perceptual_hashes(images: Iterable[str | bytes]) -> np.ndarray:
    """(n, BITS) float32: the bits as ±1 over the root of their number.

    The cosine of two hashes is 1 − 2·(share of bits that differ): 0.9 lets 12 of 255 bits differ.
    """
    return np.stack([_signs(image) for image in images])


def _signs(image: str | bytes) -> np.ndarray:
    bits = perceptual_hash(preview(image))
    if bits is None:
        return np.zeros(BITS, np.float32)
    return np.where(bits, 1, -1).astype(np.float32) / np.sqrt(np.float32(BITS))


def ngram_vectors(texts: Sequence[str]) -> sparse.csr_array:
    """(n, BUCKETS) float32, rows of length 1: counts of character 3- and 4-grams, weighted by ln((1+n)/(1+df)) + 1.

    The weighting is scikit-learn's smoothed one. Texts are compared in the form of `vlm.answers.normalise`.
    """
    counts = [_ngrams(normalise(text)) for text in texts]
    ends = np.cumsum([0, *map(len, counts)])
    columns = np.fromiter((column for row in counts for column in row), np.int64, ends[-1])
    values = np.fromiter((count for row in counts for count in row.values()), np.float32, ends[-1])
    table = sparse.csr_array((values, columns, ends), shape=(len(texts), BUCKETS))
    frequency = np.bincount(columns, minlength=BUCKETS)  # each column stands at most once in a row
    table.data *= (np.log((1 + len(texts)) / (1 + frequency)) + 1).astype(np.float32)[table.indices]
    lengths = np.sqrt(np.add.reduceat(np.append(table.data**2, 0), ends[:-1])) if len(texts) else np.zeros(0)
    lengths[ends[:-1] == ends[1:]] = 1  # reduceat gives an empty row its neighbour's first value
    table.data /= np.repeat(lengths, np.diff(ends))
    return table


def _ngrams(text: str) -> Counter[int]:
    """Bucket → count. A text shorter than an n-gram is one itself."""
    if not text:
        return Counter()
    grams = (text[start : start + n] for n in NGRAMS for start in range(max(1, len(text) - n + 1)))
    # crc32, for Python's own hash of a text differs between processes
    return Counter(zlib.crc32(gram.encode()) % BUCKETS for gram in grams)


class ClipVectors:
    """A CLIP (`vlm.pictures.clip`) from a folder or the hub, as (n, d) float32 vectors of length 1."""

    def __init__(self, path: str):
        import torch

        self.clip = Clip(path, "dedup", device="cuda" if torch.cuda.is_available() else "cpu")

    def images(self, images: Sequence[str | bytes]) -> np.ndarray:
        return _in_batches(self.clip.see, images)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """CLIP reads the first 77 tokens of a text; what comes after does not count."""
        return _in_batches(self.clip.read, texts)


def _in_batches(embed: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> np.ndarray:
    found = in_batches(items, CLIP_BATCH, lambda some: embed(some).cpu().numpy(), "the rows (dedup)")
    return np.stack([row for _, row in found])
