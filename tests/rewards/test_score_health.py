"""What the learned reward logs: means by hand, names that are always there, probes that find what is wrong."""

from __future__ import annotations

import json
import math

import pytest

from rewards.score.reward.health import WithinGroups
from rewards.score.reward.score import Score
from rewards.score.scorer import ScorerUnavailable
from tests.support.completions import Logs, r1
from tests.support.scores.score_fakes import BLUE, GREEN, RED, FakeScorer, bare, batch

TABLE = {"ref": 1.0, "aa": 2.0, "aaaa": 4.0, "b": 0.0, "bbb": 0.0}


def called(reward, *groups, **columns):
    logs = Logs()
    values = reward(**batch(*groups) | columns, log_metric=logs.log_metric, log_extra=logs.log_extra)
    return values, logs


def test_metrics_by_hand():
    reward = Score(scorer=FakeScorer(TABLE), probe_every=0, rules=["exact_match"])
    groups = (RED, "?", "ref", [r1("aa"), r1("aaaa"), bare("aa")]), (BLUE, "?", "ref", [r1("b"), r1("bbb")])
    values, logs = called(reward, *groups)
    a, b = 1 - math.exp(-0.2), 1 - math.exp(-0.6)
    assert values == pytest.approx([a, b, 0.0, 0.0, 0.0])
    # scores 2, 4, 0, 0: mean 1.5, squares .25 + 6.25 + 2.25 + 2.25 = 11
    expected = {
        "mean": 1.5,
        "std": math.sqrt(11 / 3),
        "group_std": (math.sqrt(2) + 0) / 2,
        "margin": (1 + 3 - 1 - 1) / 4,
        "reference_known": 0.0,
        "scored": 4 / 5,
        "failed": 0.0,
        "masked_count": 0.0,
        "zero_spread_groups": 1 / 2,
        "flattened_groups": 0.0,
        # (score, length) less their group's mean: (-1, -1), (1, 1), (0, -1), (0, 1): 2 / sqrt(2 · 4)
        "corr_length": 1 / math.sqrt(2),
    }
    assert {name: logs.mean(f"score/{name}") for name in expected} == pytest.approx(expected)
    # rewards a, b, 0 of formats 1, 1, 0; the other group's do not vary
    mean = (a + b) / 3
    top = (a - mean) / 3 + (b - mean) / 3 + mean * 2 / 3
    bottom = math.sqrt(((a - mean) ** 2 + (b - mean) ** 2 + mean**2) * 2 / 3)
    assert logs.mean("score/corr_format") == pytest.approx(top / bottom)
    assert math.isnan(logs.mean("score/corr_exact_match"))  # nobody says "ref"
    assert logs.mean("score/seconds") >= 0
    assert logs.extra == {"score/raw": [2.0, 4.0, None, 0.0, 0.0]}
    _, again = called(reward, *groups)
    assert again.mean("score/reference_known") == 1.0


def test_the_correlation_with_a_rule_reward():
    reward = Score(scorer=FakeScorer(TABLE), variant="rank", probe_every=0, rules=["exact_match"])
    _, logs = called(reward, (RED, "?", "aaaa", [r1("aa"), r1("aaaa"), r1("b")]))
    # scores 2, 4, 0 and rule 0, 1, 0: (0 + 2 · 2/3 + 2 · 1/3) / sqrt(8 · 2/3)
    assert logs.mean("score/corr_exact_match") == pytest.approx(2 / math.sqrt(16 / 3))
    assert "score/margin" not in logs.metrics


def test_flattened_groups_are_counted():
    reward = Score(scorer=FakeScorer(TABLE | {"aaa": 2.001}), probe_every=0, min_group_std=0.01)
    _, logs = called(reward, (RED, "?", "ref", [r1("aa"), r1("aaa")]), (BLUE, "?", "ref", [r1("aa"), r1("aaaa")]))
    assert logs.mean("score/flattened_groups") == 0.5
    assert logs.mean("score/zero_spread_groups") == 0.5  # as the policy sees them


def test_correlations_are_within_groups():
    """Score and length rise together over two groups, and fall within each: the policy is pushed to be short."""
    within = WithinGroups()
    within.add([(0, 1.0, 2.0), (0, 2.0, 1.0), (1, 11.0, 12.0), (1, 12.0, 11.0), (1, None, 50.0)])
    assert within.value() == pytest.approx(-1.0)
    assert math.isnan(WithinGroups().value())
    lone = WithinGroups()
    lone.add([(0, 0.1, 1.0), (0, 0.1, 2.0), (0, 0.1, 4.0), (1, 7.0, 5.0)])
    assert math.isnan(lone.value())  # rounding is no variance
    latest = WithinGroups(window=2)
    latest.add([(0, 1.0, 2.0), (0, 2.0, 1.0)])
    latest.add([(0, 1.0, 1.0), (0, 2.0, 2.0)])
    assert latest.value() == pytest.approx(1.0)


def test_fault_6_metric_names_are_the_same_whatever_the_outcome():
    outcomes = {
        "good": ([r1("aa"), r1("aaaa")], {}),
        "tie": ([r1("b"), r1("bbb")], {}),
        "no format": ([bare("aa"), bare("b")], {}),
        "one": ([r1("aa")], {}),
        "dead": ([r1("aa"), r1("b")], {"aa": ScorerUnavailable("gone")}),
        "other task": ([r1("aa")], {}),
    }
    names = {}
    for outcome, (completions, table) in outcomes.items():
        reward = Score(scorer=FakeScorer(TABLE | table), probe_every=1, min_group_std=0.1)
        columns = {"task": ["vqa"]} if outcome == "other task" else {}
        _, logs = called(reward, (RED, "?", "ref", completions), **columns)
        names[outcome] = set(logs.metrics)
        if outcome == "dead":
            assert logs.mean("score/failed") == 1.0 and logs.mean("score/masked_count") == 2.0
            assert math.isnan(logs.mean("score/mean"))
    assert len(names["good"]) == 17
    assert all(found == names["good"] for found in names.values()), names


def test_with_several_processes_nobodys_nan_hides_the_others_values(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    _, logs = called(Score(scorer=FakeScorer(TABLE), probe_every=0), (RED, "?", "ref", [bare("aa"), bare("b")]))
    assert not [name for name, values in logs.metrics.items() if any(map(math.isnan, values))]
    assert logs.mean("score/scored") == 0.0 and "score/mean" not in logs.metrics


# probes

SEEN = {("aa", RED): 3.0, ("b", BLUE): 1.0, ("bbb", GREEN): 0.0}  # what a score gains by the right picture
THREE = (RED, "?", "ref", [r1("aa")]), (BLUE, "?", "ref", [r1("b")]), (GREEN, "?", "ref", [bare("x"), r1("bbb")])


def test_the_shuffled_image_control_by_hand():
    _, logs = called(Score(scorer=FakeScorer(TABLE, SEEN)), *THREE)
    assert logs.mean("score/shuffled_gap") == pytest.approx((3 + 1 + 0) / 3)
    assert logs.mean("score/shuffled_won") == pytest.approx((1 + 1 + 0.5) / 3)
    _, blind = called(Score(scorer=FakeScorer(TABLE)), *THREE)
    assert (blind.mean("score/shuffled_gap"), blind.mean("score/shuffled_won")) == (0.0, 0.5)


def test_one_picture_cannot_be_shuffled_until_another_comes():
    reward = Score(scorer=FakeScorer(TABLE, SEEN), probe_every=1)
    _, logs = called(reward, (RED, "?", "ref", [r1("aa")]))
    assert math.isnan(logs.mean("score/shuffled_gap"))
    _, logs = called(reward, (BLUE, "?", "ref", [r1("b")]))
    assert logs.mean("score/shuffled_gap") == pytest.approx((3 + 1) / 2)


def test_drift_of_the_score_model_is_seen_and_probes_run_every_so_often():
    scorer = FakeScorer(TABLE)
    reward = Score(scorer=scorer, probe_every=2, probes=2)
    _, logs = called(reward, *THREE)
    assert (logs.mean("score/probe_mean"), logs.mean("score/probe_drift")) == (1.0, 0.0)  # of 2 and 0
    scorer.table |= {"aa": 2.5, "b": -0.1}  # as if the service had come back with other weights
    _, logs = called(reward, *THREE)
    assert logs.mean("score/probe_drift") == 0.0 and len(scorer.batches) == 3  # not yet due; the latest values
    _, logs = called(reward, *THREE)
    assert logs.mean("score/probe_drift") == pytest.approx((0.5 + 0.1) / 2)
    assert logs.mean("score/probe_mean") == pytest.approx((2.5 - 0.1) / 2)
    assert len(scorer.batches) == 5


def test_probes_from_a_file(tmp_path):
    rows = [
        {"images": [], "task": "open_ended", "messages": [{"role": "user", "content": "?"}], "answer": answer}
        for answer in ("aaaa", "b")
    ]
    (tmp_path / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scorer = FakeScorer(TABLE)
    reward = Score(scorer=scorer, probes=str(tmp_path / "probes.jsonl"), probe_every=1)
    _, logs = called(reward, (RED, "?", "ref", [r1("aa")]))
    assert (logs.mean("score/probe_mean"), logs.mean("score/probe_drift")) == (2.0, 0.0)
    assert scorer.batches == [["aa", "ref"], ["aaaa", "b"]]
    scorer.table["b"] = 1.0
    _, logs = called(reward, (RED, "?", "ref", [r1("aa")]))
    assert logs.mean("score/probe_drift") == 0.5


def test_probes_that_fail_cost_no_row_its_reward(caplog):
    scorer = FakeScorer(TABLE)
    reward = Score(scorer=scorer, probe_every=1)
    called(reward, *THREE)
    scorer.table["bbb"] = ScorerUnavailable("gone")
    values, logs = called(reward, (RED, "?", "ref", [r1("aa")]))
    assert values == [pytest.approx(1 - math.exp(-0.2))] and reward.failures.total == 0
    assert logs.mean("score/probe_mean") == pytest.approx(2 / 3)  # the latest that there is
    assert "the probes could not be scored: gone" in caplog.text


def test_only_the_main_process_probes(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    scorer = FakeScorer(TABLE)
    called(Score(scorer=scorer, probe_every=1), *THREE)
    assert len(scorer.batches) == 1
