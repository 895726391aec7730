"""Scores of a corpus: eight bytes a row in memory, JSONL on disk.

    {"source": 0, "rows": [1, 5, 9], "scores": [0.31, -1.2, 0.77]}
    {"source": 0, "rows": [13], "fault": "missing_image", "message": "captions.json, row 13, …"}
    {"source": 0, "rows": [17], "fault": null}                            a row of a task that is not asked for

A row is named by its number in its file, from 1.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samples import Faults
from stage.parallel.journal import records
from vlm.common.errors import DataError

UNKNOWN = math.nan
LEFT_OUT = -math.inf
"""Stands for a row that is faulty or of another task: it is done, and cannot be kept."""


class Scores:
    """What is known of each row of each source."""

    def __init__(self, sources: int):
        self._values = [array("d") for _ in range(sources)]
        self.faults = [Faults() for _ in range(sources)]
        "Rows, kept (here: scored) and what was skipped, per source."

    @classmethod
    def load(cls, folder: Path, name: str, sources: int) -> Scores:
        """All parts of all processes. Raises: DataError where a part was edited."""
        scores = cls(sources)
        for record in records(folder, name):
            try:
                scores.add(record)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise DataError(f"{folder}/{name}.*.jsonl: cannot read {str(record)[:80]}; delete the file") from error
        return scores

    def add(self, record: dict) -> None:
        """One line of the journal."""
        source, rows = record["source"], record["rows"]
        scores: Sequence[float] = record.get("scores", [LEFT_OUT] * len(rows))
        values, faults = self._values[source], self.faults[source]
        for row, score in zip(rows, scores, strict=True):
            if row > len(values):
                values.extend([UNKNOWN] * (row - len(values)))
            if not math.isnan(values[row - 1]):
                continue  # scored by two processes: a run was continued with another number of them in mid-air
            values[row - 1] = score
            if score != LEFT_OUT:
                faults.rows, faults.kept = faults.rows + 1, faults.kept + 1
            elif record["fault"] is not None:
                faults.rows += 1
                faults.add(record["fault"], record["message"])

    def done(self, source: int, row: int) -> bool:
        """Whether the row was scored or left out."""
        values = self._values[source]
        return row <= len(values) and not math.isnan(values[row - 1])

    def values(self, source: int) -> np.ndarray:
        """(rows,) scores by row number - 1; UNKNOWN for a blank line, LEFT_OUT for a row that has none. A view."""
        return np.frombuffer(self._values[source]) if self._values[source] else np.empty(0)

    def scored(self) -> int:
        """How many rows have a score."""
        return sum(faults.kept for faults in self.faults)
