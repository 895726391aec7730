"""Dynamic batching: requests that arrive within a window are scored together, up to a largest batch.

    window      0 ms            10 ms
    requests    a(1)  b(2)  c(1) |  d(1) …          → the model sees [a, b, b, c], then [d …]

A batch starts when the window of its oldest request has passed, or at once when there is enough for a full one: under
load nobody waits for the clock, for requests gather while the batch before them is scored. No HTTP here.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)


class Busy(Exception):
    """The queue is full; ask again later, or another replica."""


class Closed(Exception):
    """The batcher is shut down and takes no requests."""


class Request(NamedTuple):
    items: list[Any]
    future: Future[list[float]]
    arrived: float
    "Seconds of `time.monotonic`."


class Batcher:
    """Gathers requests from any thread and scores them in one worker thread, oldest first.

    score: items → one finite float for each, in order.
    max_batch: items per call of `score`. A request is kept whole; one that is larger is cut into calls of this size.
    window: seconds for which a request waits for company.
    max_waiting: items in the queue, beyond which `submit` raises Busy.
    """

    def __init__(
        self, score: Callable[[Sequence[Any]], Sequence[float]], max_batch: int, window: float, max_waiting: int
    ):
        self.score, self.max_batch, self.window, self.max_waiting = score, max_batch, window, max_waiting
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="score-batches", daemon=True)
        self._worker.start()

    def submit(self, items: Sequence[Any]) -> Future[list[float]]:
        """The scores to come, one per item. A future that is cancelled before its batch starts is never scored.

        Its exception, if any, is what `score` raised for these items alone: one bad request does not fail the others
        of its batch. Raises: Busy, Closed.
        """
        request = Request(list(items), Future(), time.monotonic())
        with self._changed:
            if self._closed:
                raise Closed("the service is shutting down")
            waiting = self._items_waiting()
            if waiting and waiting + len(request.items) > self.max_waiting:
                raise Busy(f"{waiting} exchanges are waiting, at most {self.max_waiting} may")
            self._waiting.append(request)
            self._changed.notify_all()
        return request.future

    def close(self) -> None:
        """Finish the batch that is being scored, fail what waits with Closed, and end the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join()
        for request in self._waiting:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(Closed("the service is shutting down"))
        self._waiting.clear()

    def _items_waiting(self) -> int:
        return sum(len(request.items) for request in self._waiting)

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            self._settle(batch)

    def _next(self) -> list[Request] | None:
        """The requests of the next batch, without those given up by who asked; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._closed:
                rest = self._waiting[0].arrived + self.window - time.monotonic()
                self._changed.wait_for(lambda: self._closed or self._items_waiting() >= self.max_batch, max(0.0, rest))
            if self._closed:
                return None
            batch, count = [], 0
            while self._waiting and (not batch or count + len(self._waiting[0].items) <= self.max_batch):
                request = self._waiting.popleft()
                if request.future.set_running_or_notify_cancel():
                    batch.append(request)
                    count += len(request.items)
        return batch

    def _settle(self, batch: list[Request]) -> None:
        """Score the requests together; where that fails, each by itself, so that only the guilty ones fail."""
        try:
            scores = self._scored([item for request in batch for item in request.items])
        except Exception as error:  # whatever a model raises belongs to who asked for the scores
            if len(batch) > 1:
                logger.warning("a batch of %d requests failed (%r); each is scored by itself", len(batch), error)
                for request in batch:
                    self._settle([request])
            else:
                batch[0].future.set_exception(error)
            return
        for request in batch:
            request.future.set_result(scores[: len(request.items)])
            scores = scores[len(request.items) :]

    def _scored(self, items: list[Any]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(items), self.max_batch):
            scores += map(float, self.score(items[start : start + self.max_batch]))
        if len(scores) != len(items):
            raise RuntimeError(f"the model gave {len(scores)} scores for {len(items)} exchanges")
        for number, score in enumerate(scores):
            if not math.isfinite(score):
                raise FloatingPointError(f"the model scored exchange {number} of {len(scores)} as {score}")
        return scores
