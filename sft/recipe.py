"""What an SFT recipe holds (`recipes/sft.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vlm.errors import RecipeError
from vlm.recipe import (
    DataSection,
    ImageSection,
    ModelSection,
    PromptSection,
    ShardingSection,
    TrackingSection,
)
from vlm.training import OWNED


@dataclass
class SFTRecipe:
    """Supervised fine-tuning on conversations; the loss counts the assistant's tokens only."""

    model: ModelSection
    "What is trained."
    output: str
    "Run folder: recipe, metrics, curves; the trained model lies in `final/`."
    stage: Literal["sft"] = "sft"
    "Which launcher the recipe is for."
    images: ImageSection = field(default_factory=ImageSection)
    "Pixel limits."
    prompt: PromptSection = field(default_factory=PromptSection)
    "How questions are asked."
    data: DataSection = field(default_factory=DataSection)
    "Conversations to learn from."
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
    sharding: ShardingSection = field(default_factory=ShardingSection)
    "DeepSpeed ZeRO."
    tracking: TrackingSection = field(default_factory=TrackingSection)
    "Dashboards."
    gpus: str | None = None
    "Target of `--dry-run`, e.g. 8xA100-80G."
    seed: int = 0
    "Seed of data order and adapters."
    overwrite: bool = False
    "Replace an earlier run in `output` instead of refusing."

    def check(self) -> None:
        if not self.data.train:
            raise RecipeError("data.train is empty; name at least one file, e.g. `train: [{path: traces.json}]`")
