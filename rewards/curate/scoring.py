"""One process's share of the scoring: rows come, scores go to the journal, nothing is held but a chunk of rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards.curate.corpus import Source, exchange
from rewards.curate.recipe import CurateRecipe
from rewards.curate.store import Scores
from rewards.score.model.exchange import Exchange
from rewards.score.scorer import Scorer
from rewards.select.scorers import note_truncation
from rewards.select.selectors import checked
from samples import Sample
from samples.readers.rows import RowFault
from stage.parallel.journal import Part
from stage.parallel.team import Team
from vlm.common.errors import DataError

logger = logging.getLogger(__name__)

OTHER_TASK = None
"""In place of a fault's kind: nothing is wrong with the row."""


@dataclass
class Shard:
    """Scores the rows whose number falls to this process, less those that are done."""

    recipe: CurateRecipe
    sources: Sequence[Source]
    part: Part
    done: Scores
    team: Team
    load: Callable[[], Scorer]
    "Gives the scorer; called at the first row that needs one."
    scorer: Scorer | None = None
    _waiting: list[tuple[int, Exchange]] = field(default_factory=list)

    def check(self) -> None:
        """Under `on_fault: error`, look at the headers of all images before the scorer's weights load. Raises:
        DataError for one that cannot be read or shown."""
        if self.recipe.data.on_fault == "skip":
            return
        for index, source in enumerate(self.sources):
            for number, row in self._mine(index, source):
                try:
                    source.sample(number, row)
                except RowFault as fault:
                    if fault.kind in ("strip", "unreadable_image"):  # others are told when their turn comes
                        self._fault(index, number, fault, fault.kind)

    def run(self) -> None:
        """Score it all. Raises: DataError for a faulty row under `on_fault: error`; what was scored stays."""
        from tqdm.auto import tqdm

        with tqdm(desc=self.recipe.by, unit=" rows", disable=not self.team.main, mininterval=2.0) as bar:
            for index, source in enumerate(self.sources):
                for number, row in self._mine(index, source):
                    self._take(index, number, row)
                    bar.update(self.team.size)
                self._flush(index)
        if self.scorer is not None:
            note_truncation(self.scorer)

    def _mine(self, index: int, source: Source) -> Iterator[tuple[int, Any]]:
        for number, row in source:
            if number % self.team.size == self.team.rank and not self.done.done(index, number):
                yield number, row

    def _take(self, index: int, number: int, row: dict[str, Any] | RowFault) -> None:
        source, wanted = self.sources[index], self.recipe.data.tasks
        try:
            sample: Sample = source.sample(number, row)
            if wanted is not None and sample.task not in wanted:
                self.part.add({"source": index, "rows": [number], "fault": OTHER_TASK})
                return
            said = exchange(sample, self.recipe.notation)
        except DataError as fault:
            self._fault(index, number, fault, "no_answer")
            return
        self._waiting.append((number, said))
        if len(self._waiting) == self.recipe.chunk:
            self._flush(index)

    def _flush(self, index: int) -> None:
        """Score what waits and record it."""
        if not self._waiting:
            return
        numbers, said = zip(*self._waiting, strict=True)
        self._waiting = []
        try:
            scores = self._ask(said, self.sources[index].where(numbers[0]))
        except DataError:  # an image that does not decode, most often: find the row, keep the others
            self._one_by_one(index, numbers, said)
            return
        self.part.add({"source": index, "rows": list(numbers), "scores": scores})

    def _one_by_one(self, index: int, numbers: Sequence[int], said: Sequence[Exchange]) -> None:
        for number, one in zip(numbers, said, strict=True):
            try:
                scores = self._ask([one], self.sources[index].where(number))
            except DataError as fault:
                self._fault(index, number, fault, "not_scored")
                continue
            self.part.add({"source": index, "rows": [number], "scores": scores})

    def _ask(self, said: Sequence[Exchange], where: str) -> list[float]:
        if self.scorer is None:
            self.scorer = self.load()
        return checked(self.scorer.score(said), len(said), where)

    def _fault(self, index: int, number: int, fault: DataError, kind: str) -> None:
        """The data policy: end the run, or leave the row out and count it, as `kind` where the fault has none."""
        where = self.sources[index].where(number)
        message = f"{where}, {fault}" if isinstance(fault, RowFault) else f"{where}: {fault}"
        if self.recipe.data.on_fault == "error":
            raise DataError(
                f"{message}. Fix the row, or write data.on_fault=skip; the run continues where it was"
            ) from fault
        kind = fault.kind if isinstance(fault, RowFault) else kind
        self.part.add({"source": index, "rows": [number], "fault": kind, "message": message})


def journal(folder: Path) -> Path:
    """Where a run folder's scores lie."""
    return folder / "scores"
