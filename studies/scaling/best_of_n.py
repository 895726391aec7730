"""Best of n: learned reward and gold of the answer that the learned reward picks, over the KL that picking costs.

    KL(best of n ‖ start) ≤ log n - (n - 1)/n

which is exact where no two answers are equal, and an upper bound else (Beirami et al. 2024, arXiv 2401.01879): a policy
that often says the same is moved by less. Legend: Q prompts, M answers drawn for each, K values of n.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studies.scaling.forms import LEVEL, Fit, Which, fit, solve, terms
from vlm.common.best_of import ranked, sizes, weights
from vlm.common.bootstrap import resamples
from vlm.common.errors import DataError, UserError

logger = logging.getLogger(__name__)

FILE = "judged.jsonl"


@dataclass(frozen=True)
class BonCurve:
    """What is picked out of n, for each prompt."""

    ns: tuple[int, ...]
    "Rising, from 1 on: one answer is the start."
    learned: np.ndarray
    "(Q, K) expected learned reward of the pick."
    gold: np.ndarray
    "(Q, K) expected gold of the pick."
    std: dict[str, float]
    "Standard deviation of the learned reward and of gold over the start's answers."

    @property
    def kl(self) -> np.ndarray:
        """(K,) in nats, the upper bound."""
        return best_of_kl(np.array(self.ns))

    @property
    def d(self) -> np.ndarray:
        """(K,) sqrt(KL)."""
        return np.sqrt(self.kl)

    def gain(self, which: Which) -> np.ndarray:
        """(Q, K) above what one answer has."""
        values = getattr(self, which)
        return values - values[:, :1]

    def drawn(self, which: Which, count: int, seed: int = 0) -> np.ndarray:
        """(R, K) mean gains of resampled prompts."""
        gain, rng = self.gain(which), np.random.default_rng(seed)
        return np.concatenate([times @ gain for times in resamples(rng, len(gain), count)]) / len(gain)


def best_of_kl(n: np.ndarray) -> np.ndarray:
    """log n - (n - 1)/n, in nats.

    >>> best_of_kl(np.array([1, 2])).round(4).tolist()
    [0.0, 0.1931]
    """
    n = np.asarray(n, dtype=float)
    return np.log(n) - (n - 1) / n


def bon_curve(scores: np.ndarray, golds: np.ndarray, ns: Sequence[int] | None = None) -> BonCurve:
    """Exact over all n-subsets of the answers (`vlm.common.best_of`); equal scores are picked equally often.

    scores, golds: (Q, M), finite; a score is -inf for an answer that cannot be read, which is picked only where there
    is no other, and then counts as the prompt's lowest score. ns: default 1, 2, 4 … M.
    Raises: ValueError for other shapes or n; DataError where a prompt has no answer that can be read.
    """
    scores, golds = np.asarray(scores, dtype=float), np.asarray(golds, dtype=float)
    if scores.shape != golds.shape or scores.ndim != 2 or not np.isfinite(golds).all() or np.isnan(scores).any():
        raise ValueError(f"found scores {scores.shape} and golds {golds.shape}, expected two finite (Q, M)")
    readable = scores > -np.inf
    if not readable.any(axis=1).all():
        raise DataError("a prompt has no answer that can be read, and so no learned reward; leave it out")
    ns = tuple(sorted({1, *(ns or sizes(scores.shape[1]))}))
    of_rank = weights(scores.shape[1], ns)  # (M, K)
    lowest = np.where(readable, scores, np.inf).min(axis=1, keepdims=True)
    filled = np.where(readable, scores, lowest)
    learned = np.stack([ranked(key, row) for key, row in zip(scores, filled, strict=True)]) @ of_rank
    gold = np.stack([ranked(key, row) for key, row in zip(scores, golds, strict=True)]) @ of_rank
    return BonCurve(ns, learned, gold, {"learned": float(filled.std()), "gold": float(golds.std())})


def fit_bon(curve: BonCurve, which: Which = "gold", *, level: float = LEVEL, count: int = 2000, seed: int = 0) -> Fit:
    """R(d) = d (α - β d), fitted to the mean gain over prompts; intervals by resampling prompts.

    Raises: UserError where there are fewer than two n above 1, which two numbers could not be told from.
    """
    if len(curve.ns) < 3:
        raise UserError(f"the curve has n = {', '.join(map(str, curve.ns))}; expected at least two above 1 to fit")
    d = curve.d[1:]
    drawn = solve(terms("best-of-n", d), curve.drawn(which, count, seed)[:, 1:])
    mean = curve.gain(which).mean(axis=0)[1:]
    return fit("best-of-n", d, mean, drawn, 0.0, f"{len(curve.gold)} prompts", level)


def read(folder: str | Path, metric: str | None = None, selector: str = "score") -> BonCurve:
    """The curve of a best-of-N run folder (launch/bon.py), from its judged.jsonl.

    metric: whose questions; default open_ended/gold where there is such, else the only one. Prompts without any answer
    that can be read are left out, and the log says how many.
    Raises: UserError where the folder has no such file, metric or selector; DataError naming a line.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise UserError(f"{folder} holds no {FILE}; expected the output of launch/bon.py, made since it writes one")
    rows: dict[str, list[tuple[list[float], list[float]]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            found = row["scores"].get(selector)
            if found is None:
                raise UserError(
                    f"{path}: there are no scores by {selector!r}, only by {', '.join(row['scores']) or 'nobody'}; "
                    f"run launch/bon.py with {selector} among its selectors"
                )
            scores = [-math.inf if score is None else float(score) for score in found]
            rows.setdefault(row["metric"], []).append((scores, [float(one) for one in row["quality"]]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: {error!r}; expected a row as launch/bon.py writes it") from error
    name = metric or ("open_ended/gold" if "open_ended/gold" in rows else next(iter(rows)) if len(rows) == 1 else "")
    if name not in rows:
        raise UserError(f"{path}: no metric {name or 'was named'}; there are {', '.join(rows)}: choose one by --metric")
    kept = [row for row in rows[name] if max(row[0]) > -math.inf]
    if lost := len(rows[name]) - len(kept):
        logger.warning("%s: %d of %d prompts have no answer that can be read", path, lost, len(rows[name]))
    if not kept:
        raise DataError(f"{path}: no prompt has an answer that can be read")
    return bon_curve(np.array([scores for scores, _ in kept]), np.array([golds for _, golds in kept]))
