"""The trainer with which a step of the score model is computed again (`vlm.replay.replaying`): no data."""

from __future__ import annotations

from typing import Any

from rewards.score.recipe import ScoreRecipe
from vlm.replay.replaying import alone


def untrained(recipe: ScoreRecipe):
    """The model that the run began with."""
    from rewards.score.trainable import trainable

    return trainable(recipe)


def trainer(recipe: ScoreRecipe, model: Any, device: str):
    """recipe: the run's; model: with the weights before the step; device: "cpu" to leave a GPU alone."""
    from trl import RewardConfig

    from rewards.score.preferences import Preference
    from rewards.score.trainer import PreferenceTrainer
    from vlm.loading import load_processor
    from vlm.training import arguments

    args = arguments(RewardConfig, alone(recipe, device))
    processor = load_processor(recipe.model.path, recipe.images, recipe.model.revision, recipe.model.trust_remote_code)
    return PreferenceTrainer(model, args, processor, [Preference([], "-", ["-", "-"])])
