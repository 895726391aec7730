"""The learned reward against gold over √KL, and the published forms fitted to it (`studies.scaling`), for the page."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from studies.report.runs.folders import Folder
from studies.report.runs.labels import Curve
from studies.scaling import best_of_n, figure, grpo, summary
from vlm.common.errors import UserError
from vlm.common.figures import uri

logger = logging.getLogger(__name__)

COUNT = 500
"""Resamples of each interval."""


def chapter(curves: Sequence[Curve], gold: str | None) -> dict[str, Any] | None:
    """{"picture": SVG as a data URI, "head": texts, "rows": texts, "notes": texts}; None where nothing tells the curve.

    gold: metric of the training runs that tells the truth. Best-of-N runs bring their own.
    """
    records = [record for curve in curves for record in _of(curve, gold)]
    if not records:
        return None
    rows, notes = summary.table(records)
    return {"picture": uri(figure.drawn(records)), "head": summary.HEAD, "rows": rows, "notes": notes}


def _of(curve: Curve, gold: str | None) -> Iterable[dict[str, Any]]:
    drawn = [run for run in curve.runs if (run.path / best_of_n.FILE).is_file()]
    for run in drawn:
        label = curve.label if len(curve.runs) == 1 else f"{curve.label}: {run.name}"
        try:
            yield summary.of_bon(best_of_n.read(run.path, None, "score"), label, count=COUNT)
        except UserError as fault:
            logger.warning("no best-of-N curve of %s: %s", run.path, fault)
    trained = [run for run in curve.trained if gold is not None and _measured(run, gold)]
    try:
        found = [grpo.read(run.path, grpo.LEARNED, gold) for run in trained]
        if found:
            yield summary.of_grpo(found, curve.label, count=COUNT)
    except UserError as fault:
        logger.warning("no curve of %s over √KL: %s", curve.label, fault)


def _measured(run: Folder, gold: str) -> bool:
    """Whether a run logged all that the curve needs; most do not, for TRL measures the KL only with a beta."""
    return {grpo.LEARNED, grpo.KL, grpo.LENGTH, gold} <= set(run.series)
