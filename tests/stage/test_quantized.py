"""`model.quantization`: what is refused, what is planned, and runs of each stage on a base in 4 bits."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from evals.recipe import EvalRecipe
from rl.recipe import GRPORecipe
from sft.recipe import SFTRecipe
from stage.guards.out_of_memory import candidates
from stage.parallel import sharding
from stage.planning import memory
from stage.planning.estimate import training
from stage.recipe import config
from stage.recipe.sections import ShardingSection
from stage.recipe.together import check_engines
from stage.runs import read_metrics
from tests.support.processes.commands import LETTERS, ROOT, grpo, sft
from tests.support.runs.plan_jobs import job, model_section
from tests.support.scores.pairs import coloured_pairs
from vlm import loading, shapes
from vlm.common import versions
from vlm.common.errors import RecipeError
from vlm.families import FAMILIES
from vlm.sections import LoraSection

SMALL = "recipes/one_gpu/grpo_24g.yaml"
TWO_B = 28 * (2 * 1536**2 + 2 * 256 * 1536 + 3 * 1536 * 8960)
"""Weights of the decoder's linear layers of Qwen2-VL-2B."""


@pytest.mark.parametrize(
    ("cls", "recipe", "changes", "expected"),
    [
        (
            GRPORecipe,
            SMALL,
            ["model.lora=null"],
            "nf4 without lora: weights in 4 bits cannot be trained; add `lora: {}`",
        ),
        (GRPORecipe, SMALL, ["sharding.zero=3"], "write zero: 2"),
        (SFTRecipe, "recipes/one_gpu/sft_24g.yaml", ["sharding.zero=3"], "write zero: 2"),
        (GRPORecipe, SMALL, ["training.use_vllm=true"], "write `use_vllm: false`"),
        (EvalRecipe, "recipes/eval.yaml", ["model.lora={}", "model.quantization=nf4"], "it is for training"),
        (GRPORecipe, SMALL, ["model.quantization=int8"], "expected nf4 or null"),
    ],
)
def test_what_cannot_be_right_is_refused(cls, recipe, changes, expected):
    with pytest.raises(RecipeError, match=expected):
        config.load(ROOT / recipe, cls, changes)


def test_fsdp_and_a_missing_package_are_refused(monkeypatch):
    recipe = config.load(ROOT / SMALL, GRPORecipe)
    with pytest.raises(RecipeError, match="FSDP, and model.quantization nf4 is not split by it: launch without FSDP"):
        sharding.check_fsdp(recipe)
    found = versions.installed
    monkeypatch.setattr(versions, "installed", lambda *names: iter(()) if "bitsandbytes" in names else found(*names))
    with pytest.raises(RecipeError, match=r"nf4: bitsandbytes is not installed here; pip install 'bitsandbytes=="):
        check_engines(recipe)
    with pytest.raises(RecipeError, match=r"nf4: bitsandbytes is not installed here"):
        loading.quantized("nf4", "bfloat16", FAMILIES["qwen2_vl"])


@pytest.fixture
def planned(monkeypatch):
    """A plan of GRPO on one GPU of 24 GB, with changes to the model."""
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)

    def go(**model):
        section = model_section("Qwen/Qwen2-VL-2B-Instruct", lora=LoraSection(), **model)
        return training(job(model=section, sharding=ShardingSection(), gpus="1xRTX4090-24G", completion_tokens=512))

    return go


def test_planned_weights(planned):
    """By hand: 4.127 bits for each weight of the decoder's linear layers, 16 for the others, 32 for adapters; one of
    those layers at a time is unpacked."""
    whole, packed = planned(), planned(quantization="nf4")
    assert packed.shape.quantized == TWO_B == 1_310_195_712 and whole.shape.quantized == 0
    saved = TWO_B * (2 - 4.126953125 / 8)
    for phase in ("rollout", "update"):
        less = whole.phases[phase]["weights"] - packed.phases[phase]["weights"]
        assert less == pytest.approx(saved, abs=8)
        assert packed.phases[phase]["weights"] == pytest.approx(
            TWO_B * 4.126953125 / 8 + 2 * (packed.shape.total - TWO_B) + 4 * packed.shape.total_trainable, abs=8
        )
        for part in ("optimiser states", "reference model"):
            assert whole.phases[phase][part] == packed.phases[phase][part]
    unpacked = 2 * 1536 * 8960
    assert packed.phases["rollout"]["prefill"] - whole.phases["rollout"]["prefill"] == unpacked
    sizes, widths = packed.shape, {"rows": 1, "text_tokens": 8, "visual_tokens": 0}
    one, other = (memory.moments(sizes, memory.Setup(lora=True, quantized=q), **widths) for q in (True, False))
    assert one["an MLP"] - other["an MLP"] == unpacked
    assert list(packed.by_zero) == [0, 1, 2] and list(whole.by_zero) == [0, 1, 2, 3]
    assert packed.host.loading == 0 and packed.storage == whole.storage


def test_the_plan_shows_it_and_advice_names_it(planned, capsys):
    planned(quantization="nf4").render()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["│", "in", "nf4,", "of", "the", "language", "model", "│", "1,310,195,712", "│", "0", "│"] in rows
    recipe = config.load(ROOT / SMALL, GRPORecipe, ["model.quantization=null"])
    assert ["model.quantization=nf4"] in list(candidates(recipe, planned()))
    recipe = config.load(ROOT / SMALL, GRPORecipe)
    assert ["model.quantization=nf4"] not in list(candidates(recipe, planned(quantization="nf4")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", ["grpo", *(pytest.param(stage, marks=pytest.mark.full) for stage in ("sft", "score"))]
)
def test_two_steps_and_a_resume(stage, tiny_model, demo_data, tmp_path, started):
    """With a reference model and gradient checkpointing: the second step from the checkpoint after the first is the
    same, adapters are kept in float32, and the record counts weights, not bytes."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed here")
    words = ["model.quantization=nf4", "model.lora={r: 4, alpha: 8, dropout: 0.0}", "training.max_steps=2"]
    words += [f"training.{key}" for key in ("save_strategy=steps", "save_steps=1", "logging_steps=1")]
    words += ["training.learning_rate=1e-2", "training.gradient_checkpointing=true"]
    if stage == "grpo":
        (tmp_path / "letters.py").write_text(LETTERS)
        words += ["training.beta=0.1", f"rewards=[{{use: {tmp_path}/letters.py:letters}}]"]
    if stage == "score":
        coloured_pairs(tmp_path)
        data = [f"data.train=[{{path: {tmp_path}/pairs.jsonl}}]", "data.eval=[]", f"model.path={tiny_model}"]
        recipe = [ROOT / "recipes/demo/score.yaml", *data, "training.per_device_train_batch_size=2"]
    else:
        recipe = (sft if stage == "sft" else grpo)(tiny_model, demo_data, tmp_path)
    launcher, folder = f"launch/{stage}.py", "adapter" if stage == "score" else "final"
    started(launcher, *recipe, *words, f"output={tmp_path}/whole")
    started(launcher, *recipe, *words, f"output={tmp_path}/on", f"resume={tmp_path}/whole/checkpoint-1")
    whole, on = (load_file(tmp_path / name / folder / "adapter_model.safetensors") for name in ("whole", "on"))
    assert whole.keys() == on.keys() and all(torch.equal(whole[name], on[name]) for name in whole)
    assert {weight.dtype for weight in whole.values()} == {torch.float32}
    assert max(weight.abs().max() for name, weight in whole.items() if "lora_B" in name) > 0
    rows = [row for row in read_metrics(tmp_path / "whole/metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2] and all(row["grad_norm"] > 0 for row in rows)
    record = json.loads((tmp_path / "whole/record.json").read_text())["model"]
    if stage == "sft":
        sizes = shapes.shape(model_section(tiny_model, attention="sdpa", quantization="nf4", lora=LoraSection(r=4)))
        assert (
            record["parameters"] == sizes.total + sizes.total_trainable and record["trained"] == sizes.total_trainable
        )
    assert "nf4" in record["dtypes"]
    if stage == "score":
        assert "quantization_config" not in loading.raw_config(str(tmp_path / "whole/final"))
