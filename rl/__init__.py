"""GRPO stage: `rl.GRPOTrainer` (TRL's, for image prompts) and the stage that a recipe runs.

recipe.py     what a GRPO recipe holds
stage.py      from a resolved recipe to a trained model; the plan of a recipe
trainer.py    the trainer; its parts are in arguments.py, table.py, counters.py, sharing/ and resuming.py
replaying.py  the trainer with which a dumped step is computed again
"""

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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # what is imported when it is asked for completes, too
