"""The trainer with which a step of the score model is computed again (`stage.replay.replaying`): no data."""

from __future__ import annotations

from typing import Any

from rewards.score.training.recipe import ScoreRecipe
from stage.replay.replaying import alone


def untrained(recipe: ScoreRecipe):
    """The model that the run began with."""
    from rewards.score.training.trainable import trainable

    return trainable(recipe)


def trainer(recipe: ScoreRecipe, model: Any, device: str):
    """recipe: the run's; model: with the weights before the step; device: "cpu" to leave a GPU alone."""
    from trl import RewardConfig

    from rewards.score.training.preferences import Preference
    from rewards.score.training.trainer import PreferenceTrainer
    from stage.trainer.arguments import arguments
    from vlm.loading import load_processor

    args = arguments(RewardConfig, alone(recipe, device))
    processor = load_processor(recipe.model.path, recipe.images, recipe.model.revision, recipe.model.trust_remote_code)
    return PreferenceTrainer(model, args, processor, [Preference([], "-", ["-", "-"])])
