"""vlm.common.bootstrap: intervals against enumeration and the normal approximation."""

import itertools

import numpy as np
import pytest

from evals.scoring.metrics import evaluate
from evals.scoring.report import as_dict
from tests.support.scores.scored import GROUNDING, ask, said
from vlm.common.bootstrap import (
    CELLS,
    SLOW,
    Statistic,
    each,
    interval,
    means,
    quantiles,
    ratio,
    replicates,
    resamples,
    seeds_alone,
)
from vlm.common.errors import DataError


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
    out = as_dict(report)
    assert set(report.intervals) == set(report.metrics) == set(out)
    for entry in out.values():
        assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1 and entry["level"] == 0.95
    # 3 hits of 10: X ~ B(10, 0.3), P(0) = 2.8% > 2.5%, P(X > 6) = 1.1% < 2.5% < P(X > 5) = 4.7%
    assert (out["grounding/acc@0.5"]["low"], out["grounding/acc@0.5"]["high"]) == (0, 0.6)


def table(values):
    """(S, N) → one statistic a seed."""
    return [means([{f"q{n}": float(v) for n, v in enumerate(row)}]) for row in np.asarray(values)]


def test_seeds_and_questions_by_enumeration():
    """Two seeds and two questions: every resample is a draw of two rows and, for both alike, of two columns."""
    values = np.array([[0.0, 0.3], [1.0, 0.5]])
    pairs = list(itertools.product(range(2), repeat=2))
    every = [values[np.ix_(rows, columns)].mean() for rows in pairs for columns in pairs]
    found = replicates(table(values), count=60_000)
    for level in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert (found <= level).mean() == pytest.approx(np.mean(np.array(every) <= level), abs=0.01)
    assert found.mean() == pytest.approx(0.45, abs=0.005)


def test_seeds_with_questions_of_their_own_are_nested():
    """Two seeds of two questions each: a drawn seed draws its questions anew, so its mean takes three values."""
    seeds = [means([{"a": 0.0, "b": 1.0}]), means([{"c": 0.0, "d": 1.0}])]
    share = (replicates(seeds, count=60_000)[:, None] == [0, 0.25, 0.5, 0.75, 1]).mean(axis=0)
    assert share == pytest.approx(np.array([1, 4, 6, 4, 1]) / 16, abs=0.01)  # four fair coins
    # crossed they would share their coins: the mean of two questions, drawn once
    share = (replicates([seeds[0]] * 2, count=60_000)[:, None] == [0, 0.25, 0.5, 0.75, 1]).mean(axis=0)
    assert share == pytest.approx(np.array([1, 0, 2, 0, 1]) / 4, abs=0.01)


def test_variance_of_a_crossed_bootstrap():
    """A mean of rows and columns drawn independently: three parts, each over how many draws it is averaged over."""
    rng = np.random.default_rng(5)
    seeds, questions = 6, 400
    values = rng.normal(0, 0.1, (seeds, 1)) + rng.normal(0, 1, (1, questions)) + rng.normal(0, 1, (seeds, questions))
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    rest = (values - rows[:, None] - columns + values.mean()).var() / (seeds * questions)
    expected = rows.var() / seeds + columns.var() / questions + rest
    assert replicates(table(values), count=20_000).var() == pytest.approx(expected, rel=0.05)


def test_pairs_have_the_same_questions_in_any_order():
    a, b = (
        Statistic(["x", "y"], lambda drawn: drawn @ [0.0, 1.0] / 2),
        Statistic(["y", "x"], lambda d: d @ [1.0, 0.0] / 2),
    )
    assert (replicates([a], [b]) == 0).all()
    with pytest.raises(DataError, match="2 questions are in one run only .such as 'x'.; a paired comparison"):
        replicates([a], [Statistic(["y", "z"], b.of)])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_few_seeds_cover_less_than_they_say(seeds):
    """Against intervals of seeds that answer a single question, so that nothing else spreads."""
    rng, inside = np.random.default_rng(11), 0
    for trial in range(300):
        low, high = quantiles(replicates(table(rng.normal(size=(seeds, 1))), count=400, seed=trial), 0.95)
        inside += low <= 0 <= high
    assert inside / 300 == pytest.approx(seeds_alone(seeds), abs=0.08)  # three standard errors
    assert seeds_alone(2) == 0.5 and seeds_alone(3) == 0.75 and 0.8 < seeds_alone(5) < seeds_alone(20) < 0.95


def test_gaussian_means_are_covered_as_often_as_claimed():
    """Rows and columns normal, nothing else: with 30 seeds and 60 questions the 90% interval holds the truth."""
    rng, inside = np.random.default_rng(7), 0
    for trial in range(150):
        values = rng.normal(0, 0.2, (30, 1)) + rng.normal(0, 0.3, (1, 60))
        low, high = quantiles(replicates(table(values), count=400, seed=trial), 0.9)
        inside += low <= 0 <= high
    assert 0.82 <= inside / 150 <= 0.96  # ± 3 standard errors around 0.88 to 0.9
