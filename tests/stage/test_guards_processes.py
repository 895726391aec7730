"""Two processes: what is not finite in one is skipped in both; when one is killed, the other says so and ends."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from stage.runs import read_metrics
from tests.support.processes import forked
from tests.support.processes.commands import ROOT, errors, grpo, two_processes

FAULTS = """
import os, signal
from rl.trainer import GRPOTrainer

observed, state = GRPOTrainer.observed, {}

def spoiled(self, loss):
    state["step"] = self.state.global_step + 1
    if state["step"] == 2 and self.args.process_index == 1:
        loss = loss * float("nan")
    return observed(self, loss)

GRPOTrainer.observed = spoiled

def letters(completions, **columns):
    if state.get("step") == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return [sum(c.isalpha() for c in turns[0]["content"]) / 20 for turns in completions]
"""
"""A reward whose file spoils rank 1's loss in step 2, and kills rank 1 while step 4's rewards are computed."""


@pytest.mark.parametrize("zero", [0])  # 2 and 3 hold, too; each is half a minute more
def test_nan_in_one_process_then_its_death(tiny_model, demo_data, tmp_path, zero):
    (tmp_path / "faults.py").write_text(FAULTS)
    settings = [
        "training.max_steps=5", "training.per_device_train_batch_size=2", "training.save_strategy=steps",
        "training.save_steps=1", "training.learning_rate=1e-2", f"sharding.zero={zero}",
        f"rewards=[{{use: {tmp_path}/faults.py:letters}}]",
    ]  # fmt: skip
    argv = grpo(tiny_model, demo_data, tmp_path / "run", *settings)
    script = ROOT / ("tests/support/processes/zero_cpu.py" if zero else "launch/grpo.py")
    done = forked.run([*two_processes(), script, *argv], cwd=tmp_path, expect=1)
    said = done.stdout + done.stderr
    # skipped in both, and told by both
    rows = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in row]
    assert [row["guards/skipped_steps"] for row in rows] == [0, 1, 1]
    facts = json.loads((tmp_path / "run/dumps/step-2/dump.json").read_text())["ranks"]
    assert facts[1]["loss"] == ["nan"] and facts[0]["loss"] != ["nan"]
    assert [found["grad_norm"] for found in facts] == [facts[0]["grad_norm"]] * 2
    assert "WARNING stage.guards.finite: step 2" in said
    assert "WARNING process 1: stage.guards.finite: step 2: loss nan" in said
    weights = [load_file(tmp_path / f"run/checkpoint-{step}/model.safetensors") for step in (1, 2, 3)]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    assert any(not value.equal(weights[2][name]) for name, value in weights[0].items())
    assert all(value.isfinite().all() for value in weights[2].values())
    # killed: the launcher names signal 9, and the process that is left says whom it has lost, where
    assert "Signal 9" in said or "exitcode  : -9" in said
    (told,) = errors(said)
    assert told.startswith("error: rank 0 has lost another process of this run, in rewards of step 4")
    assert not (tmp_path / "run/finished.json").exists()
