"""What an SFT recipe holds (`recipes/sft.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from stage.recipe.sections import TrainingRecipe
from stage.trainer.arguments import OWNED
from vlm.common.errors import RecipeError


@dataclass
class SFTRecipe(TrainingRecipe):
    """Supervised fine-tuning on conversations; the loss counts the assistant's tokens only."""

    stage: Literal["sft"] = "sft"
    "Which launcher the recipe is for."
    training: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "keys_of": "trl:SFTConfig",
            "owned": {
                **OWNED,
                "assistant_only_loss": "nothing (it is always on)",
                "packing": "nothing (TRL cannot)",
            },
        },
    )
    "TRL's SFTConfig, key by key (learning_rate, num_train_epochs, gradient_checkpointing, …)."

    def check(self) -> None:
        if not self.data.train:
            raise RecipeError("data.train is empty; name at least one file, e.g. `train: [{path: traces.json}]`")
