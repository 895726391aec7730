"""What a stage trains, and on what: the model (loaded, frozen and with adapters where asked), its processor, tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from samples.mixture import Mixture
from stage.parallel.sharding import fsdp_launched
from stage.trainer.arguments import load_dtype
from stage.trainer.callbacks import PassCallback
from vlm.adapters import apply_lora, freeze
from vlm.loading import load_model, load_processor
from vlm.pictures.resizing import by_role

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, ProcessorMixin, TrainingArguments


def untrained(recipe: Any, device: torch.device | None = None) -> PreTrainedModel | PeftModel:
    """The model that the run of a recipe begins with, prepared for training: a transformers or PEFT model.

    Under ZeRO-3 call this after the training arguments exist: they tell transformers to shard while loading.

    device: of `own_device`; None: in the host's memory.
    """
    section = recipe.model
    model = load_model(section.model_copy(update={"dtype": load_dtype(section, recipe.sharding)}), device)
    freeze(model, section.freeze)
    return model if section.lora is None else apply_lora(model, section.lora, section.freeze)


def own_device(args: TrainingArguments) -> torch.device | None:
    """The GPU of this process, where its weights go straight from their file; None where the CPU trains, and under
    ZeRO-3 and FSDP2, where no GPU shall hold all of them."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    return None if fsdp_launched() or is_deepspeed_zero3_enabled() or args.device.type == "cpu" else args.device


def processor_of(recipe: Any) -> ProcessorMixin:
    """The processor of the recipe's model, with the recipe's pixel limits."""
    model = recipe.model
    return load_processor(model.path, recipe.images, model.revision, model.trust_remote_code)


def tables(recipe: Any, data: dict[str, Mixture], rows: Callable[..., Any]) -> tuple[dict[str, Any], PassCallback]:
    """The table of each role, "train" and "eval", and what draws new picture sizes for each pass over the first one.

    rows: makes a table of samples (`samples.rows`).
    """
    sizes = by_role(recipe)
    faults = recipe.data.on_fault
    made = {role: rows(found.samples, recipe.prompt, sizes[role], faults) for role, found in data.items()}
    return made, PassCallback(sizes["train"])
