"""DeepSpeed ZeRO from the recipe, or FSDP2 from the launcher.

`sharding.zero` alone decides on ZeRO, whichever way the run is launched.

A bare `accelerate launch launch/grpo.py recipe.yaml` gets its stage from the recipe. `--config_file
recipes/accelerate/zero3.yaml` may say the same; a contradiction between the two is an error, since DeepSpeed would
otherwise follow one of them silently.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stage.recipe.sections import ShardingSection
from vlm.common.errors import RecipeError

LIVE_ELEMENTS = 1_000_000_000
"""Gathered weights that ZeRO-3 keeps at one time, in elements, and how far ahead it looks for their next use."""


def buckets(zero: int, hidden: int) -> dict[str, int]:
    """DeepSpeed's sizes, in elements, for a model of this hidden size; those that `deepspeed_config` calls "auto" are
    what transformers' `trainer_config_finalize` makes of it. What is planned is what runs (tests/stage)."""
    if zero == 0:
        return {}
    found = {"reduce_bucket_size": hidden * hidden}
    if zero == 3:
        found |= {
            "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
            "stage3_param_persistence_threshold": 10 * hidden,
            "stage3_max_live_parameters": LIVE_ELEMENTS,
            "stage3_max_reuse_distance": LIVE_ELEMENTS,
        }
    return found


def deepspeed_config(section: ShardingSection) -> dict[str, Any] | None:
    """DeepSpeed's configuration for a recipe's `sharding:` section, or None for stage 0 (plain DDP).

    Batch sizes, precision, clipping and the buckets are "auto": transformers fills them in from the training arguments
    and the model, so they stand in one place only. Buckets that nobody names have 5e8 elements, whatever the model.
    """
    if section.zero == 0:
        return None
    zero: dict[str, Any] = {"stage": section.zero, "overlap_comm": True, "contiguous_gradients": True}
    zero |= {name: LIVE_ELEMENTS if "_max_" in name else "auto" for name in buckets(section.zero, 1)}
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


FSDP = {
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",  # else no folder that from_pretrained loads is written
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",  # else reference and score models are empty but in one process
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",  # training.gradient_checkpointing does it
}
"""What `accelerate launch` passes on under recipes/accelerate/fsdp2.yaml, and must: nothing else is tested."""
RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What DeepSpeed takes from a launcher; without one of them it asks MPI."""
SWITCH = "ACCELERATE_USE_FSDP"
PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""Our word → accelerate's."""


def fsdp_launched() -> bool:
    """Whether `accelerate launch` was configured with FSDP."""
    return os.environ.get(SWITCH, "false").lower() in ("1", "true")


def check_launch(recipe: Any) -> None:
    """Refuse a launch configuration that says something else than the recipe, or that is not tested with it.

    Raises: RecipeError naming both and what to change.
    """
    section = recipe.sharding
    check_one_gpu(recipe)
    if fsdp_launched():
        return check_fsdp(recipe)
    stage = launched_stage()
    if stage is not None and stage != section.zero:
        raise RecipeError(
            f"sharding.zero is {section.zero} in the recipe, but accelerate was launched with ZeRO stage {stage}; "
            f"write sharding.zero={stage}, or leave --config_file away (the recipe alone sets up DeepSpeed)"
        )
    if stage is not None:
        _agree(recipe)
    if section.zero and (missing := [name for name in RENDEZVOUS if name not in os.environ]):
        raise RecipeError(
            f"sharding.zero is {section.zero}, and DeepSpeed's processes cannot meet: no launcher has set "
            f"{', '.join(missing)}. Start it by torchrun, for one process too: torchrun --nproc_per_node 1 "
            f"launch/{recipe.stage}.py … (or accelerate launch with several processes); or write sharding.zero=0"
        )


AGREED = ("zero_stage", "offload_optimizer_device", "offload_param_device", "mixed_precision")
"""Fields of accelerate's DeepSpeed configuration that `check_launch` compares with the recipe."""
FIELDS = "ACCELERATE_CONFIG_DS_FIELDS"
"""Names of those that the launch configuration holds; accelerate refuses any beside a configuration from a recipe."""


def _agree(recipe: Any) -> None:
    """Compare the launch configuration's fields with the recipe, and take those that agree off accelerate's list.

    Raises: RecipeError for one that says something else.
    """
    asked = os.environ
    devices = {name: asked.get(f"ACCELERATE_DEEPSPEED_{name.upper()}", "none") for name in AGREED[1:3]}
    wrong = [f"{name}: {value}" for name, value in devices.items() if value != "none" and not recipe.sharding.offload]
    mixed = asked.get("ACCELERATE_MIXED_PRECISION", "no")
    if mixed not in ("no", PRECISION[recipe.model.dtype]):
        wrong.append(f"mixed_precision: {mixed}")
    if wrong:
        raise RecipeError(
            f"accelerate was launched with {', '.join(wrong)}, and the recipe has sharding.offload="
            f"{str(recipe.sharding.offload).lower()} and model.dtype={recipe.model.dtype}; write the same in both, or "
            "leave --config_file away (the recipe alone sets up DeepSpeed)"
        )
    if FIELDS in asked:
        asked[FIELDS] = ",".join(name for name in asked[FIELDS].split(",") if name not in AGREED)


def check_one_gpu(recipe: Any) -> None:
    """Refuse one process that sees several GPUs and that no launcher has given one of them: transformers would split
    the batches of a score model over them (`nn.DataParallel`); SFT and GRPO end in TRL's ValueError, after loading.

    Raises: RecipeError.
    """
    import torch

    alone = int(os.environ.get("LOCAL_RANK", -1)) < 0
    on_cpu = recipe.training.get("use_cpu") or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    if alone and not on_cpu and (count := torch.cuda.device_count()) > 1:
        raise RecipeError(
            f"one process sees {count} GPUs, and no launcher has given it one of them. Start one process for each: "
            f"accelerate launch --multi_gpu --num_processes {count} launch/{recipe.stage}.py …; or show it one GPU: "
            f"CUDA_VISIBLE_DEVICES=0 python launch/{recipe.stage}.py …"
        )


def check_fsdp(recipe: Any) -> None:
    """Raises: RecipeError for what FSDP is not tested with here."""
    fault = next((fault for wrong, fault in _fsdp_faults(recipe) if wrong), None)
    if fault:
        raise RecipeError(f"accelerate was launched with FSDP, and {fault}")
    found = [(name, os.environ.get(name, "unset"), expected) for name, expected in FSDP.items()]
    wrong = [f"{name}={value} (expected {expected})" for name, value, expected in found if value != expected]
    if wrong:
        raise RecipeError(
            f"accelerate was launched with FSDP in a way that is not tested: {', '.join(wrong)}; "
            "take recipes/accelerate/fsdp2.yaml"
        )


def _fsdp_faults(recipe: Any) -> Iterator[tuple[bool, str]]:
    """(whether it is so, what is wrong and what to do)."""
    zero = recipe.sharding.zero
    yield bool(zero), f"sharding.zero is {zero} in the recipe: write sharding.zero=0, or launch without FSDP"
    yield recipe.stage == "score", "score models are not tested under it: take sharding.zero, and launch without FSDP"
    yield recipe.model.dtype == "float16", "model.dtype is float16: write bfloat16 or float32"
    yield bool(recipe.training.get("sync_ref_model")), "training.sync_ref_model does not work under it: leave it out"
    quantized = recipe.model.quantization
    yield quantized is not None, f"model.quantization {quantized} is not split by it: launch without FSDP"
    dtype, mixed = recipe.model.dtype, os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    yield mixed not in ("no", PRECISION[dtype]), f"mixed_precision is {mixed}, and model.dtype is {dtype}: write 'no'"
