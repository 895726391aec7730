"""The score model that a recipe trains: loaded or begun, its parts frozen, with adapters where asked; and merged again.

Adapters (LoRA) go into the parts that the recipe trains; the head, one row of weights, is trained itself beside them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.score.training.recipe import HEAD, ScoreRecipe
from stage.trainer.arguments import load_dtype
from vlm.adapters import lora_targets, merged, part_of
from vlm.common.console import say
from vlm.loading import quantization_of, raw_config
from vlm.weights import check_adapter

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

ARCHITECTURES = ("ScoreModel", "Qwen2Reward")
"""`architectures` in the config.json of a score model: ours, and the published one."""


def is_score_model(path: str, revision: str | None = None) -> bool:
    """Whether the checkpoint has a reward head already, by its config.json."""
    return bool(set(ARCHITECTURES) & set(raw_config(path, revision).get("architectures") or ()))


def load(recipe: ScoreRecipe, device: torch.device | None = None):
    """The score model in `model.path`, or a fresh head (drawn by `seed`) on the vision-language model there.

    Raises: RecipeError for a missing checkpoint, or weights that do not match.
    """
    from rewards.score.model.score_model import ScoreModel

    section = recipe.model
    settings = {
        "dtype": load_dtype(section, recipe.sharding),
        "attention": section.attention,
        "revision": section.revision,
        "min_pixels": recipe.images.min_pixels,
        "max_pixels": recipe.images.max_pixels,
        "device": device,
        "quantization": section.quantization,
    }
    if is_score_model(section.path, section.revision):
        model = ScoreModel.from_pretrained(section.path, recipe.positions, **settings)
    else:
        logger.info("%s has no reward head: a fresh one is drawn", section.path)
        model = ScoreModel.from_backbone(section.path, recipe.positions or "mrope", seed=recipe.seed, **settings)
    if model.processor is not None:
        model.processor.share_rows(recipe.images.row_pixels)
    return model


def part(name: str) -> str:
    """Part that a parameter of the score model belongs to: `head`, or one of `vlm.adapters.PARTS`."""
    return HEAD if "reward_head" in name.split(".") else part_of(name)


def trainable(recipe: ScoreRecipe, device: torch.device | None = None):
    """Load the recipe's model and prepare it; returns a `ScoreModel` or a `peft.PeftModel` around one.

    Under ZeRO-3 call this after the training arguments exist: they tell transformers to shard while loading.

    device: of `stage.trainer.models.own_device`.
    """
    model = load(recipe, device)
    for name, parameter in model.named_parameters():
        if part(name) in recipe.frozen:
            parameter.requires_grad_(False)
    return model if recipe.model.lora is None else _adapted(model, recipe)


def _adapted(model, recipe: ScoreRecipe):
    from peft import LoraConfig, get_peft_model

    lora, zero3 = recipe.model.lora, recipe.sharding.zero == 3
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora_targets(model, lora.target_modules, recipe.frozen),
        modules_to_save=["reward_head"],
    )
    if not zero3:  # as the adapters: float32 where ZeRO-3 does not forbid it (vlm.adapters.apply_lora says why)
        model.reward_head.float()
    return get_peft_model(model, config, autocast_adapter_dtype=not zero3)


def merge(recipe: ScoreRecipe, processor, adapter: Path, out: Path) -> None:
    """Merge a trained adapter into its base, in the base's dtype, and save a whole score model with its processor; says
    what rounding has lost."""
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    check_adapter(adapter)
    unset_hf_deepspeed_config()  # else ZeRO-3 would shard this copy over processes that do not load it
    base = load(recipe)
    base = base.dequantize() if quantization_of(base) else base  # what the adapter was trained on (vlm.adapters.merge)
    model, rounding = merged(PeftModel.from_pretrained(base, str(adapter)), str(base.dtype).removeprefix("torch."))
    model.processor = processor
    model.save_pretrained(out)
    say(f"adapter merged: {rounding}")
