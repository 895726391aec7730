"""LoRA on each family's linears, trained by SFT, saved, merged, and loaded again; and GRPO that was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trl
from transformers import GenerationConfig

from samples.rows import chat_rows
from sft.trainer import SFTTrainer
from tests.families.conftest import LIMITS, grpo, steps
from tests.support.families import KINDS, listed
from tests.support.tiny_checkpoints import section
from vlm import adapters, loading
from vlm.families import FAMILIES
from vlm.prefix import rollout
from vlm.sections import LoraSection, PromptSection

pytestmark = pytest.mark.versions

OLDER = ("qwen2_vl", "qwen2_5_vl")
"""Kinds of tests/vlm/test_adapters.py."""


def sft(model, processor, samples, folder):
    """Two steps of two rows each."""
    fixed = {"use_cpu": True, "bf16": False, "report_to": "none", "remove_unused_columns": False, "disable_tqdm": True}
    args = trl.SFTConfig(
        str(folder), per_device_train_batch_size=2, max_steps=2, learning_rate=0.01, save_strategy="no",
        max_length=None, gradient_checkpointing=False, seed=3, **fixed,
    )  # fmt: skip
    rows = chat_rows(samples, PromptSection(style="direct", wording={"vqa": "{question}"}))
    return SFTTrainer(model, args, train_dataset=rows, processing_class=processor)


@pytest.mark.parametrize("kind", listed([kind for kind in KINDS if kind in FAMILIES], but=OLDER))
def test_merged_is_what_was_trained(loaded, kind, questions, tmp_path):
    one, linears = loaded(kind), FAMILIES[kind].linears
    file = Path(one.path, "model.safetensors")
    held = file.read_bytes()
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    torch.manual_seed(1)
    lora = LoraSection(r=4, alpha=8, dropout=0.0, target_modules=list(linears))
    model = adapters.apply_lora(loading.load_model(section(one.path)), lora)
    sft(model, one.processor, questions[:1] + questions[3:], tmp_path / "run").train()
    frozen = {name.replace(".base_layer", ""): value for name, value in model.get_base_model().state_dict().items()}
    assert all(frozen[name].equal(value) for name, value in before.items())
    model.save_pretrained(tmp_path / "adapter")
    one.processor.save_pretrained(tmp_path / "adapter")
    rounding = adapters.merge(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    assert not rounding.largest  # float32
    merged = loading.load_model(section(tmp_path / "merged")).eval()
    processor = loading.load_processor(str(tmp_path / "merged"), LIMITS)
    assert processor.chat_template == one.processor.chat_template
    assert processor.tokenizer.get_vocab() == one.processor.tokenizer.get_vocab()
    inputs = one.prompts()
    again = type(one)(kind, one.path, merged, processor).prompts()
    assert inputs.keys() == again.keys() and all(again[name].equal(value) for name, value in inputs.items())
    with torch.no_grad():
        wanted, found, base = (each(**inputs).logits for each in (model.eval(), merged, one.model))
    limit = 5e-5 if FAMILIES[kind].unshared else 1e-5  # states of linear attention carry what was rounded on
    assert (found - wanted).abs().max() < limit * wanted.abs().max() and (wanted - base).abs().max() > 1e-2
    # all but the adapted linears as they were, and the head its own where it was
    changed = {name for name, value in merged.state_dict().items() if not value.equal(before[name])}
    assert changed and {name.split(".")[-2] for name in changed} == set(linears)
    assert not any(adapters.part_of(name) != "language_model" for name in changed)
    tied = merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert tied == (kind in (*OLDER, "qwen3_vl")) == merged.config.tie_word_embeddings
    assert rollout.steering(merged.generation_config) == rollout.steering(GenerationConfig.from_pretrained(one.path))
    assert file.read_bytes() == held


@pytest.mark.parametrize("kind", ["qwen3_vl", "internvl", pytest.param("llava", marks=pytest.mark.full)])
def test_grpo_with_shared_prefixes_goes_on_as_if_never_stopped(loaded, kind, questions, tmp_path):
    """Stopped within a block of two iterations; rows with and without pictures."""
    one = loaded(kind)
    block = {"num_iterations": 2, "max_steps": 4, "optim": "adamw_torch", "learning_rate": 1e-3}

    def made(name, **training):
        return grpo(
            loading.load_model(section(one.path)), one.processor, questions, tmp_path / name, **block, **training
        )

    plain = made("plain", save_strategy="steps", save_steps=1, save_total_limit=2)
    logs = steps(plain)
    assert plain.share_prefix
    torch.manual_seed(99)  # a process that has drawn other numbers
    other = made("other")
    other.train(resume_from_checkpoint=str(Path(plain.args.output_dir, "checkpoint-3")))
    clock = ("time", "throughput", "train_", "step_time")
    kept = [
        [
            {key: row[key] for key in row if not key.startswith(clock)}
            for row in trainer.state.log_history
            if "loss" in row
        ]
        for trainer in (plain, other)
    ]
    assert kept[0] == kept[1] and len(logs) == 4
    expected = plain.model.state_dict()
    assert [name for name, value in other.model.state_dict().items() if not value.equal(expected[name])] == []
