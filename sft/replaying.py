"""The trainer with which an SFT step is computed again (`stage.replay.replaying`): no data."""

from __future__ import annotations

from typing import Any

from sft.recipe import SFTRecipe
from stage.replay.replaying import alone


def untrained(recipe: SFTRecipe):
    """The model that the run began with."""
    from stage.trainer.arguments import trainable_model

    return trainable_model(recipe.model, recipe.sharding)


def trainer(recipe: SFTRecipe, model: Any, device: str):
    """recipe: the run's; model: with the weights before the step; device: "cpu" to leave a GPU alone."""
    from datasets import Dataset
    from trl import SFTConfig

    from sft.trainer import SFTTrainer
    from stage.trainer.arguments import arguments
    from vlm.loading import load_processor

    args = arguments(SFTConfig, alone(recipe, device), assistant_only_loss=True, max_length=None)
    processor = load_processor(recipe.model.path, recipe.images, recipe.model.revision, recipe.model.trust_remote_code)
    turns = [{"role": "user", "content": "-"}, {"role": "assistant", "content": "-"}]
    row = {"messages": turns, "images": []}
    return SFTTrainer(model, args, train_dataset=Dataset.from_list([row]), processing_class=processor)
