"""What an SFT recipe holds (`recipes/sft.yaml`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from stage.recipe.arguments import OWNED, arguments
from stage.recipe.sections import TrainingRecipe
from vlm.common.errors import RecipeError

ARGUMENTS = arguments(
    "SFTConfig",
    {
        **OWNED,
        "assistant_only_loss": "nothing (it is always on)",
        "packing": "nothing (TRL cannot)",
        "shuffle_dataset": "data.shuffle",
        "train_sampling_strategy": "data.shuffle",
    },
)


class SFTRecipe(TrainingRecipe):
    """Supervised fine-tuning on conversations; the loss counts the assistant's tokens only."""

    stage: Literal["sft"] = "sft"
    "Which launcher the recipe is for."
    training: Annotated[dict[str, Any], ARGUMENTS] = {}
    "TRL's SFTConfig, key by key (learning_rate, num_train_epochs, gradient_checkpointing, …)."

    def check(self) -> None:
        if not self.data.train:
            raise RecipeError("data.train is empty; name at least one file, e.g. `train: [{path: traces.json}]`")
