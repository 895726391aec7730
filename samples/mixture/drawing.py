"""Reading sources, and drawing from them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from samples import Faults, Sample
from samples.mixture import tables
from samples.mixture.marks import Marks, marks_of
from samples.mixture.record import Line, Mixture, Part
from samples.mixture.source import Source
from samples.reading import Check
from samples.sections import DataSection, Role, SourceSection
from samples.shares import percentage
from samples.store import Drawn, Table
from vlm.common.console import say
from vlm.common.errors import DataError, RecipeError

logger = logging.getLogger(__name__)


def draw(data: DataSection, role: Role, seed: int, check: Check | None = None) -> Mixture:
    """The rows of `data.train` or `data.eval`, checked; says which columns travel on.

    The rows are read, checked and written to a table once (`samples.store`); what is told of them is the same whether
    that was now or before. check: as in `samples.read`.
    Raises: DataError for a faulty row (under `on_fault: error`), a draw that leaves nothing, and an empty mixture.
    """
    sections, marks = data.sources(role), _marks(data, role)
    parts: list[Part] = []
    rows: list[tuple[Table[Sample], np.ndarray]] = []
    for section, quota in zip(sections, data.quotas(role), strict=True):
        table = tables.stored(section, data, seed, check)
        passed = tables.passed(table, section, data, seed, marks)
        for line in table.about["said"]:
            say(line)
        uses = passed.uses(quota)
        rows.append((table, uses))
        used = hashlib.sha256(uses.astype("<i8").tobytes()).hexdigest()
        path = Path(section.path)
        size = path.stat().st_size if path.is_file() else None
        parts.append(replace(passed.part(uses), bytes=size, digest=table.about["digest"], used=used))
        if table.about["faults"]:
            logger.warning("%s: %s", section.path, table.about["faults"])
    mixture = Mixture(role, parts, Drawn(rows), marks)
    if not mixture.rows:
        paths = [section.path for section in sections]
        out = f", and data.drop_blind leaves {mixture.blind} out" if marks is not None else ""
        raise DataError(f"data.{role}: no rows left; sources {paths}, tasks {data.tasks or 'all'}{out}")
    return mixture


def _marks(data: DataSection, role: Role) -> Marks | None:
    """Those of the recipe, and what is said of them."""
    marks = marks_of(data, role)
    for line in () if marks is None else marks.said(data.prompt):
        say(line)
    return marks


class DryFaults(Faults):
    """Faults of a dry run: it may be made where pictures are not, but all else ends it as it ends a run."""

    OF_PICTURES = frozenset({"missing_image", "unreadable_image"})

    def add(self, kind: str, message: str) -> None:
        if kind not in self.OF_PICTURES:
            raise DataError(message)
        super().add(kind, message)


def draw_all(data: DataSection, seed: int, check: Check | None = None) -> dict[Role, Mixture]:
    """`train`, and `eval` where the recipe names held-out data. Raises: as `draw`."""
    roles: list[Role] = ["train", "eval"] if data.eval else ["train"]
    return {role: draw(data, role, seed, check) for role in roles}


def count(
    data: DataSection,
    role: Role,
    seed: int,
    see: Callable[[Sample], object] | None = None,
    check: Check | None = None,
) -> Mixture:
    """The same without samples, for a dry run: images are not opened, and rows whose images are not here are left out
    and counted.

    see: is shown each row that the mixture uses, once. For it, a source is held whole where its rows are drawn.
    A file that is not here counts with its `limit`. Raises: RecipeError where neither file nor limit nor ratio says how
    many rows it gives; DataError as `draw`, but for those images.
    """
    mixture = Mixture(role, [], marks=_marks(data, role))
    for section, quota in zip(data.sources(role), data.quotas(role), strict=True):
        if is_here(section):
            faults = DryFaults() if data.on_fault == "error" else Faults()
            source = Source(section, data, seed, "skip", False, faults, check, mixture.marks)
            held: list[Sample] = []
            holding = source.drawing or mixture.marks is not None
            take = held.append if see is not None and holding else see
            for sample in source:
                if take is not None:
                    take(sample)
            uses = source.uses(quota)
            if see is not None and holding:
                for number in np.unique(uses).tolist():
                    see(held[number])
            mixture.parts.append(source.part(uses))
            for line in faults.columns_said():
                say(f"{section.path}: {line}")
        else:
            mixture.parts.append(_absent(section, quota, role))
    return mixture


def count_all(
    data: DataSection, seed: int, see: Callable[[Role, Sample], object], check: Check | None = None
) -> dict[Role, Mixture]:
    """`draw_all` for a dry run, as `count`: held-out files that are not here are left out, with a warning."""
    found: dict[Role, Mixture] = {"train": count(data, "train", seed, partial(see, "train"), check)}
    here = [source for source in data.eval if is_here(source)]
    for source in data.eval:
        if source not in here:
            logger.warning("data.eval: %s is not here; its rows are not looked at", source.path)
    if here:
        held_out = data.model_copy(update={"eval": here})
        found["eval"] = count(held_out, "eval", seed, partial(see, "eval"), check)
    return found


def is_here(section: SourceSection) -> bool:
    """Whether the rows of a source can be read."""
    return section.path.startswith("hub:") or Path(section.path).exists()


def _absent(section: SourceSection, quota: int | None, role: Role) -> Part:
    if quota is not None:
        logger.warning("%s is not here; planning with the %d rows of its ratio", section.path, quota)
        return Part(section.path, [Line("?", section.limit or 0, min(quota, section.limit or quota), quota)])
    if section.limit is None:
        raise RecipeError(f"data.{role}: {section.path} is not here and has no `limit`; state one to plan with")
    logger.warning("%s is not here; planning with its limit of %d rows", section.path, section.limit)
    kept = section.limit if section.percent is None else percentage(section.percent, section.limit)
    return Part(section.path, [Line("?", section.limit, kept, kept * section.repeat)])
