"""Near-duplicates: connected components of "at least this similar", of which the first member is kept.

Similarities are computed block by block and thrown away: with n vectors and blocks of b, memory is O(n + b²), never n².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from rewards.prefer.embeddings import ClipVectors, ngram_vectors, perceptual_hashes
from rewards.prefer.recipe import DedupSection, SimilaritySection
from rewards.prefer.rows import Item

BLOCK = 2048
"""Vectors whose similarities are held at a time: 2048² float32 are 16 MiB."""
ROUNDING = 1e-6
"""What float32 loses of a cosine; identical vectors pass a threshold of 1."""

Vectors: TypeAlias = np.ndarray | sparse.csr_array


def components(vectors: Vectors, threshold: float, block: int = BLOCK) -> np.ndarray:
    """(n,) the component of each vector, numbered by the index of its first member.

    vectors: (n, d), dense or sparse, rows of length 1 or 0. Two belong together when their dot product is at least
    `threshold`, or when a chain of such pairs joins them.
    """
    count = vectors.shape[0]
    labels = np.arange(count)
    for start in range(0, count, block):
        rows = vectors[start : start + block]
        for other in range(start, count, block):
            similar = rows @ vectors[other : other + block].T  # (b, b)
            left, right = (similar >= threshold - ROUNDING).nonzero()
            labels = _joined(labels, labels[start + left], labels[other + right])
    return labels


def _joined(labels: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Labels after joining the components left[i] and right[i], each again called by its first member."""
    apart = left != right
    if not apart.any():
        return labels
    ones = np.ones(int(apart.sum()), bool)
    graph = sparse.coo_array((ones, (left[apart], right[apart])), shape=(len(labels), len(labels)))
    _, group = connected_components(graph, directed=False)  # (n,) over labels, which are indices of members
    first = np.full(int(group.max()) + 1, len(labels))
    np.minimum.at(first, group, np.arange(len(labels)))
    return first[group[labels]]


@dataclass(frozen=True, slots=True)
class Dedup:
    """What deduplication left, with its counts."""

    items: list[Item]
    image_duplicates: int
    "Rows left out because of their images."
    text_duplicates: int
    "Rows left out because of their texts, images apart."


def deduplicate(items: Sequence[Item], section: DedupSection) -> Dedup:
    """The items whose images and texts are the first of their components, in order.

    Images: the different files (or bytes) are compared, so several questions about one file stay; a row goes when one
    of its images repeats another, earlier file. Texts: of the rows that are left, the question with its candidates.
    """
    kept = list(items)
    if section.images is not None:
        kept = _unrepeated_images(kept, section.images)
    without_images = len(kept)
    if section.texts is not None:
        texts = ["\n".join([item.question, *item.candidates]) for item in kept]
        vectors = ClipVectors(section.texts.clip).texts(texts) if section.texts.clip else ngram_vectors(texts)
        labels = components(vectors, section.texts.least)
        kept = [item for index, item in enumerate(kept) if labels[index] == index]
    return Dedup(kept, len(items) - without_images, without_images - len(kept))


def _unrepeated_images(items: list[Item], section: SimilaritySection) -> list[Item]:
    files = list(dict.fromkeys(image for item in items for image in item.sample.images))
    if not files:
        return items
    vectors = ClipVectors(section.clip).images(files) if section.clip else perceptual_hashes(files)
    labels = components(vectors, section.least)
    first = {file for index, file in enumerate(files) if labels[index] == index}
    return [item for item in items if first.issuperset(item.sample.images)]
