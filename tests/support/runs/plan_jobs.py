"""The published 7B run as a model section and a job to plan."""

from __future__ import annotations

from stage.planning import estimate
from stage.recipe.sections import ShardingSection
from vlm.sections import ImageSection, ModelSection

SEVEN_B = 8_291_375_616


def model_section(path="PumpkinCat/Qwen2VL-7B-RS", **changes):
    return ModelSection(path=str(path), **{"attention": "flash_attention_2", **changes})


def job(**changes):
    """`recipes/r1.yaml` in numbers: G = 5, 160 completions a step, ZeRO-3 on 8 A100-80G."""
    fields = {
        "stage": "grpo", "model": model_section(), "images": ImageSection(),
        "sharding": ShardingSection(zero=3),
        "samples": 8000, "per_device_batch": 10, "accumulation": 2, "epochs": 2, "gpus": "8xA100-80G",
        "group": 5,
        "beta": 0.01, "completion_tokens": 4096,
    }  # fmt: skip
    return estimate.Job(**{**fields, **changes})
