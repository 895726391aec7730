"""CIDEr-D of one caption against several references, with a document frequency that is handed in.

    CIDEr-D(c, S) = 10 · mean over n = 1…4 and references s of
                    exp(−(l(c) − l(s))² / 2σ²) · Σ min(g(c), g(s)) · g(s) / (|g(c)| |g(s)|),        σ = 6

g are the counts of a text's n-grams, each times log(documents / documents that hold the n-gram). Vedantam et al. 2015,
arXiv 1411.5726, § 5, in the arithmetic of pycocoevalcap 1.2 (`cider/cider_scorer.py`), which published numbers come
from: a length l is a number of bigrams there, and an n-gram that no document holds counts as if one did. 10 is 1000%.

pycocoevalcap draws the document frequency from the references that it is just scoring. A reward cannot: what a caption
earns would depend on the batch that it is in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

ORDERS = (1, 2, 3, 4)
_TWO_VARIANCES = 2 * 6.0**2
"""Of the penalty of unequal lengths: σ = 6 words."""


def ngrams(tokens: Sequence[str], order: int) -> Counter[str]:
    """n-gram, its words joined by blanks → how often it is in the text."""
    return Counter(" ".join(tokens[at : at + order]) for at in range(len(tokens) - order + 1))


@dataclass(frozen=True, slots=True)
class Frequencies:
    """In how many documents of a corpus each n-gram is. A document is a picture: all of its reference captions."""

    documents: int
    counts: Mapping[str, int]
    "Of n-grams of 1 to 4 words, joined by blanks; those that no document holds are left out."
    consensus: float | None = None
    "What one human caption scores against the others of its picture (`consensus`); None where pictures have one each."

    def rarity(self, ngram: str) -> float:
        """Inverse document frequency, a natural logarithm ≥ 0."""
        return math.log(self.documents) - math.log(self.counts.get(ngram, 1))


class Weighted(NamedTuple):
    """A text as vectors of its n-grams, n = 1…4."""

    vectors: list[dict[str, float]]
    norms: list[float]
    length: int
    "In bigrams."


def weighted(tokens: Sequence[str], frequencies: Frequencies) -> Weighted:
    vectors = [
        {ngram: count * frequencies.rarity(ngram) for ngram, count in ngrams(tokens, order).items()} for order in ORDERS
    ]
    norms = [math.sqrt(math.fsum(value * value for value in vector.values())) for vector in vectors]
    return Weighted(vectors, norms, max(0, len(tokens) - 1))


def cider_d(said: Weighted, references: Sequence[Weighted]) -> float:
    """In [0, 10]; 10 where the caption is each of its references."""
    return 10 * math.fsum(_alike(said, one) for one in references) / len(references)


def _alike(said: Weighted, reference: Weighted) -> float:
    """In [0, 1]."""
    total = 0.0
    for ours, theirs, norm, other in zip(said.vectors, reference.vectors, said.norms, reference.norms, strict=True):
        if norm and other:
            shared = ours.keys() & theirs.keys()
            total += math.fsum(min(ours[ngram], theirs[ngram]) * theirs[ngram] for ngram in shared) / (norm * other)
    return total / len(ORDERS) * math.exp(-((said.length - reference.length) ** 2) / _TWO_VARIANCES)


def counted(documents: Iterable[Sequence[Sequence[str]]]) -> Frequencies:
    """Frequencies of documents, each a list of captions, each a list of words; without their consensus."""
    counts, number = Counter[str](), 0
    for number, captions in enumerate(documents, 1):  # noqa: B007
        counts.update({ngram for tokens in captions for order in ORDERS for ngram in ngrams(tokens, order)})
    return Frequencies(number, counts)


def consensus(documents: Sequence[Sequence[Sequence[str]]], frequencies: Frequencies) -> float | None:
    """Mean CIDEr-D of one caption against the others of its document; None where no document has two different ones.

    Of equal captions of a document one counts, and each text counts once, with its mean over the documents that have
    it: half of LEVIR-CC's pairs did not change, and are described by the same few sentences, which would make the mean.
    """
    scores: dict[str, list[float]] = {}
    for captions in documents:
        different = list({" ".join(tokens): weighted(tokens, frequencies) for tokens in captions if tokens}.items())
        if len(different) < 2:
            continue
        for place, (text, vectors) in enumerate(different):
            others = [one for other, (_, one) in enumerate(different) if other != place]
            scores.setdefault(text, []).append(cider_d(vectors, others))
    means = [math.fsum(values) / len(values) for values in scores.values()]
    return math.fsum(means) / len(means) if means else None
