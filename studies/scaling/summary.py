"""Curves and fits as one plain record each, for scaling.json, the picture and reports.

    {"method": "best-of-n", "label": "bon", "form": "d(α − βd)", "notes": ["…"],
     "learned": {"std": 1.9, "start": 0.3, "fit": {…} | null, "series": [
         {"n": [1, 2, 4], "kl": […], "d": […], "gain": […], "low": […], "high": […]}]},
     "gold": {…}}

A series is best-of-n's points, with intervals over prompts, or a training run's logged rows ("step" instead of "n").
"gain" is what was gained since the start, in the reward's own unit; "std" is that reward's standard deviation over the
start's answers, by which gold and the learned reward can be put on one axis (null where it was not logged).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from studies.scaling.best_of_n import BonCurve, fit_bon
from studies.scaling.forms import LEVEL, SAID, Fit, Which
from studies.scaling.grpo import GrpoCurve, fit_rl
from vlm.common.errors import UserError

WHICH: tuple[Which, ...] = ("learned", "gold")


def of_bon(curve: BonCurve, label: str, *, level: float = LEVEL, count: int = 2000) -> dict[str, Any]:
    """A best-of-N curve with its two fits."""
    record: dict[str, Any] = {
        "method": "best-of-n",
        "label": label,
        "form": SAID["best-of-n"],
        "notes": [
            f"exact means over all subsets of the answers drawn, {len(curve.gold)} prompts; KL is the upper "
            "bound log n − (n − 1)/n (Beirami et al. 2024, arXiv 2401.01879), too high where many answers are equal"
        ],
    }
    for which in WHICH:
        drawn = curve.drawn(which, count)
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        gain = curve.gain(which).mean(axis=0)
        points = {"n": list(curve.ns), "kl": curve.kl.tolist(), "d": curve.d.tolist(), "gain": gain.tolist()}
        record[which] = {
            "std": _known(curve.std[which]),
            "start": float(getattr(curve, which)[:, 0].mean()),
            "fit": _fitted(record, which, partial(fit_bon, curve, which, level=level, count=count)),
            "series": [points | {"low": low.tolist(), "high": high.tolist()}],
        }
    return record


def of_grpo(curves: Sequence[GrpoCurve], label: str, *, level: float = LEVEL, count: int = 2000) -> dict[str, Any]:
    """The runs of one experiment with the two fits to all of them."""
    said = "each point is a logged row, a mean over its completions; KL is that of whole completions"
    record: dict[str, Any] = {
        "method": "grpo",
        "label": label,
        "form": SAID["rl"],
        "notes": list(dict.fromkeys([said, *(note for curve in curves for note in curve.notes)])),
    }
    for which in WHICH:
        fit = _fitted(record, which, partial(fit_rl, curves, which, level=level, count=count))
        start = fit["offset"] if fit else float(np.mean([getattr(curve, which)[0] for curve in curves]))
        record[which] = {
            "std": _known(float(np.mean([curve.std[which] for curve in curves]))),
            "start": start,
            "fit": fit,
            "series": [
                {
                    "step": curve.steps.tolist(),
                    "kl": curve.kl.tolist(),
                    "d": curve.d.tolist(),
                    "gain": (getattr(curve, which) - start).tolist(),
                }
                for curve in curves
            ],
        }
    return record


def _fitted(record: dict[str, Any], which: Which, fit: Callable[[], Fit]) -> dict[str, Any] | None:
    """The fit; None where the points do not tell, and a note of why."""
    try:
        return fit().to_json()
    except UserError as error:
        record["notes"].append(f"no fit of {which}: {error}")
        return None


def _known(std: float) -> float | None:
    return std if math.isfinite(std) and std > 0 else None


HEAD = ("curve", "of", "form", "α", "β", "peak at d*", "gained there", "rms error")


def table(records: Sequence[dict[str, Any]]) -> tuple[list[list[str]], list[str]]:
    """The fits as rows of texts below HEAD, and the notes that belong to them."""
    rows = []
    for record in records:
        for which in WHICH:
            fit = record[which]["fit"]
            if fit is not None:
                cells = [_number(fit[name]) for name in ("alpha", "beta", "peak", "height")]
                if fit["peak"]["value"] is not None and not fit["peak_measured"]:
                    cells[2] += " beyond what was measured"
                rows.append([record["label"], which, record["form"], *cells, f"{fit['rms_error']:.3g}"])
    notes = list(dict.fromkeys(f"{record['label']}: {note}" for record in records for note in record["notes"]))
    overs = {
        f"intervals ({100 * record[which]['fit']['level']:g}%) of {record['label']} by resampling "
        f"{record[which]['fit']['over']}; ∞: the fit rises for ever"
        for record in records
        for which in WHICH
        if record[which]["fit"]
    }
    said = "d = √KL in nats; rewards in their own units, gained since the start"
    return rows, [said, *sorted(overs), *notes]


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """The fits as a table, notes below."""
    rows, notes = table(records)
    rule = ["---"] * 3 + ["---:"] * 5
    lines = ["| " + " | ".join(row) + " |" for row in (HEAD, rule, *rows)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _number(found: dict[str, float | None]) -> str:
    value, low, high = ("∞" if found[name] is None else f"{found[name]:.3g}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
