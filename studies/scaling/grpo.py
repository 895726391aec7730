"""GRPO: learned reward and gold of what the policy says while it trains, over its KL from the start.

Read from metrics.jsonl, for which the recipe needs `training.beta` above 0 (TRL measures the KL only then; 1e-6
measures without pushing) and gold as a reward that pays nothing:

    rewards: [{use: gated, …}, {use: demo.world.captions:reward, weight: 0}]

A row of the file is a mean over the completions since the row before, other prompts each time. KL is that of whole
completions: TRL's `kl` is a mean over tokens (the estimator k3, Schulman 2020), so it is multiplied by
`completions/mean_length`. It is over all rows, gold and the learned reward over those they apply to: with several tasks
in the data they are not of the same rows, and `notes` says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import yaml

from stage.runs import METRICS, RECIPE, read_metrics
from studies.scaling.forms import LEVEL, Fit, Which, fit, solve, terms
from vlm.common.errors import UserError

LEARNED, KL, LENGTH = "score/mean", "kl", "completions/mean_length"
STDS = {LEARNED: "score/std"}
"""The name of a reward's standard deviation; of others it is rewards/NAME/std."""


@dataclass(frozen=True)
class GrpoCurve:
    """One run. P logged rows."""

    steps: np.ndarray
    kl: np.ndarray
    "(P,) nats for a completion."
    learned: np.ndarray
    gold: np.ndarray
    "(P,) means over the completions of a row, as logged."
    std: dict[str, float]
    "Standard deviation of the learned reward and of gold over completions, in the first row."
    notes: tuple[str, ...] = ()

    @property
    def d(self) -> np.ndarray:
        """(P,) sqrt(KL)."""
        return np.sqrt(self.kl)


def fit_rl(
    curves: Sequence[GrpoCurve],
    which: Which = "gold",
    *,
    start: float | None = None,
    level: float = LEVEL,
    count: int = 2000,
    seed: int = 0,
) -> Fit:
    """R(d) = d (α - β log d), fitted to the rows of all runs (seeds of one experiment) together.

    start: the reward at KL 0, where it was measured; None fits it as a third coefficient. Intervals by resampling runs
    (where there are several) and rows within them, pairs of d and reward (Davison & Hinkley 1997, section 6.2.4): each
    row has prompts of its own, so rows stand for prompts. Rows of a run follow one another, which this leaves out.
    Raises: UserError where the rows are too few, or their KL too much alike, to tell the coefficients.
    """
    d = np.concatenate([curve.d for curve in curves])
    reward = np.concatenate([getattr(curve, which) for curve in curves])
    x = terms("rl", d)
    if start is None:
        x = np.column_stack([x, np.ones(len(d))])
    found = solve(x, reward - (start or 0.0))[0]
    if len(d) < 4 or np.isnan(found).any():
        told = f"{len(d)} rows with sqrt(KL) from {d.min():.3g} to {d.max():.3g}"
        raise UserError(f"{told} do not determine the curve; log more often, or train longer")
    times = _resampled([len(curve.d) for curve in curves], count, seed)
    drawn = solve(x, reward - (start or 0.0), times)[:, :2]
    over = f"{len(d)} logged rows" + (f" of {len(curves)} runs, and the runs" if len(curves) > 1 else " of one run")
    return fit("rl", d, reward, drawn, float(found[2]) if start is None else start, over, level)


def _resampled(rows: Sequence[int], count: int, seed: int) -> np.ndarray:
    """(R, P) how often each row counts: runs with replacement, then rows within each that was drawn."""
    rng = np.random.default_rng(seed)
    runs = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=count)  # (R, S)
    parts = [rng.multinomial(runs[:, place] * n, np.full(n, 1 / n)) for place, n in enumerate(rows)]
    return np.concatenate(parts, axis=1).astype(float)


def read(folder: str | Path, learned: str = LEARNED, gold: str | None = None) -> GrpoCurve:
    """The curve of a GRPO run folder; a run that is not finished is read as far as it is.

    learned, gold: names in metrics.jsonl; gold is by default the mean of the reward that the recipe gives weight 0.
    Raises: UserError where something was not logged, and how to have it logged.
    """
    folder = Path(folder)
    if not (folder / METRICS).exists():
        raise UserError(f"{folder} holds no {METRICS}; expected the output of launch/grpo.py")
    recipe = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8")) if (folder / RECIPE).exists() else {}
    if recipe.get("training", {}).get("sync_ref_model"):
        raise UserError(f"{folder}: training.sync_ref_model moves the reference, so `kl` is not the KL from the start")
    rows = read_metrics(folder / METRICS)
    gold = gold or _gold(folder, recipe, rows)
    needed = (KL, LENGTH, learned, gold)
    whole = [row for row in rows if all(_finite(row.get(name)) for name in needed)]
    if not whole:
        raise UserError(f"{folder / METRICS}: {_missing(rows, needed)}")
    kl = np.array([max(row[KL] * row[LENGTH], 0.0) for row in whole])
    first = whole[0]
    std = {which: _std(first, name) for which, name in (("learned", learned), ("gold", gold))}
    learned_values, gold_values = (np.array([row[name] for row in whole]) for name in (learned, gold))
    return GrpoCurve(np.array([row["step"] for row in whole]), kl, learned_values, gold_values, std, _notes(whole))


def _gold(folder: Path, recipe: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(key for row in rows for key in row if _is_reward(key)))
    rewards = recipe.get("rewards") or []
    idle = [place for place, reward in enumerate(rewards) if reward.get("weight") == 0]
    if len(idle) != 1 or len(names) != len(rewards):
        raise UserError(
            f"{folder}: which metric is gold? Name it by --gold; there are {', '.join(names)}. It is found by itself "
            "where the recipe has one reward of weight 0, such as {use: demo.world.captions:reward, weight: 0}"
        )
    return names[idle[0]]  # TRL logs rewards in the order of the recipe


def _is_reward(key: str) -> bool:
    return key.startswith("rewards/") and key.endswith("/mean")


def _std(row: dict[str, Any], name: str) -> float:
    value = row.get(STDS.get(name, name.removesuffix("mean") + "std"))
    return float(value) if _finite(value) and value > 0 else math.nan


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


ADVICE = {
    KL: "training.beta is 0, and TRL measures the KL only above it; 1e-6 measures without pushing",
    LEARNED: "no reward `score` took part; name the learned reward's metric by --learned",
}


def _missing(rows: Sequence[dict[str, Any]], needed: Sequence[str]) -> str:
    lacking = [name for name in needed if not any(_finite(row.get(name)) for row in rows)]
    if not lacking:
        return f"no row has all of {', '.join(needed)}"
    return "; ".join(f"no row has {name}" + (f": {ADVICE[name]}" if name in ADVICE else "") for name in lacking)


def _notes(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Whether the KL is over other rows than the rewards."""
    counts: dict[str, float] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith("reward_raw/") and key.endswith("_count") and _finite(value):
                counts[key.removeprefix("reward_raw/").removesuffix("_count")] = value
    there = {task: count for task, count in counts.items() if count > 0 and task != "none"}
    if len(there) < 2:
        return ()
    said = ", ".join(f"{task} {count / sum(there.values()):.0%}" for task, count in there.items())
    return (f"KL is over all rows ({said}), learned reward and gold over those that they apply to",)
