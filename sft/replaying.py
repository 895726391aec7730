"""The trainer with which an SFT step is computed again (`stage.replay.replaying`): no data."""

from __future__ import annotations

from typing import Any

from sft.recipe import SFTRecipe
from stage.replay.replaying import alone
from stage.trainer.arguments import arguments
from stage.trainer.models import processor_of, untrained

__all__ = ["trainer", "untrained"]


def trainer(recipe: SFTRecipe, model: Any, device: str):
    """recipe: the run's; model: with the weights before the step; device: "cpu" to leave a GPU alone."""
    from datasets import Dataset
    from trl import SFTConfig

    from sft.trainer import SFTTrainer

    args = arguments(SFTConfig, alone(recipe, device), assistant_only_loss=True)
    turns = [{"role": "user", "content": "-"}, {"role": "assistant", "content": "-"}]
    row = {"messages": turns, "images": []}
    return SFTTrainer(model, args, train_dataset=Dataset.from_list([row]), processing_class=processor_of(recipe))
