"""Two processes: shared prefixes against stock TRL's own trainer, loss by loss and option by option."""

from __future__ import annotations

import json

import pytest

from tests.support.processes import forked
from tests.support.processes.commands import ROOT, two_processes

pytestmark = pytest.mark.versions

LOSSES = ("dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")
OPTIONS = {
    "sequence": {"importance_sampling_level": "sequence"},
    "kl": {"beta": 0.1},
    "batch scale": {"scale_rewards": "batch", "beta": 0.1},
    "no scale": {"scale_rewards": "none"},
    "clipped": {"epsilon": 0.01, "epsilon_high": 0.02, "delta": 1.5},
    "masked": {"mask_truncated_completions": True, "max_completion_length": 16},
    "entropy": {"entropy_coef": 0.01},
    "top entropy": {"top_entropy_quantile": 0.5},
    "checkpointing": {"gradient_checkpointing": True, "beta": 0.1},
    "cut": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "loss_type": "dapo"},
}
EVERY = {f"loss {loss}": {"loss_type": loss} for loss in LOSSES} | OPTIONS
CHEAP = {
    "dapo": {"loss_type": "dapo", "beta": 0.1, "epsilon": 0.01},
    "vespo": {"loss_type": "vespo"},
}


def pairs(model, folder, cases):
    """name → what stock_pairs says of it."""
    command = [*two_processes(), ROOT / "tests/support/processes/stock_pairs.py", model, folder, json.dumps(cases)]
    said = forked.run(command, cwd=folder).stdout
    found = [json.loads(line) for line in said.splitlines() if line.startswith('{"name"')]
    assert [one["name"] for one in found] == list(cases)
    return found


def check(found):
    for one in found:
        assert one["moved"] > 1e-3 and one["apart"] < 1e-5, one
        ours, theirs = one["logs"]
        for mine, other in zip(ours, theirs, strict=True):
            for key, value in other.items():
                assert mine[key] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)), (key, one)


def test_two_losses(tiny_model, tmp_path):
    check(pairs(tiny_model, tmp_path, CHEAP))


@pytest.mark.full
def test_every_loss_and_option(tiny_model, tmp_path):
    found = pairs(tiny_model, tmp_path, EVERY)
    for one in found:
        print(f"{one['name']}: apart {one['apart']:.2g}, moved {one['moved']:.2g}")
    check(found)
