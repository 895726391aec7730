"""Several processes of a run as threads of one, for what goes through `stage.parallel.agreement`."""

from __future__ import annotations

import pickle
import threading

from stage.parallel import agreement

LIMIT = 30
"""Seconds that one waits for the others before it counts as hung."""


def as_processes(monkeypatch, *works):
    """What each work returned or raised, by rank. What they tell each other is pickled, as between processes."""
    here, barrier = threading.local(), threading.Barrier(len(works))
    told, results = [b""] * len(works), [None] * len(works)

    def gather(value):
        told[here.rank] = pickle.dumps(value)
        barrier.wait(LIMIT)
        found = [pickle.loads(one) for one in told]  # noqa: S301 (our own)
        barrier.wait(LIMIT)
        return found

    def process(rank):
        here.rank = rank
        try:
            results[rank] = works[rank]()
        except Exception as error:
            results[rank] = error

    with monkeypatch.context() as patched:
        patched.setenv("WORLD_SIZE", str(len(works)))  # as stage.runs reads it
        patched.setattr(agreement, "size", lambda: len(works))
        patched.setattr(agreement, "rank", lambda: here.rank)
        patched.setattr(agreement, "gather", gather)
        threads = [threading.Thread(target=process, args=(rank,), daemon=True) for rank in range(len(works))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * LIMIT)
    return results
