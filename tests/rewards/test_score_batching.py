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

    def make(max_batch=4, window=0.0, max_waiting=100, **more):
        made.append(Batcher(score, max_batch, window, max_waiting, **more))
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
    [("bad", ValueError, "cannot read this"), ("nan", FloatingPointError, "scored exchange 0 of 1 as nan")],
)
def test_only_the_guilty_item_fails(score, batcher, item, error, words):
    one = batcher(max_batch=8)
    held(score, one)
    good, bad, also_good = one.submit([1]), one.submit([2, item]), one.submit([3])
    score.gate.set()
    assert good.result(LIMIT) == [2.0] and also_good.result(LIMIT) == [6.0]
    kept, failed = bad.result(LIMIT)
    assert kept == 4.0 and isinstance(failed, error) and words in str(failed)


def test_a_broken_gpu_ends_the_service(score, batcher):
    """Nobody's row is tried again on it: all who wait ask another replica."""
    told = []
    one = batcher(max_batch=2, broken=told.append)
    held(score, one)
    error = RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with")
    one.score = lambda items: (_ for _ in ()).throw(error)
    asked = [one.submit([1, 2]), one.submit([3])]
    score.gate.set()
    for future in asked:
        with pytest.raises(Closed, match="its GPU computes no more"):
            future.result(LIMIT)
    with pytest.raises(Closed):
        one.submit([4])
    one._worker.join(LIMIT)
    assert "an illegal memory access was encountered, in scoring" in str(*told)


def test_a_scorer_that_loses_a_score_fails(batcher, score):
    one = batcher()
    one.score = lambda items: [1.0] * (len(items) - 1)
    failed = one.submit([1, 2]).result(LIMIT)
    assert [str(error) for error in failed] == ["the model gave 0 scores for 1 exchanges"] * 2


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


def test_of_a_request_given_up_no_further_batch_is_scored(score, batcher):
    """Six items in batches of two: who asked leaves during the first. It leaves the queue, too."""
    one = batcher(max_batch=2, max_waiting=6)
    score.gate.clear()
    long = one.submit([1, 2, 3, 4, 5, 6])
    assert score.entered.wait(LIMIT) and long.cancel()
    after = one.submit([7, 8, 9, 10, 11, 12])
    score.gate.set()
    assert after.result(LIMIT) == [14.0, 16.0, 18.0, 20.0, 22.0, 24.0]
    assert score.calls == [[1, 2], [7, 8], [9, 10], [11, 12]]


def test_who_asks_for_much_waits_for_others(score, batcher):
    """A request of three batches, then two small ones: each is next after at most one batch of the large one."""
    one = batcher(max_batch=2)
    score.gate.clear()
    large = one.submit([1, 2, 3, 4, 5, 6], connection="a")
    assert score.entered.wait(LIMIT)
    small = [one.submit([7], connection="b"), one.submit([8], connection="c")]
    score.gate.set()
    assert large.result(LIMIT) and [future.result(LIMIT) for future in small] == [[14.0], [16.0]]
    assert score.calls == [[1, 2], [7, 8], [3, 4], [5, 6]]


def test_turns_follow_cost_and_a_connection_pays_for_its_next_request(score, batcher):
    """Batches of one; a's first costs 5, b's three 2 each: tags a 0, b 0 2 4, and 5 for what a asks for next."""
    one = batcher(max_batch=1)
    held(score, one)
    calls = [one.submit([1], [5], "a"), one.submit([2, 3, 4], [2, 2, 2], "b"), one.submit([5], [1], "a")]
    score.gate.set()
    assert [future.result(LIMIT) for future in calls] == [[2.0], [4.0, 6.0, 8.0], [10.0]]
    assert score.calls == [[0], [1], [2], [3], [4], [5]]


def test_a_long_exchange_is_scored_alone(score, batcher):
    """Padded, a batch costs its number times the longest: 3 · 30 and 2 · 100 are above 64, 2 · 30 is not. The second
    request costs nothing yet, so it is next, and the third row of the first still fits beside it."""
    one = batcher(max_batch=4, max_cost=64)
    held(score, one)
    mixed, alone = one.submit([1, 2, 3, 4], [30, 30, 30, 100]), one.submit([5], [1])
    score.gate.set()
    assert mixed.result(LIMIT) == [2.0, 4.0, 6.0, 8.0] and alone.result(LIMIT) == [10.0]
    assert score.calls == [[0], [1, 2], [5, 3], [4]]


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
