"""BLEU-4 of one caption against several references, smoothed, so that a single text has a number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rewards.rules.cider import ORDERS, ngrams


def bleu(said: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """In [0, 1]; 1 where the text is one of the references.

        min(1, exp(1 − r / c)) · (p₁ p₂ p₃ p₄)^¼        p₁ = m₁ / l₁,  pₙ = (mₙ + 1) / (lₙ + 1) for n > 1

    l n-grams are said, of which m are right: each as often at most as in the reference that has it most often. c words
    are said, r is the nearest length of a reference, of two as near ones the shorter. Papineni et al. 2002; one is
    added to longer n-grams alone, as Lin and Och 2004 do (ORANGE), so that a text without a right word stays at 0.
    said, references: words.
    """
    if not said or not references:
        return 0.0
    logs = 0.0
    for order in ORDERS:
        ours, theirs = ngrams(said, order), [ngrams(one, order) for one in references]
        right = sum(min(count, max(one[ngram] for one in theirs)) for ngram, count in ours.items())
        if order == 1 and not right:
            return 0.0
        added = int(order > 1)
        logs += math.log((right + added) / (ours.total() + added))
    nearest = min((abs(len(one) - len(said)), len(one)) for one in references)[1]
    return math.exp(logs / len(ORDERS) + min(0.0, 1 - nearest / len(said)))
