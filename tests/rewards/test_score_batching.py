"""Dynamic batching without HTTP: what is scored together, who fails, who is dropped."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from rewards.score.service.batching import Batcher, Busy, Closed
from tests.support.scores.score_servers import LIMIT

NEVER = 3600.0
"""A window that no test waits for."""


class Doubler:
    """item → 2 · item; an item "bad" raises, "nan" scores NaN. Holds while `gate` is cleared."""

    def __init__(self):
        self.calls: list[list] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, items):
        self.calls.append(list(items))
        self.entered.set()
        assert self.gate.wait(LIMIT)
        if "bad" in items:
            raise ValueError("cannot read this")
        return [float("nan") if item == "nan" else 2.0 * item for item in items]


@pytest.fixture
def score():
    return Doubler()


@pytest.fixture
def batcher(score):
    made = []

    def make(max_batch=4, window=0.0, max_waiting=100):
        made.append(Batcher(score, max_batch, window, max_waiting))
        return made[-1]

    yield make
    score.gate.set()
    for one in made:
        one.close()


def held(score, batcher):
    """A batcher whose worker is busy with the item 0, so that what comes now has to wait."""
    score.gate.clear()
    first = batcher.submit([0])
    assert score.entered.wait(LIMIT)
    return first


def test_a_full_batch_goes_at_once(score, batcher):
    """Four requests of one thread each fill a batch of 4: nobody waits for the window of an hour."""
    one = batcher(max_batch=4, window=NEVER)
    futures = [one.submit([n]) for n in range(4)]
    assert [future.result(LIMIT) for future in futures] == [[0.0], [2.0], [4.0], [6.0]]
    assert score.calls == [[0, 1, 2, 3]]


def test_a_batch_that_is_not_full_goes_after_its_window(score, batcher):
    assert batcher(max_batch=4, window=0.01).submit([1, 2]).result(LIMIT) == [2.0, 4.0]


def test_what_gathers_during_a_batch_is_the_next_one(score, batcher):
    """Whole requests, oldest first: 1 + 2 items, then 3, which would have made 6 of at most 4, then 1."""
    one = batcher(max_batch=4)
    first = held(score, one)
    later = [one.submit(items) for items in ([1], [2, 3], [4, 5, 6], [7])]
    score.gate.set()
    assert first.result(LIMIT) == [0.0]
    assert [future.result(LIMIT) for future in later] == [[2.0], [4.0, 6.0], [8.0, 10.0, 12.0], [14.0]]
    assert score.calls == [[0], [1, 2, 3], [4, 5, 6, 7]]


def test_a_request_larger_than_a_batch_is_cut(score, batcher):
    assert batcher(max_batch=2).submit([1, 2, 3, 4, 5]).result(LIMIT) == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert score.calls == [[1, 2], [3, 4], [5]]


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [("bad", ValueError, "cannot read this"), ("nan", FloatingPointError, "scored exchange 1 of 2 as nan")],
)
def test_only_the_guilty_request_fails(score, batcher, item, error, words):
    one = batcher(max_batch=8)
    held(score, one)
    good, bad, also_good = one.submit([1]), one.submit([2, item]), one.submit([3])
    score.gate.set()
    assert good.result(LIMIT) == [2.0] and also_good.result(LIMIT) == [6.0]
    with pytest.raises(error, match=words):
        bad.result(LIMIT)


def test_a_scorer_that_loses_a_score_fails(batcher, score):
    one = batcher()
    one.score = lambda items: [1.0] * (len(items) - 1)
    with pytest.raises(RuntimeError, match="1 scores for 2 exchanges"):
        one.submit([1, 2]).result(LIMIT)


def test_requests_given_up_are_never_scored(score, batcher):
    one = batcher()
    held(score, one)
    given_up, kept = one.submit([1]), one.submit([2])
    assert given_up.cancel()
    score.gate.set()
    assert kept.result(LIMIT) == [4.0]
    assert score.calls == [[0], [2]]
    with pytest.raises(CancelledError):
        given_up.result(LIMIT)


def test_a_full_queue_refuses_and_recovers(score, batcher):
    one = batcher(max_waiting=3)
    held(score, one)
    waiting = one.submit([1, 2, 3])
    with pytest.raises(Busy, match="3 exchanges are waiting, at most 3 may"):
        one.submit([4])
    score.gate.set()
    assert waiting.result(LIMIT) == [2.0, 4.0, 6.0]
    assert one.submit([1, 2, 3, 4]).result(LIMIT)[3] == 8.0  # larger than the queue, which is empty: it has to go


def test_closing_fails_what_waits_and_takes_no_more(score, batcher):
    one = batcher()
    first = held(score, one)
    waiting = one.submit([1])
    closing = threading.Thread(target=one.close)
    closing.start()
    with one._changed:
        assert one._changed.wait_for(lambda: one._closed, LIMIT)
    score.gate.set()
    closing.join(LIMIT)
    assert first.result(LIMIT) == [0.0]  # it was being scored
    with pytest.raises(Closed):
        waiting.result(LIMIT)
    with pytest.raises(Closed):
        one.submit([2])
    assert score.calls == [[0]]
