"""Dynamic batching: requests that arrive within a window are scored together, up to a largest batch.

    window      0 ms            10 ms
    requests    a(1)  b(2)  c(1) |  d(1) …          → the model sees [a, b, b, c], then [d …]

A batch starts when the window of its oldest request has passed, or at once when there is enough for a full one: under
load nobody waits for the clock, for requests gather while the batch before them is scored. No HTTP here.

Whose turn it is follows start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): a request is cut into parts of
one batch at most; a part's tag is the cost of what its connection has been given so far, and the lowest tag is next.
So many or long exchanges of one connection wait for each other, and everybody else waits for one of their batches at
most. Among equals the oldest is first.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stage.guards import broken_gpu
from stage.guards.progress import phase

logger = logging.getLogger(__name__)

Outcome = float | Exception
"""Of one item: its score, or what `score` raised for it alone."""
REMEMBERED = 1024
"""Connections above which those that owe nothing are forgotten."""


class Busy(Exception):
    """The queue is full; ask again later, or another replica."""


class Closed(Exception):
    """The batcher is shut down and takes no requests."""


@dataclass(eq=False)
class Request:
    items: list[Any]
    future: Future[list[Outcome]] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    "Seconds of `time.monotonic`."
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    "By item, of those that are done."


class Part(NamedTuple):
    """Neighbouring items of a request that are scored in one batch; ordered by tag, then age."""

    tag: float
    number: int
    longest: float
    "Cost of its most expensive item."
    request: Request
    rows: range

    @property
    def given_up(self) -> bool:
        return self.request.future.cancelled()


class Batcher:
    """Gathers requests from any thread and scores them in one worker thread.

    score: items → one finite float for each, in order.
    max_batch: items per call of `score`. A request that is larger is cut into calls of this size.
    window: seconds for which a request waits for company.
    max_waiting: items in the queue, beyond which `submit` raises Busy.
    max_cost: items · the most expensive one of them, per call of `score`; one that costs more is scored alone.
    broken: told by the worker where the GPU computes no more; whoever waits has heard Closed, and asks elsewhere.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Any]], Sequence[float]],
        max_batch: int,
        window: float,
        max_waiting: int,
        max_cost: float = math.inf,
        broken: Callable[[Exception], object] = lambda error: None,
    ):
        self.broken = broken
        self.score, self.max_batch, self.window, self.max_waiting = score, max_batch, window, max_waiting
        self.max_cost = max_cost
        self._waiting: list[Part] = []
        "A heap."
        self._given = 0.0
        "The tag of the part that was taken last."
        self._owes: dict[Hashable, float] = {}
        "The tag that the next part of a connection gets."
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="score-batches", daemon=True)
        self._worker.start()

    def submit(
        self, items: Sequence[Any], costs: Sequence[float] | None = None, connection: Hashable = None
    ) -> Future[list[Outcome]]:
        """The outcomes to come, one per item: one bad item fails alone. Of a future that is cancelled nothing more is
        scored than the batch that has begun.

        costs: of each item, in any unit; 1 without. connection: who asks, for a fair share; without, a stranger.
        Raises: Busy, Closed.
        """
        request, costs = Request(list(items)), costs or [1.0] * len(items)
        with self._changed:
            if self._closed:
                raise Closed("the service is shutting down")
            self._forget()
            waiting = self._items_waiting()
            if waiting and waiting + len(request.items) > self.max_waiting:
                raise Busy(f"{waiting} exchanges are waiting, at most {self.max_waiting} may")
            tag = max(self._given, self._owes.get(connection, 0.0))
            for rows in self._cut(costs):
                longest = max(costs[rows.start : rows.stop])
                heapq.heappush(self._waiting, Part(tag, next(self._numbers), longest, request, rows))
                tag += len(rows) * longest
            if connection is not None:
                self._owes[connection] = tag
            self._changed.notify_all()
        return request.future

    def close(self) -> None:
        """Finish the batch that is being scored, fail what waits with Closed, and end the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join()
        for request in {part.request for part in self._waiting}:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(Closed("the service is shutting down"))
        self._waiting.clear()

    def _items_waiting(self) -> int:
        return sum(len(part.rows) for part in self._waiting)

    def _forget(self) -> None:
        """Requests that were given up, and connections that have paid."""
        if any(part.given_up for part in self._waiting):
            self._waiting = [part for part in self._waiting if not part.given_up]
            heapq.heapify(self._waiting)
        if len(self._owes) > REMEMBERED:
            self._owes = {who: tag for who, tag in self._owes.items() if tag > self._given}

    def _too_large(self, count: int, longest: float) -> bool:
        return count > self.max_batch or (count > 1 and count * longest > self.max_cost)

    def _cut(self, costs: Sequence[float]) -> Iterator[range]:
        start, longest = 0, 0.0
        for place, cost in enumerate(costs):
            if place > start and self._too_large(place + 1 - start, max(longest, cost)):
                yield range(start, place)
                start, longest = place, 0.0
            longest = max(longest, cost)
        yield range(start, len(costs))

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._settle(batch)

    def _next(self) -> list[Part] | None:
        """The parts of the next batch, without those given up by who asked; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._closed:
                rest = min(part.request.arrived for part in self._waiting) + self.window - time.monotonic()
                self._changed.wait_for(lambda: self._closed or self._items_waiting() >= self.max_batch, max(0.0, rest))
            if self._closed:
                return None
            self._forget()
            batch: list[Part] = []
            count, longest = 0, 0.0
            while self._waiting:
                count, longest = count + len(self._waiting[0].rows), max(longest, self._waiting[0].longest)
                if batch and self._too_large(count, longest):
                    break
                batch.append(heapq.heappop(self._waiting))
                self._given = batch[-1].tag
        return batch

    def _settle(self, batch: Sequence[Part]) -> None:
        """Score the items together; where that fails, each by itself, so that only the guilty ones fail."""
        items = [part.request.items[row] for part in batch for row in part.rows]
        try:
            outcomes = self._together(items)
        except broken_gpu.BrokenGPU as error:
            self._end(batch, error)
            return
        done = iter(outcomes)
        for part in batch:
            request = part.request
            request.outcomes |= zip(part.rows, done, strict=False)
            if len(request.outcomes) == len(request.items) and request.future.set_running_or_notify_cancel():
                request.future.set_result([request.outcomes[row] for row in range(len(request.items))])

    def _end(self, batch: Sequence[Part], error: Exception) -> None:
        with self._changed:
            self._closed = True
            parts, self._waiting = [*batch, *self._waiting], []
        for request in {part.request for part in parts}:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(Closed("the service ends, for its GPU computes no more"))
        self.broken(error)

    def _together(self, items: list[Any]) -> list[Outcome]:
        try:
            return [*self._scored(items)]
        except broken_gpu.BrokenGPU:
            raise
        except Exception as error:  # whatever a model raises belongs to who asked for the scores
            if len(items) == 1:
                return [error]
            logger.warning("a batch of %d exchanges failed (%r); each is scored by itself", len(items), error)
            return [outcome for item in items for outcome in self._together([item])]

    def _scored(self, items: list[Any]) -> list[float]:
        with phase("scoring"):
            try:
                scores = [float(score) for score in self.score(items)]
            except Exception as error:
                broken_gpu.check(error)
                raise
        if len(scores) != len(items):
            raise RuntimeError(f"the model gave {len(scores)} scores for {len(items)} exchanges")
        for number, score in enumerate(scores):
            if not math.isfinite(score):
                raise FloatingPointError(f"the model scored exchange {number} of {len(scores)} as {score}")
        return scores
