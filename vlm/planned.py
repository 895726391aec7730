"""What a `--dry-run` reads from any training recipe, data files at hand or not."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm.errors import RecipeError
from vlm.recipe import SourceSection
from vlm.rows import selected
from vlm.runs import processes
from vlm.samples import Faults, read
from vlm.training import load_dtype

logger = logging.getLogger(__name__)


def rows(sources: Sequence[SourceSection], tasks: Sequence[str] | None, role: str = "train") -> int:
    """How many rows of these tasks (None: all) the sources hold; a file that is not here counts with its `limit`.

    Raises: RecipeError where neither file nor limit says.
    """
    total = 0
    for source in sources:
        if Path(source.path).exists():
            asked = (source.path, source.format, source.images, source.task, "skip", Faults())
            found = read(*asked, verify_images=False, outside=source.outside)
            total += sum(1 for _ in selected(found, tasks, source.limit))
        elif source.limit is not None:
            logger.warning("%s is not here; planning with its limit of %d rows", source.path, source.limit)
            total += source.limit
        else:
            raise RecipeError(f"data.{role}: {source.path} is not here and has no `limit`; state one to plan with")
    return total


def common(recipe: Any) -> dict[str, Any]:
    """Fields of `vlm.plan.Job` that stand in the same place of every training recipe."""
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
