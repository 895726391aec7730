"""GRPO stage: `rl.GRPOTrainer` (TRL's, for image prompts) and the stage that a recipe runs."""

from typing import Any

__all__ = ["GRPOTrainer", "GRPORecipe"]


def __getattr__(name: str) -> Any:
    # lazily, so that reading a recipe does not import torch
    if name == "GRPOTrainer":
        from rl.trainer import GRPOTrainer

        return GRPOTrainer
    if name == "GRPORecipe":
        from rl.recipe import GRPORecipe

        return GRPORecipe
    raise AttributeError(f"module 'rl' has no attribute {name!r}")
