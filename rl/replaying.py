"""The trainer with which a GRPO step is computed again (`stage.replay`): no data, no rewards, no reference model."""

from __future__ import annotations

from typing import Any

from rl.recipe import GRPORecipe
from stage.replay.replaying import alone
from stage.trainer.arguments import arguments
from stage.trainer.models import processor_of, untrained

__all__ = ["trainer", "untrained"]


def trainer(recipe: GRPORecipe, model: Any, device: str):
    """recipe: the run's; model: with the weights before the step; device: "cpu" to leave a GPU alone."""
    from datasets import Dataset
    from trl import GRPOConfig

    from rl.trainer import GRPOTrainer

    args = arguments(GRPOConfig, alone(recipe, device))
    row = {"prompt": [{"role": "user", "content": "-"}]}
    made = GRPOTrainer(
        model,
        [_unused],
        args,
        train_dataset=Dataset.from_list([row]),
        processing_class=processor_of(recipe),
        share_prefix=recipe.share_prefix,
        check_sharing=False,
    )
    # what a loss reads of them; the constructor would load a reference model, and start vLLM
    made.beta = recipe.argument("beta")
    made.use_vllm = recipe.argument("use_vllm")
    made.vllm_importance_sampling_correction = recipe.argument("vllm_importance_sampling_correction")
    return made


def _unused(**_: Any) -> list[None]:
    raise AssertionError("a replay computes no rewards: the advantages are in the dump")
