"""Batches that are halved where memory runs out, in work that knows how much it can hold."""

import pytest
import torch

from stage.guards.halving import fitting, in_batches
from stage.guards.out_of_memory import OutOfMemory

FULL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"


def holding(most, seen, error=torch.OutOfMemoryError):
    """Squares of up to `most` rows; `seen` gets every try."""

    def work(rows):
        seen.append(len(rows))
        if len(rows) > most:
            raise error(FULL)
        return [row * row for row in rows]

    return work


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_nothing_is_lost_or_doubled(error, caplog):
    """Of 10 rows by 8: 8 fail, 4 fail, 2 fit, and stay: 2, 2, 2, 2, 2."""
    seen, told = [], []
    found = list(in_batches(range(10), 8, holding(3, seen, error), "the rows (batch_size)", told.append))
    assert found == [(row, row * row) for row in range(10)]
    assert seen == [8, 4, 2, 2, 2, 2, 2] and told == [4, 2]
    assert "out of memory with 8 of the rows (batch_size) at a time; going on with 4" in caplog.text
    assert len(caplog.records) == 2


def test_a_short_rest_does_not_make_later_batches_smaller():
    seen: list[int] = []
    assert len(list(in_batches(range(7), 3, holding(9, seen), "rows"))) == 7
    assert seen == [3, 3, 1]


def test_one_row_that_does_not_fit_ends_it():
    with pytest.raises(OutOfMemory, match=r"out of memory with 1 of the rows at a time: \[enforce fail"):
        list(in_batches(range(3), 2, holding(0, []), "the rows"))


def test_what_was_done_before_is_kept():
    rows = in_batches([1, 2, 9], 2, lambda some: holding(0 if 9 in some else 2, [])(some), "the rows")
    assert [next(rows), next(rows)] == [(1, 1), (2, 4)]
    with pytest.raises(OutOfMemory):
        next(rows)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError(FULL)])
def test_another_error_is_no_reason(error):
    def work(size):
        raise error

    with pytest.raises(type(error)) as caught:
        fitting(4, work, "the rows")
    assert caught.value is error
