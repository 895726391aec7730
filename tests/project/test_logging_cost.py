"""The benchmark of what logging costs: its arithmetic by hand, and one short run of it."""

import json

import pytest

from benchmarks import logging_cost
from benchmarks.logging_cost import WARM, Meter, Step, figures


def test_costs_are_shares_of_the_step_without_them():
    """Four pairs of a step of 2 s without logging and one of 2 s with 0.02 s of logs and 0.1 s of a table."""
    off, on = Step(False, 2.0), Step(True, 2.12, {"log": 0.02, "table": 0.1})
    slow = Step(True, 4.12, {"log": 0.02, "table": 0.1})
    found = figures(
        [Step(True, 9.0)] * WARM + [off, on, off, on, off, on, off, slow] + [Step(False)], rates={"log": 5, "table": 10}
    )
    assert found["steps"] == 8 and found["step_seconds"] == pytest.approx(2.0)
    assert found["parts"] == {"log": pytest.approx(0.01), "table": pytest.approx(0.05)}
    assert found["recipe"] == pytest.approx(0.01 / 5 + 0.05 / 10)
    assert found["direct"] == {"median": pytest.approx(0.06), "min": pytest.approx(0.03), "max": pytest.approx(0.06)}
    assert found["paired"]["median"] == pytest.approx(0.06)  # the slow step is one of four


def test_what_is_switched_off_is_not_called():
    meter, calls = Meter(), []
    part = meter.part("log", calls.append)
    part("before the first step")
    for number in range(4):
        meter.next()
        part(number)
    assert calls == [1, 3] and [step.logged for step in meter.steps] == [False, True, False, True]
    assert list(meter.steps[1].calls) == ["log"] and not meter.steps[0].calls and meter.steps[0].whole > 0


def test_a_short_run(tiny_model, tmp_path, capsys):
    """10 steps, the run folder alone: 5 of them log; with the last one comes the summary of the training."""
    small = ["training.per_device_train_batch_size=4", "training.num_generations=2", "training.max_completion_length=4"]
    given = ["--steps", "10", "--prompts", "8", "--model", tiny_model, "--tracker", "", "--out", str(tmp_path)]
    logging_cost.main([*given, *small, "tracking.samples.rows=4"])
    found = json.loads((tmp_path / "logging_cost.json").read_text())
    assert found["tables"] == 5 and found["logs"] == 6 and found["rates"] == {"log": 5, "table": 10}
    assert found["parts"]["table"] > 0 and found["parts"]["log"] > 0 and found["outside"] == 0
    assert (tmp_path / "logging_cost.md").read_text().strip() in capsys.readouterr().out
