"""What an SFT recipe holds (`recipes/sft.yaml`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from stage.recipe.arguments import arguments
from stage.recipe.sections import ToolKeys, TrainingRecipe
from vlm.common.errors import RecipeError

ARGUMENTS = arguments(
    "SFTConfig",
    {
        "assistant_only_loss": "nothing (it is always on)",
        "packing": "nothing (TRL cannot)",
        "shuffle_dataset": "data.shuffle",
        "train_sampling_strategy": "data.shuffle",
    },
    max_length=None,  # TRL's default of 1,024 would cut through the 1,337 visual tokens of one large image
)


class SFTRecipe(ToolKeys, TrainingRecipe):
    """Supervised fine-tuning on conversations; the loss counts the assistant's tokens only."""

    first = (
        "stage output model.path data.train.<n>.path data.train.<n>.format data.train.<n>.limit prompt.style "
        "training.learning_rate training.per_device_train_batch_size training.gradient_accumulation_steps "
        "training.num_train_epochs training.max_steps training.lr_scheduler_type training.warmup_steps "
        "training.gradient_checkpointing training.logging_steps training.save_strategy images.min_pixels "
        "images.max_pixels model.dtype model.attention model.lora model.lora.r sharding.zero tracking.report_to gpus"
    )
    stage: Literal["sft"] = "sft"
    "Which launcher the recipe is for."
    training: Annotated[dict[str, Any], ARGUMENTS] = {}
    "TRL's SFTConfig, key by key (learning_rate, num_train_epochs, gradient_checkpointing, …)."

    def check(self) -> None:
        if not self.data.train:
            raise RecipeError("data.train is empty; name at least one file, e.g. `train: [{path: traces.json}]`")
        super().check()
