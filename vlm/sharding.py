"""DeepSpeed ZeRO from the recipe: `sharding.zero` alone decides, whichever way the run is launched.

A bare `accelerate launch launch/grpo.py recipe.yaml` gets its stage from the recipe. `--config_file
recipes/accelerate/zero3.yaml` may say the same; a contradiction between the two is an error, since DeepSpeed would
otherwise follow one of them silently.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vlm.errors import RecipeError
from vlm.recipe import ShardingSection


def deepspeed_config(section: ShardingSection) -> dict[str, Any] | None:
    """DeepSpeed's configuration for a recipe's `sharding:` section, or None for stage 0 (plain DDP).

    Batch sizes, precision and clipping are "auto": transformers fills them in from the training arguments, so they
    stand in one place only.
    """
    if section.zero == 0:
        return None
    zero: dict[str, Any] = {"stage": section.zero, "overlap_comm": True, "contiguous_gradients": True}
    if section.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if section.zero == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if section.offload:
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        # an optimiser that DeepSpeed does not know (Adafactor, a user's own) is the user's choice, not an error
        "zero_allow_untested_optimizer": True,
    }


def launched_stage() -> int | None:
    """The ZeRO stage that `accelerate launch` was configured with, or None where it uses no DeepSpeed."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() not in ("1", "true"):
        return None
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file not in ("", "none", "None"):
        return int(json.loads(Path(file).read_text())["zero_optimization"]["stage"])
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))


def check_launch(section: ShardingSection) -> None:
    """Refuse a launch configuration that says something else than the recipe, and FSDP.

    FSDP2 with two processes on the CPU gave DDP's first update, and other gradients from the second one on, lm_head's
    most of all; its checkpoints bear other names. Until that is understood a run under it would be a wrong one.
    Raises: RecipeError naming both and what to change.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        raise RecipeError(
            "accelerate was launched with FSDP, under which gradients were wrong from the second update on; "
            "sharding.zero=3 splits weights, gradients and optimiser the same way: launch without FSDP"
        )
    stage = launched_stage()
    if stage is not None and stage != section.zero:
        raise RecipeError(
            f"sharding.zero is {section.zero} in the recipe, but accelerate was launched with ZeRO stage {stage}; "
            f"write sharding.zero={stage}, or leave --config_file away (the recipe alone sets up DeepSpeed)"
        )
