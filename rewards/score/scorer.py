"""What gives scores, and what can go wrong between it and somebody who needs them.

A failure is never a score: whoever catches one of these errors masks the row or stops, and counts no 0.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rewards.score.model.exchange import Exchange
from vlm.common.errors import UserError

logger = logging.getLogger(__name__)


class Fitted(NamedTuple):
    """An exchange as a score model can read it (`rewards.score.model.lengths`)."""

    exchange: Exchange
    tokens: int
    "About; exact where they are near the limit."
    cut: bool = False
    "The answer has lost its end."


class Scorer(Protocol):
    """Whatever scores. One that works together with the other processes has an attribute `collective = True`
    (`rewards.registry.collective`): every process then makes each call, with its own exchanges or none."""

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        """Raw scores, one per exchange, in order."""
        ...


class ScorerUnavailable(UserError):
    """No replica gave scores within the client's patience; the message names the URLs and the last causes."""


class ScorerRefused(UserError):
    """A replica answered that the request itself is wrong (token, size, content), or serves another model.

    Asking again would not help, so it is not retried.
    """


class RowsRefused(ScorerRefused):
    """Some exchanges of a call have no score, and would have none if asked about again; the message says why of one.

    scores: of all, in order; None where it is missing.
    """

    def __init__(self, message: str, scores: list[float | None]):
        super().__init__(message)
        self.scores = scores


def count_cut(before: int, more: int, who: str) -> int:
    """How many answers have been cut; says so at the first, and each time that there are twice as many."""
    if (before + more).bit_length() > before.bit_length():
        logger.warning(
            "%d answers were longer than the score model %s reads, and were scored without their end",
            before + more,
            who,
        )
    return before + more
