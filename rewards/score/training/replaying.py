"""The trainer with which a step of the score model is computed again (`stage.replay.replaying`): no data."""

from __future__ import annotations

from typing import Any

from rewards.score.training.recipe import ScoreRecipe
from rewards.score.training.trainable import trainable as untrained
from stage.replay.replaying import alone

__all__ = ["trainer", "untrained"]


def trainer(recipe: ScoreRecipe, model: Any, device: str):
    """recipe: the run's; model: with the weights before the step; device: "cpu" to leave a GPU alone."""
    from trl import RewardConfig

    from rewards.score.training.preferences import Preference
    from rewards.score.training.trainer import PreferenceTrainer
    from stage.trainer.arguments import arguments
    from stage.trainer.models import processor_of

    args = arguments(RewardConfig, alone(recipe, device))
    return PreferenceTrainer(model, args, processor_of(recipe), [Preference([], "-", ["-", "-"])])
