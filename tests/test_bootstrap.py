"""evals.bootstrap: intervals against enumeration and the normal approximation."""

import itertools

import numpy as np
import pytest

from evals.bootstrap import CELLS, SLOW, Statistic, each, interval, means, ratio, resamples
from evals.metrics import evaluate
from tests.support.scored import GROUNDING, ask, said


def enumerated(number, values, level):
    """The percentile interval over all resamples of the values, each as likely as the other."""
    drawn = [number(picked) for picked in itertools.product(values, repeat=len(values))]
    return np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")


def test_a_mean_by_enumeration():
    values = [0.0, 0.0, 1.0, 0.5]
    found = interval(means([dict(zip("abcd", values, strict=True))]), level=0.8, count=20_000)
    assert found == pytest.approx(enumerated(np.mean, values, 0.8), abs=1e-9)


def test_a_ratio_by_enumeration():
    """Sums of intersections over sums of unions; a mean of ratios would be another number."""
    parts = [(1, 2), (8, 10), (0, 4)]
    statistic = ratio(dict(zip("abc", parts, strict=True)))
    assert statistic.value == 9 / 16 != np.mean([0.5, 0.8, 0])
    found = interval(statistic, level=0.8, count=20_000)
    expected = enumerated(lambda picked: sum(a for a, _ in picked) / sum(b for _, b in picked), parts, 0.8)
    assert found == pytest.approx(expected, abs=1e-9)


def test_many_questions_are_normal():
    values = np.random.default_rng(3).random(2000) < 0.3
    low, high = interval(means([{str(n): float(v) for n, v in enumerate(values)}]), count=4000)
    half = 1.959964 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_groups_that_a_resample_misses_are_left_out():
    statistic = means([{"a": 1.0}, {"b": 0.0, "c": 0.0}])
    assert statistic.value == 0.5
    assert statistic.of(np.array([[3, 0, 0], [0, 2, 1], [1, 1, 1]])).tolist() == [1, 0, 0.5]


def test_what_is_no_number_in_a_resample_is_left_out():
    statistic = ratio({"a": (1, 2), "b": (0, 0)})
    assert np.isnan(statistic.of(np.array([[0.0, 2.0]]))).all()
    assert interval(statistic) == (0.5, 0.5)


def test_one_resample_at_a_time_is_the_same():
    values = np.array([0.0, 0.2, 0.9])
    slow = each(list("abc"), lambda times: float(values @ times / times.sum()))
    fast = means([dict(zip("abc", values, strict=True))])
    assert interval(slow) == pytest.approx(interval(fast, count=SLOW), abs=1e-12)
    assert slow.value == pytest.approx(values.mean())
    assert Statistic(["a"], lambda drawn: drawn[:, 0], point=0.25).value == 0.25


def test_resamples_draw_as_many_as_there_are_in_portions():
    rng = np.random.default_rng(0)
    portions = list(resamples(rng, CELLS // 2, 3))
    assert [len(portion) for portion in portions] == [2, 1]
    assert all((portion.sum(axis=1) == CELLS // 2).all() for portion in portions)


def test_every_metric_of_an_evaluation_has_its_interval():
    report = evaluate([*GROUNDING, ask("1", said("a"), "a", "k"), ask("2", said("b"), "a", "k")], "qwen2_vl")
    out = report.to_dict()
    assert set(report.intervals) == set(report.metrics) == set(out)
    for entry in out.values():
        assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1 and entry["level"] == 0.95
    # 3 hits of 10: X ~ B(10, 0.3), P(0) = 2.8% > 2.5%, P(X > 6) = 1.1% < 2.5% < P(X > 5) = 4.7%
    assert (out["grounding/acc@0.5"]["low"], out["grounding/acc@0.5"]["high"]) == (0, 0.6)
