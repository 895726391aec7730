"""The score model's training and the learned reward go on as if they had not been stopped."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

import rewards
from rewards.score.reward.score import Score
from rewards.score.training import stage
from rl.resuming import remembers
from stage.checkpoints.packing import pack, unpack
from stage.runs import read_metrics
from tests.rewards.test_score_training import colours, recipe  # noqa: F401 (a fixture)
from tests.support.completions import Logs, r1
from tests.support.scores.score_fakes import BLUE, GREEN, RED, FakeScorer, bare, batch

pytestmark = pytest.mark.xdist_group("score")


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8, "dropout": 0.1}])
def test_the_score_model(colours, tmp_path, lora):  # noqa: F811 (the fixture)
    """A full model and adapters, stopped in the second epoch and between two logs."""
    training = {"max_steps": 7, "logging_steps": 3, "per_device_train_batch_size": 2, "save_steps": 5}
    training |= {"save_strategy": "steps"}
    section = {"data": {"train": [{"path": str(colours / "train.jsonl"), "limit": 8}]}}
    section |= {"section": {"lora": lora}} if lora else {}
    made = recipe(colours, tmp_path / "plain", training=training, **section)
    stage.train(made)
    other = recipe(colours, tmp_path / "other", training=training, **section, overwrite=False)
    other.resume = str(tmp_path / "plain/checkpoint-5")
    torch.manual_seed(5)
    stage.train(other)
    found, expected = (load_file(tmp_path / name / "final/model.safetensors") for name in ("other", "plain"))
    assert [name for name in expected if not found[name].equal(expected[name])] == []
    before, after = (
        [
            {k: v for k, v in row.items() if k != "time" and not k.startswith("train_")}
            for row in read_metrics(tmp_path / name / "metrics.jsonl")
            if row["step"] > 5
        ]
        for name in ("plain", "other")
    )
    assert before == after and [row["step"] for row in after][:2] == [6, 7]


TABLE = {"a": 1.0, "bb": 2.5, "ccc": -1.0, "ref": 0.5, "other": 0.0}


def rounds():
    """Three calls: new references, known ones, a row that cannot be scored."""
    first = batch((RED, "What?", "ref", [r1("a"), r1("bb")]), (BLUE, "What?", "other", [r1("ccc"), bare("a")]))
    second = batch((RED, "What?", "ref", [r1("ccc"), r1("bb")]), (GREEN, "And?", "other", [r1("a"), r1("bb")]))
    third = batch((GREEN, "And?", "other", [r1("gone"), r1("a")]))
    return [first, second, third]


def call(reward, rows):
    logs = Logs()
    values = reward(**rows, log_metric=logs.log_metric, log_extra=logs.log_extra)
    metrics = {name: found for name, found in logs.metrics.items() if name != "score/seconds"}
    return values, metrics


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("inside", [False, True])
def test_the_learned_reward(tmp_path, stop, inside):
    """References are not asked for again, failures and correlations go on, probes keep their first scores, through a
    file; by itself and inside of `gated`."""
    table = TABLE | {"gone": RuntimeError("no")}

    def make():
        scorer = FakeScorer(table)
        score = Score(scorer=scorer, probe_every=2, probes=2)
        if not inside:
            return scorer, score
        gated = rewards.resolve("gated")
        gated.task_rewards["open_ended"] = score
        return scorer, gated

    scorer, plain = make()
    expected = [call(plain, rows) for rows in rounds()]
    asked = list(scorer.batches)
    _, before = make()
    for rows in rounds()[:stop]:
        call(before, rows)
    assert remembers(before)
    torch.save(pack(before.state_dict()), tmp_path / "state.pt")
    scorer, after = make()
    after.load_state_dict(unpack(torch.load(tmp_path / "state.pt", weights_only=True)))
    for rows, (values, metrics) in list(zip(rounds(), expected, strict=True))[stop:]:
        found, logged = call(after, rows)
        assert found == values
        same = {name: [None if math.isnan(v) else v for v in found] for name, found in logged.items()}
        assert same == {name: [None if math.isnan(v) else v for v in found] for name, found in metrics.items()}
    assert scorer.batches == asked[len(asked) - len(scorer.batches) :]


def test_what_is_no_memory_is_not_stored():
    """Plain functions have none, and a module's `state_dict` is its weights."""
    assert not remembers(rewards.resolve("iou")) and not remembers(torch.nn.Linear(1, 1))


def test_a_run_that_failed_too_often_may_go_on():
    """The share of failed rows that ended the run is not held against the resumed one, which has mended it."""
    score = Score(scorer=FakeScorer(TABLE), failure_window=10, max_failures=0.1, probe_every=0)
    score.failures.watched = True
    score.failures.add(2, 3, "dead")
    assert score.failures.exceeded
    other = Score(scorer=FakeScorer(TABLE), failure_window=10, max_failures=0.1, probe_every=0)
    other.load_state_dict(unpack(pack(score.state_dict())))
    assert other.failures.total == 2 and not other.failures.exceeded
