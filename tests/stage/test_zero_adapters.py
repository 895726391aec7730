"""LoRA under ZeRO-3 in two processes: trained as under DDP, saved, resumed and merged (make test-full); what stopped it
at its first step, in one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from stage.origins import provenance
from stage.runs import read_metrics
from tests.support.processes import forked
from tests.support.processes.commands import LETTERS, ROOT, grpo, sft, two_processes
from tests.support.scores.pairs import coloured_pairs
from vlm import adapters

TOLERANCE = 1e-5
"""Of weights, in float32."""
LORA = "model.lora={r: 4, alpha: 8, dropout: 0.0, target_modules: [q_proj, v_proj]}"
COMMON = ["optim=sgd", "learning_rate=1.0", "lr_scheduler_type=constant", "warmup_steps=0", "max_steps=2"]
COMMON += ["per_device_train_batch_size=2", "save_strategy=steps", "save_steps=1", "logging_steps=1"]


def asked(stage: str, tiny_model, demo_data, folder: Path, name: str) -> list[str]:
    """Recipe and overrides of a run into `folder/name`."""
    common = [LORA, *(f"training.{key}" for key in COMMON)]
    if stage == "sft":
        return sft(tiny_model, demo_data, folder / name, *common)
    if stage == "grpo":
        (folder / "letters.py").write_text(LETTERS)
        rewards = f"rewards=[{{use: {folder}/letters.py:letters}}]"
        return grpo(tiny_model, demo_data, folder / name, *common, "training.beta=0.1", rewards)
    coloured_pairs(folder)
    data = [f"data.train=[{{path: {folder}/pairs.jsonl}}]", "data.eval=[]", f"model.path={tiny_model}"]
    return [str(ROOT / "recipes/demo/score.yaml"), f"output={folder / name}", *data, *common]


def train(stage: str, argv: list[str], folder: Path, zero: int, *more: str) -> None:
    script = ROOT / ("tests/support/processes/zero_cpu.py" if zero else f"launch/{stage}.py")
    forked.run([*two_processes(), script, *argv, f"sharding.zero={zero}", *more], cwd=folder, LAUNCHER=stage)


def apart(one: Path, two: Path, file: str) -> float:
    first, second = load_file(one / file), load_file(two / file)
    assert first.keys() == second.keys()
    return max((first[name].float() - second[name].float()).abs().max().item() for name in first)


def test_adapters_made_after_sharding_are_counted_whole():
    """ZeRO-3 has split the base when it was loaded; PEFT's adapters are plain until DeepSpeed's engine is built."""
    model = torch.nn.Sequential(torch.nn.Linear(5, 4, bias=False), torch.nn.Linear(3, 2, bias=False))
    split = model[0].weight.requires_grad_(False)
    split.data, split.ds_id, split.ds_numel = torch.empty(0), 0, 20
    model.config = SimpleNamespace(_attn_implementation="sdpa")
    found = provenance.model(SimpleNamespace(model=model))
    assert (found["parameters"], found["trained"], found["sampled"]) == (26, 6, None)


@pytest.mark.full
@pytest.mark.parametrize("stage", ["sft", "grpo", "score"])
def test_as_under_ddp(stage, tiny_model, demo_data, tmp_path):
    """Two steps, the second from the checkpoint after the first, equal two of DDP; the record counts the weights; the
    adapter merges."""
    for name, zero in (("ddp", 0), ("zero3", 3)):
        train(stage, asked(stage, tiny_model, demo_data, tmp_path, name), tmp_path, zero)
    checkpoint = tmp_path / "zero3/checkpoint-1"
    train(stage, asked(stage, tiny_model, demo_data, tmp_path, "resumed"), tmp_path, 3, f"resume={checkpoint}")
    adapter, file = ("adapter" if stage == "score" else "final"), "adapter_model.safetensors"
    trained = load_file(tmp_path / "zero3" / adapter / file)
    assert max(value.abs().max() for name, value in trained.items() if "lora_B" in name) > 100 * TOLERANCE
    for name in ("ddp", "resumed"):
        assert apart(tmp_path / "zero3" / adapter, tmp_path / name / adapter, file) < TOLERANCE
    counts = [json.loads((tmp_path / name / "record.json").read_text())["model"] for name in ("ddp", "zero3")]
    assert counts[0]["trained"] == counts[1]["trained"] > 0 and counts[0]["parameters"] == counts[1]["parameters"]
    assert [row["step"] for row in read_metrics(tmp_path / "resumed/metrics.jsonl") if "loss" in row] == [2]
    if stage != "score":  # which merges by itself
        for name in ("ddp", "zero3"):
            adapters.merge(str(tmp_path / name / "final"), str(tmp_path / name / "merged"))
    whole = "final" if stage == "score" else "merged"
    assert apart(tmp_path / "zero3" / whole, tmp_path / "ddp" / whole, "model.safetensors") < TOLERANCE
