"""From a recipe to the training arguments of TRL: what the stages share.

`training:` in a recipe is TRL's own configuration, key by key (SFTConfig, GRPOConfig). Keys that say again what a
section of the recipe says are not allowed there (`stage.recipe.arguments.OWNED`), so that no two places can disagree.

Precision. `model.dtype: bfloat16` means bf16 *computation*. Who keeps the float32 master weights depends on the run:
    DeepSpeed           weights are loaded in bf16, DeepSpeed keeps float32 masters
    LoRA                base weights in bf16 and frozen, adapters in float32 (bf16 under ZeRO-3); with
                        `model.quantization` the decoder's linear layers in 4 bits, multiplied in bf16
    otherwise           weights are loaded in float32 and computed in bf16 autocast: at a learning rate of 1e-6 an
                        update is smaller than bf16's rounding and would vanish
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from stage.parallel.sharding import check_launch, deepspeed_config, fsdp_launched
from stage.recipe.sections import ShardingSection
from stage.tracking.trackers import announce
from stage.trainer import workers
from vlm.common.errors import RecipeError
from vlm.common.processes import processes
from vlm.common.versions import check_transformers
from vlm.sections import ModelSection

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def load_dtype(model: ModelSection, sharding: ShardingSection) -> Literal["bfloat16", "float16", "float32"]:
    """What the weights are loaded as (see Precision above)."""
    return model.dtype if sharding.zero or model.lora is not None else "float32"


def check_masters(model: ModelSection, sharding: ShardingSection) -> None:
    """Refuse FlashAttention-2 with float32 master weights: rollouts run outside autocast, and it takes no float32."""
    if model.attention == "flash_attention_2" and load_dtype(model, sharding) == "float32":
        raise RecipeError(
            "model.attention is flash_attention_2, but without DeepSpeed and LoRA the weights are kept in float32, "
            "which it does not take; write sharding.zero=1 (2, 3), or add model.lora, or model.attention=sdpa"
        )


def checkpointing(recipe: Any) -> dict[str, Any]:
    """ZeRO-3 with adapters needs reentrant checkpointing (huggingface/trl issue 2514), and nothing else does. TRL's
    trainers set it later, under a name that transformers 5.23 does not read any more."""
    if recipe.sharding.zero < 3 or recipe.model.lora is None:
        return {}
    key = "gradient_checkpointing_kwargs"
    return {key: {**(recipe.argument(key) or {}), "use_reentrant": True}}


def arguments(config: type[T], recipe: Any, **forced: Any) -> T:
    """TRL's configuration object for a recipe; `forced` are settings of the stage, of keys that a recipe does not give.

    Raises: RecipeError when TRL or transformers refuse a value or a combination, with their reason. TypeError, for an
    error of Nadir: a key that the installed class does not have.
    """
    import torch
    from transformers import set_seed

    check_transformers(recipe)
    check_launch(recipe)
    check_masters(recipe.model, recipe.sharding)
    announce(recipe.tracking, recipe.output, recipe.stage)
    # adapters and new heads are drawn before the trainer seeds anything; in all processes alike, for FSDP asks no other
    set_seed(recipe.seed)
    sharded = recipe.sharding.zero > 0 or fsdp_launched()
    accelerator = torch.accelerator.is_available() and not recipe.training.get("use_cpu")
    values = {
        **recipe.arguments().ours,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **workers.settled(recipe, accelerator),
        # several processes without a GPU: accelerate joins them only when told so, else each would train on its own
        "use_cpu": processes() > 1 and not (sharded or torch.accelerator.is_available()),
        **recipe.training,
        **checkpointing(recipe),
        **forced,
        "output_dir": recipe.output,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "bf16": recipe.model.dtype == "bfloat16",
        "fp16": recipe.model.dtype == "float16",
        "deepspeed": deepspeed_config(recipe.sharding),
        "report_to": recipe.tracking.report_to or "none",
        **({"project": recipe.tracking.project} if recipe.tracking.project else {}),  # trackio's
        "run_name": recipe.tracking.name or os.path.basename(os.path.normpath(recipe.output)),
        "use_liger_kernel": recipe.model.liger,
        "remove_unused_columns": False,
    }
    if unknown := values.keys() - {field.name for field in dataclasses.fields(config) if field.init}:
        raise TypeError(f"{config.__name__} has no {', '.join(sorted(unknown))}")
    if values.get(workers.KEY):  # or tokenizers would warn of each process that is forked
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return config(**values)
    except (ValueError, TypeError) as error:
        if "bf16/gpu" in str(error):
            raise RecipeError(
                "model.dtype = bfloat16: no GPU here computes in it; write model.dtype=float32, or, to try bf16 on the "
                "CPU, training.use_cpu=true"
            ) from error
        raise RecipeError(f"training: {error}") from error
