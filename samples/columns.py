"""Which columns rewards will find in rows: by task, the names that some row has a value for."""

from __future__ import annotations

from collections.abc import Iterable

from samples.facts import values_of
from samples.sample import Sample
from samples.store import Drawn

ByTask = dict[str, set[str]]
"""Task → names of the columns and of the optional fields that some of its rows has."""


class Columns:
    """Shown rows one by one, it keeps the names; of drawn rows it asks for their facts."""

    def __init__(self, samples: Iterable[Sample] = ()):
        self.by_task: ByTask = {}
        self.add(samples)

    def add(self, samples: Iterable[Sample]) -> None:
        if isinstance(samples, Drawn):
            for facts in samples.facts():
                self._take(facts.task, facts.values)
        else:
            for sample in samples:
                self.see(sample)

    def see(self, sample: Sample) -> None:
        self._take(sample.task, values_of(sample))

    def _take(self, task: str, values: Iterable[str]) -> None:
        self.by_task.setdefault(task, set()).update(values)
