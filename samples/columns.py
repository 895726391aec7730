"""Which columns rewards will find in rows: by task, the names that some row has a value for."""

from __future__ import annotations

from collections.abc import Iterable

from samples.sample import Sample

OPTIONAL = ("answer", "boxes", "quads", "choices", "kind")
"""Fields of a Sample that rows may lack."""
ByTask = dict[str, set[str]]
"""Task → names of the columns and of the optional fields that some of its rows has."""


class Columns:
    """Shown rows one by one, it keeps the names."""

    def __init__(self, samples: Iterable[Sample] = ()):
        self.by_task: ByTask = {}
        for sample in samples:
            self.see(sample)

    def see(self, sample: Sample) -> None:
        names = self.by_task.setdefault(sample.task, set())
        if sample.columns:
            names.update(name for name, value in sample.columns.items() if value is not None)
        names.update(name for name in OPTIONAL if getattr(sample, name) is not None)
