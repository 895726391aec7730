"""The forms that gold follows over d = sqrt(KL), and their least squares (arXiv 2210.10760, section 3.1, equation 1).

    best of n   R(d) = d (α - β d)          highest at d* = α / 2β, there α² / 4β = α d* / 2
    RL          R(d) = d (α - β log d)      highest at d* = exp(α/β - 1), there β d*

R is what was gained since the start, so R(0) = 0. Both are linear in α and β, so least squares have a closed form. α
says what the first steps gain, β how fast the learned reward stops being worth it. Where β ≤ 0 nothing was
over-optimised: the fit has no highest point, d* is infinite.

Legend: P points of a curve, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import xlogy

Form = Literal["best-of-n", "rl"]
Which = Literal["learned", "gold"]
LEVEL = 0.95
SAID: Mapping[Form, str] = {"best-of-n": "d(α − βd)", "rl": "d(α − β log d)"}


def terms(form: Form, d: np.ndarray) -> np.ndarray:
    """(…, 2) what α and β are multiplied by; d ≥ 0, and d log d is 0 at 0."""
    d = np.asarray(d, dtype=float)
    return np.stack([d, -d * d if form == "best-of-n" else -xlogy(d, d)], axis=-1)


def peak(form: Form, alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(d*, R there): where the form is highest over d ≥ 0; both infinite where it rises for ever."""
    alpha, beta = np.asarray(alpha, dtype=float), np.asarray(beta, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if form == "best-of-n":
            at = np.maximum(alpha, 0) / (2 * beta)
            height = at * np.maximum(alpha, 0) / 2
        else:
            at = np.exp(alpha / beta - 1)
            height = beta * at
    rising = ~(beta > 0)
    none = np.isnan(alpha) | np.isnan(beta)
    at, height = (np.where(none, np.nan, np.where(rising, np.inf, found)) for found in (at, height))
    return at, height


def solve(x: np.ndarray, y: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
    """(R, C) least squares of y on the columns of x by the normal equations; NaN where the points do not tell.

    x: (P, C). y: (P,) or (R, P). times: (R, P) how often each point counts in each resample; default once.
    """
    y = np.atleast_2d(y)
    if times is None:
        times = np.ones((1, len(x)))
    gram = np.einsum("rp,pc,pe->rce", times, x, x)
    right = (times * y) @ x  # (R, C)
    gram = np.broadcast_to(gram, (len(right), *gram.shape[1:]))
    length = np.sqrt(np.einsum("rcc->rc", gram))
    length = np.where(length > 0, length, 1)
    even = gram / (length[:, :, None] * length[:, None, :])  # of columns of length 1, so that the determinant tells
    told = np.linalg.det(even) > 1e-9
    out = np.full(right.shape, np.nan)
    if told.any():
        out[told] = np.linalg.solve(even[told], (right / length)[told][..., None])[..., 0] / length[told]
    return out


@dataclass(frozen=True)
class Number:
    """A number with its percentile interval; infinite where there is no end on that side."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """None stands for infinite, which JSON has not."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}


@dataclass(frozen=True)
class Fit:
    """A form fitted to one curve. Rewards are gains since the start, in the unit of the reward."""

    form: Form
    alpha: Number
    beta: Number
    peak: Number
    "d*, sqrt(KL) where the form is highest."
    height: Number
    "R there."
    offset: float
    "R(0) as fitted: 0 where the start was measured."
    error: float
    "Root mean square of what the form leaves."
    longest: float
    "The largest d that was measured: a peak beyond it is extrapolated."
    over: str
    "What was resampled."
    level: float
    resamples: int

    @property
    def seen(self) -> bool:
        """Whether the highest point is within what was measured."""
        return self.peak.value <= self.longest

    def line(self, points: int = 100) -> tuple[np.ndarray, np.ndarray]:
        """(d, R) along what was measured."""
        d = np.linspace(0, self.longest, points)
        return d, self.offset + terms(self.form, d) @ [self.alpha.value, self.beta.value]

    def to_json(self) -> dict[str, Any]:
        d, reward = self.line()
        return {
            "form": SAID[self.form],
            **{name: getattr(self, name).to_json() for name in ("alpha", "beta", "peak", "height")},
            "peak_measured": bool(self.seen),
            "offset": self.offset,
            "rms_error": self.error,
            "over": self.over,
            "level": self.level,
            "resamples": self.resamples,
            "line": {"d": d.tolist(), "reward": reward.tolist()},
        }


def fit(
    form: Form,
    d: np.ndarray,
    reward: np.ndarray,
    drawn: np.ndarray,
    offset: float,
    over: str,
    level: float,
) -> Fit:
    """d, reward: (P,), points without the offset. drawn: (R, 2), α and β of the resamples; NaN ones are left out."""
    alpha, beta = solve(terms(form, d), reward - offset)[0]
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    tops = peak(form, alpha, beta)
    spread = [drawn[:, 0], drawn[:, 1], *peak(form, drawn[:, 0], drawn[:, 1])]
    a, b, top, height = (number(value, found, level) for value, found in zip((alpha, beta, *tops), spread, strict=True))
    left = reward - offset - terms(form, d) @ [alpha, beta]
    error = float(np.sqrt(np.mean(left**2)))
    return Fit(form, a, b, top, height, float(offset), error, float(np.max(d)), over, level, len(drawn))


def number(value: float, drawn: np.ndarray, level: float) -> Number:
    """With the percentile interval of the resamples, in which infinite ones count as the largest."""
    if not len(drawn):
        return Number(float(value), -math.inf, math.inf)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Number(float(value), float(low), float(high))
