"""What became of failed scores: counted, and past a stated share the end of the run.

A missing score (exception, time-out, dead service, NaN) is never a reward of 0: the row is None, which
trl 1.16.0 leaves out of its group's mean and standard deviation and gives the advantage 0, *where no other reward has a
value for it*. Beside other rewards TRL sums what is there (`nansum`), which would count the missing one as 0. Therefore
`Score` masks the whole group of a failed row: then all of its rows lack the same term, which cancels in the advantage.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.registry import collective
from rewards.score.model.exchange import Exchange
from rewards.score.scorer import RowsRefused, Scorer, ScorerRefused, ScorerUnavailable
from rewards.values import plain
from stage.guards import broken_gpu
from vlm.common.errors import RecipeError, UserError

logger = logging.getLogger(__name__)


class ScoringFailed(UserError):
    """Too many rows of a reward failed; the message names the share and the last cause."""


class Failures:
    """The latest rows that were to be scored by a reward, and which of them failed.

    share, window: `exceeded` from the moment when more than `share · window` of the last `window` rows failed (0: from
    the first failure). The count is absolute, so that one failure in the first ten rows of a run is none in ten.
    """

    def __init__(self, share: float = 0.1, window: int = 256, name: str = "score", whole: bool = False) -> None:
        """whole: `of_batch` is told of whole generation batches, not of some tasks' rows of them."""
        if not 0 <= share < 1:
            raise RecipeError(f"reward {name!r}: max_failures is {share}; expected a share, 0 ≤ max_failures < 1")
        if window < 1:
            raise RecipeError(f"reward {name!r}: failure_window is {window}; expected at least 1 row")
        self.share, self.window, self.name, self.whole = share, window, name, whole
        self.total = 0
        self.worked = False
        """Some row has not failed."""
        self.watched = False
        """Somebody else ends the run (`rewards.score.reward.stopping`, which saves a checkpoint first)."""
        self._rows: deque[bool] = deque(maxlen=window)
        self._cause = ""
        self._refused = False
        self._lost = ""
        self._prompts = 0

    def of_batch(self, asked: int, failed: int, prompts: int, state: Any = None) -> None:
        """What became of a call's rows in all processes together; `add` follows. All failed: it is the reward and no
        row if this was a whole generation batch of several prompts, or if the reward has never worked, on a whole batch
        or on two prompts.

        prompts: different ones of the failed rows. state: TRL's; before the first step there is nothing to save, so
        that the run ends at once, in all processes.
        """
        if asked and failed == asked:
            all_rows = f"all {failed} rows of a generation batch" if self.whole else f"all {failed} rows of a call"
            self._prompts += prompts
            if not self.worked and (self.whole or self._prompts > 1):
                self._lost = f"{all_rows}, and has not worked once"
            elif self.whole and prompts > 1:
                self._lost = all_rows
        self.worked = self.worked or failed < asked
        if self._lost and state is not None and state.global_step == 0:
            self.watched = False

    def add(self, failed: int, scored: int, cause: str = "", refused: bool = False) -> None:
        """Count the rows of one call. Raises ScoringFailed when there were too many and nobody watches.

        refused: the service will not score this run's rows, however often it is asked: no share is waited for.
        """
        self._rows.extend([True] * failed + [False] * scored)
        self.total += failed
        self._refused = self._refused or refused
        if failed:
            self._cause = cause
            logger.warning("reward %s: %d of %d rows failed: %s", self.name, failed, failed + scored, cause)
        if self.exceeded and not self.watched:
            raise self.error()

    def at_the_end(self) -> None:
        """Of training. Raises ScoringFailed, in all processes, where each row that was asked for has failed."""
        if self._prompts and not self.worked:
            self._lost = self._lost or "each row that it was asked for"
            raise self.error()

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "rows": self._rows, "worked": self.worked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What ended the run before is forgotten: it is resumed because that was fixed."""
        self.total, self.worked = state["total"], state.get("worked", False)  # older checkpoints do not say
        self._rows.clear()
        self._rows.extend(state["rows"])
        if self.exceeded:
            self._rows.clear()

    @property
    def exceeded(self) -> bool:
        return self._refused or bool(self._lost) or sum(self._rows) > self.share * self.window

    def error(self) -> ScoringFailed:
        """What ends the run, here or, where these rows are well, in another process."""
        if not self.exceeded:
            return ScoringFailed(
                f"the reward {self.name!r} failed in another process of this run; its message says why"
            )
        if self._lost and not self._refused:
            cause = self._cause or "another process says it"
            return ScoringFailed(
                f"the reward {self.name!r} failed on {self._lost}. Cause: {cause}. Fix it and start again "
                "(resume=auto from a checkpoint, where there is one); failed rows were masked, none was counted as 0"
            )
        allowed = f"allowed are max_failures · failure_window = {self.share} · {self.window} rows"
        why = "the service refuses them" if self._refused else allowed
        return ScoringFailed(
            f"the reward {self.name!r} failed on {sum(self._rows)} of its last {len(self._rows)} rows; {why}. Last "
            f"cause: {self._cause}. Fix it and resume from the last checkpoint (resume=auto); failed rows were masked, "
            "none was counted as 0"
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of asking for scores."""

    scores: list[float | None]
    "In order; None where one is missing."
    cause: str = ""
    "Why, where one is None."
    refused: bool = False
    "Asking again would not help."


def attempt(scorer: Scorer, exchanges: Sequence[Exchange]) -> Attempt:
    """Ask for scores; failures are reported, not raised.

    A service's client has retried before it says ScorerUnavailable. Any other failure of a batch is tried again one
    exchange at a time, so that one bad exchange costs no other row its reward. A UserError (unreadable image, wrong
    checkpoint) is raised: it is not the score model's.

    A scorer that works together with those of the other processes is asked once, and with no exchanges, too; what it
    raises beside these errors is raised, for the others would wait for a second try.
    """
    if not exchanges and not collective(scorer):
        return Attempt([])
    try:
        scores = plain(scorer.score(exchanges), len(exchanges), "the scorer of the reward 'score'")
    except RowsRefused as cause:  # these rows' failure, nobody else's
        return Attempt(cause.scores, str(cause))
    except (ScorerUnavailable, ScorerRefused) as cause:
        return Attempt([None] * len(exchanges), str(cause), isinstance(cause, ScorerRefused))
    except UserError:
        raise
    except Exception as cause:  # whatever a model or a user's scorer raises: the row failed, and says why
        if collective(scorer):
            raise
        broken_gpu.check(cause)
        if len(exchanges) == 1:
            return Attempt([None], f"{type(cause).__name__}: {cause}")
        alone = [attempt(scorer, [exchange]) for exchange in exchanges]
        refused = any(one.refused for one in alone)
        return Attempt([one.scores[0] for one in alone], next((one.cause for one in alone if one.cause), ""), refused)
    missing = [score for score in scores if score is None or not math.isfinite(score)]
    finite = [None if score is None or not math.isfinite(score) else score for score in scores]
    return Attempt(finite, f"the score model gave {missing[0]}" if missing else "")
