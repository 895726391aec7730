"""Two experiments on the score model, repeated every N calls, in the main process alone.

A fixed set of exchanges is scored again, and should score as it did; the latest answers are scored with the picture of
another group, too, and should score less. The metrics and what they say: `stage.metrics.learned`.

Every call logs the latest values, so the names are always there; before the first they are NaN.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import samples
from rewards.registry import collective
from rewards.score.model.exchange import Exchange
from rewards.score.reward.candidates import Candidate
from rewards.score.reward.faults import attempt
from rewards.score.reward.health import Log, record
from rewards.score.scorer import Scorer
from stage.parallel import agreement
from vlm.common.errors import RecipeError
from vlm.common.processes import is_main_process

logger = logging.getLogger(__name__)

NAMES = ("probe_mean", "probe_drift", "shuffled_gap", "shuffled_won")


class Probes:
    """source: a data file of samples with answers, or how many of the first groups to take an answer from.

    every: calls between two runs, the first at the first call; 0: none. The shuffled-image control uses the latest
    answers, one for each of up to `latest` different pictures.
    """

    def __init__(self, source: int | str = 8, every: int = 50, latest: int = 8) -> None:
        if every < 0 or (isinstance(source, int) and source < 1):
            raise RecipeError(
                f"reward 'score': probes = {source!r}, probe_every = {every}; expected a data file or at least 1, and "
                "at least 0 calls"
            )
        if isinstance(source, str) and every and not Path(source).is_file():
            raise RecipeError(f"reward 'score': probes: no file {source} (seen from {Path.cwd()})")
        self.source, self.every, self.latest = source, every, latest
        self.calls = 0
        self.values = dict.fromkeys(NAMES, math.nan)
        self._fixed: list[tuple[Exchange, float]] = []
        self._recent: dict[str, Exchange] = {}

    def after(self, candidates: Iterable[Candidate], scores: Mapping[str, float], scorer: Scorer, log: Log) -> None:
        """To be called once per call of the reward, with the scores by key that it has just got; calls without any do
        not count."""
        if not self.every:
            return
        due = is_main_process() and self._due(candidates, scores)
        if collective(scorer) and any(agreement.gather(due)) and not due:
            attempt(scorer, [])  # the main process's probes need every process
        if due:
            self._run(scorer)
        if is_main_process():
            for name, value in self.values.items():
                record(log, f"score/{name}", [value])

    def state_dict(self) -> dict[str, Any]:
        """Calls, latest values, the fixed set with its first scores, and the latest answers with their pictures."""
        fixed = [(_as_stored(exchange), score) for exchange, score in self._fixed]
        recent = [(picture, _as_stored(exchange)) for picture, exchange in self._recent.items()]
        return {"calls": self.calls, "values": self.values, "fixed": fixed, "recent": recent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls, self.values = state["calls"], dict(state["values"])
        self._fixed = [(Exchange(**exchange), score) for exchange, score in state["fixed"]]
        self._recent = {picture: Exchange(**exchange) for picture, exchange in state["recent"]}

    def _due(self, candidates: Iterable[Candidate], scores: Mapping[str, float]) -> bool:
        """Keeps what the probes need of this call, counts it, and says whether the probes are to run."""
        for _, group in itertools.groupby(candidates, lambda candidate: candidate.group):
            first = next((one for one in group if one.key in scores), None)
            if first is not None:
                self._keep(first, scores[first.key])
        if not scores:
            return False
        self.calls += 1
        return (self.calls - 1) % self.every == 0

    def _keep(self, candidate: Candidate, score: float) -> None:
        if isinstance(self.source, int) and len(self._fixed) < self.source:
            self._fixed.append((candidate.exchange, score))
        if candidate.pictures:
            self._recent.pop(candidate.pictures, None)
            self._recent[candidate.pictures] = candidate.exchange
            while len(self._recent) > self.latest:
                del self._recent[next(iter(self._recent))]

    def _run(self, scorer: Scorer) -> None:
        fixed = [exchange for exchange, _ in self._fixed]
        if isinstance(self.source, str) and not fixed:
            fixed = [Exchange.from_sample(sample) for sample in samples.read(self.source)]
        own = list(self._recent.values())
        others = [
            dataclasses.replace(exchange, images=other.images)
            for exchange, other in zip(own, [*own[1:], *own[:1]], strict=True)
        ]
        control = [*own, *others] if len(own) > 1 else []
        tried = attempt(scorer, [*fixed, *control])
        if None in tried.scores:  # the latest values stay; the rows of the next call will tell, and count
            logger.warning("score: the probes could not be scored: %s", tried.cause)
            return
        probed, control_scores = tried.scores[: len(fixed)], tried.scores[len(fixed) :]
        if probed:
            self._fixed = self._fixed or list(zip(fixed, probed, strict=True))
            self.values["probe_mean"] = statistics.fmean(probed)
            distances = (abs(now - then) for now, (_, then) in zip(probed, self._fixed, strict=True))
            self.values["probe_drift"] = statistics.fmean(distances)
        if control_scores:
            gaps = [a - b for a, b in zip(control_scores[: len(own)], control_scores[len(own) :], strict=True)]
            self.values["shuffled_gap"] = statistics.fmean(gaps)
            self.values["shuffled_won"] = statistics.fmean((gap > 0) + (gap == 0) / 2 for gap in gaps)


def _as_stored(exchange: Exchange) -> dict[str, Any]:
    return {"messages": exchange.messages, "images": exchange.images}
