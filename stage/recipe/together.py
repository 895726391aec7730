"""Values of a training recipe that are right one by one and cannot go together, and engines that are not installed.

TRL and transformers refuse these, too: after the data is read and, some, after the weights are loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from vlm import families
from vlm.common.errors import RecipeError
from vlm.common.versions import check_bitsandbytes, check_transformers, check_vllm
from vlm.pictures.engine import check_family
from vlm.shapes import read_config, sight_of

SCHEDULES = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}
"""Learning-rate schedules → the options of which they need one."""
ENGINES = {
    "bitsandbytes": (
        "adamw_bnb_8bit adamw_8bit ademamix ademamix_8bit lion_8bit lion_32bit paged_adamw_32bit paged_adamw_8bit "
        "paged_ademamix_32bit paged_ademamix_8bit paged_lion_32bit paged_lion_8bit rmsprop_bnb rmsprop_bnb_8bit "
        "rmsprop_bnb_32bit"
    ),
    "galore_torch": (
        "galore_adamw galore_adamw_8bit galore_adafactor galore_adamw_layerwise galore_adamw_8bit_layerwise "
        "galore_adafactor_layerwise"
    ),
    "apollo_torch": "apollo_adamw apollo_adamw_layerwise",
    "lomo_optim": "lomo adalomo",
    "schedulefree": "schedule_free_radam schedule_free_adamw schedule_free_sgd",
    "torchao": "adamw_torch_4bit adamw_torch_8bit",
    "grokadamw": "grokadamw",
    "optimi": "stable_adamw",
    "torchdistx": "adamw_anyprecision",
    "torch_xla": "adamw_torch_xla",
    "torch_npu": "adamw_torch_npu_fused",
}
"""Module → the values of `training.optim` that need it (transformers' `trainer_optimizer`)."""


def check_together(recipe: Any) -> None:
    """What holds in every training stage. recipe: a `stage.recipe.sections.TrainingRecipe` with `data.eval`.

    Raises: RecipeError.
    """
    asked, strategy = recipe.argument, recipe.argument("eval_strategy")
    if (strategy != "no" or asked("eval_on_start")) and not recipe.data.eval:
        key = "eval_strategy" if strategy != "no" else "eval_on_start"
        raise RecipeError(f"training.{key} is set, but data.eval is empty; name held-out data, or leave {key} out")
    schedule, options = asked("lr_scheduler_type"), asked("lr_scheduler_kwargs") or {}
    if schedule in ("reduce_lr_on_plateau", "greedy") and strategy == "no":
        raise RecipeError(
            f"training.lr_scheduler_type = {schedule} follows the evaluation; set training.eval_strategy and data.eval"
        )
    needed = SCHEDULES.get(schedule, ())
    if needed and not set(needed) & set(options):
        raise RecipeError(
            f"training.lr_scheduler_type = {schedule} needs {' or '.join(needed)}; write, e.g., "
            f"lr_scheduler_kwargs: {{{needed[0]}: {100 if 'steps' in needed[0] else 1e-7}}}"
        )
    saving = asked("save_strategy")
    if asked("load_best_model_at_end") and saving not in ("best", strategy):
        raise RecipeError(
            f"training.load_best_model_at_end needs one strategy for saving and evaluating; found save_strategy = "
            f"{saving} and eval_strategy = {strategy}"
        )
    reentrant = (asked("gradient_checkpointing_kwargs") or {}).get("use_reentrant", True)
    if recipe.sharding.zero == 3 and recipe.model.lora is not None and reentrant is not True:
        raise RecipeError(
            f"training.gradient_checkpointing_kwargs: use_reentrant = {reentrant} with sharding.zero = 3 and "
            "model.lora, which train by reentrant checkpointing only; leave use_reentrant out"
        )
    if recipe.sharding.zero == 3 and recipe.model.quantization is not None:
        raise RecipeError(
            f"sharding.zero = 3 with model.quantization {recipe.model.quantization}: ZeRO-3 does not split weights in "
            "4 bits while they load; write zero: 2 (each GPU holds the whole base), or `quantization: null`"
        )
    for key in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if asked(key) and asked("dataloader_num_workers") == 0:
            raise RecipeError(f"training.{key} needs workers; set dataloader_num_workers to 1 or more")
    if asked("optim_target_modules") and not asked("optim").startswith(("galore", "apollo")):
        raise RecipeError(f"training.optim_target_modules is for GaLore and APOLLO; found optim = {asked('optim')}")
    if asked("bf16_full_eval") and asked("fp16_full_eval"):
        raise RecipeError("training.bf16_full_eval and training.fp16_full_eval are both on; keep one")


MARGIN = 60
"""Seconds that the watchdog may be late, at most: it looks every 15."""


def doubts(recipe: Any) -> Iterator[str]:
    """What can run and is probably not meant, a line each, for the first lines of a run and for a dry run."""
    if (of_stage := getattr(recipe, "doubts", None)) is not None:
        yield from of_stage()
    if hasattr(recipe, "model") and hasattr(recipe, "images") and (limits := idle_limits(recipe)):
        yield limits
    dog = getattr(recipe, "watchdog", None)
    if dog is None:
        return
    limit, speaks = recipe.argument("ddp_timeout"), dog.minutes * 60
    if limit < speaks + MARGIN:
        yield (
            f"training.ddp_timeout is {limit:g} s and watchdog.minutes {dog.minutes:g}: NCCL ends processes that wait "
            "for another before the watchdog can say which and where; write "
            f"training.ddp_timeout={math.ceil(2 * speaks)}, or watchdog.minutes={max(limit / 120, 0.1):.3g}"
        )


def idle_limits(recipe: Any) -> str | None:
    """That the recipe states limits of pictures which its model's family does not have."""
    stated = [f"images.{key}" for key in ("min_pixels", "max_pixels") if key in recipe.images.model_fields_set]
    if not stated:
        return None
    seen = sight_of(recipe)
    return f"{', '.join(stated)}: without effect: {seen.text()}" if not seen.free else None


def check_engines(recipe: Any) -> None:
    """Refuse an engine that the recipe asks for and this environment lacks; for a dry run, too.

    Raises: RecipeError.
    """
    check_transformers(recipe)
    if hasattr(recipe, "model") and getattr(recipe.model, "liger", False):
        _need("liger_kernel", "model.liger", "pip install -e '.[gpu]', or write liger: false")
    if hasattr(recipe, "model") and getattr(recipe.model, "quantization", None) is not None:
        check_bitsandbytes(f"model.quantization {recipe.model.quantization}")
    if hasattr(recipe, "generation") and recipe.generation.backend == "vllm":
        _check_read_by_vllm(recipe, "generation.backend=hf")
        check_vllm("generation.backend vllm", "generation.backend=hf")
    if not hasattr(recipe, "argument"):
        return
    optimiser = recipe.argument("optim")
    for module, names in ENGINES.items():
        if optimiser in names.split():
            _need(module, f"training.optim = {optimiser}", "install it, or write optim: adamw_torch_fused")
    if recipe.training.get("use_vllm"):
        _check_read_by_vllm(recipe, "use_vllm: false")
        check_vllm("training.use_vllm", "use_vllm: false")


def _check_read_by_vllm(recipe: Any, instead: str) -> None:
    """Where the model's family is known by its config.json, or its name: else loading says what is missing."""
    try:
        config, _ = read_config(recipe.model.path, recipe.model.revision)
    except RecipeError:
        return
    check_family(families.of(config), instead)


def _need(module: str, key: str, advice: str) -> None:
    if find_spec(module) is None:
        raise RecipeError(f"{key}: the package {module} is not installed here; {advice}")
