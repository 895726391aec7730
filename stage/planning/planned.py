"""What the plan of a `--dry-run` reads in the same place of every training recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

from stage.trainer.arguments import load_dtype
from vlm.common.processes import processes


def common(recipe: Any) -> dict[str, Any]:
    """Fields of `stage.planning.job.Job` that stand in the same place of every training recipe."""
    asked = recipe.training
    return {
        "model": dataclasses.replace(recipe.model, dtype=load_dtype(recipe.model, recipe.sharding)),
        "images": recipe.images,
        "sharding": recipe.sharding,
        "per_device_batch": asked.get("per_device_train_batch_size", 8),
        "accumulation": asked.get("gradient_accumulation_steps", 1),
        "epochs": asked.get("num_train_epochs", 3.0),
        "max_steps": asked.get("max_steps", -1),
        "checkpointing": asked.get("gradient_checkpointing", True),
        "gpus": recipe.gpus,
        "processes": processes(),
    }
