"""The model that a stage trains: loaded, frozen where asked, with adapters where asked."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from stage.recipe.sections import ShardingSection
from stage.trainer.arguments import load_dtype
from vlm.adapters import apply_lora, freeze
from vlm.loading import load_model
from vlm.sections import ModelSection

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def trainable_model(section: ModelSection, sharding: ShardingSection) -> PreTrainedModel | PeftModel:
    """Load `section`'s checkpoint and prepare it for training.

    Under ZeRO-3 call this after the training arguments exist: they tell transformers to shard while loading.
    """
    model = load_model(dataclasses.replace(section, dtype=load_dtype(section, sharding)))
    freeze(model, section.freeze)
    return model if section.lora is None else apply_lora(model, section.lora)
