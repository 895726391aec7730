"""What a GRPO recipe holds (`recipes/r1.yaml`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from stage.recipe.arguments import OWNED, arguments
from stage.recipe.sections import TrainingRecipe
from vlm.common.errors import RecipeError
from vlm.common.processes import processes
from vlm.common.section import Section

ARGUMENTS = arguments("GRPOConfig", {**OWNED, "reward_weights": "rewards", "shuffle_dataset": "data.shuffle"})


class RewardSection(Section):
    """One reward; several are summed by weight, as in TRL."""

    use: str
    "A built-in name, `pkg.module:function` or `path/file.py:function`."
    weight: float = 1.0
    "Its factor in the sum."
    options: dict[str, Any] = {}
    "Keyword options of the reward."
    timeout: float | None = None
    "Seconds for one call, which is then abandoned; null for no limit."
    slow: float | None = 60.0
    "Seconds after which a call is named in the log, with its rows."
    retries: int = 1
    "How often a row whose call failed is tried again before it is masked."
    alone: bool = True
    "After a failed call each row may be called alone; false for a reward that compares the rows of a batch."
    max_failures: float = 0.1
    "The run ends when more than this share of the last `failure_window` rows failed; `score` has options for that."
    failure_window: int = 256
    "Rows that the share is of."

    def check(self) -> None:
        for key in ("timeout", "slow"):
            if (seconds := getattr(self, key)) is not None and not seconds > 0:
                raise RecipeError(f"{key} = {seconds}; expected seconds above 0, or null for no limit")
        if self.retries < 0 or not 0 <= self.max_failures < 1 or self.failure_window < 1:
            raise RecipeError(
                f"retries = {self.retries}, max_failures = {self.max_failures}, failure_window = {self.failure_window};"
                " expected retries ≥ 0, 0 ≤ max_failures < 1 and failure_window ≥ 1"
            )


class GRPORecipe(TrainingRecipe):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300) with the rewards below."""

    stage: Literal["grpo"] = "grpo"
    "Which launcher the recipe is for."
    rewards: list[RewardSection] = [RewardSection(use="gated")]
    "What is rewarded; `gated` is the paper's composition."
    share_prefix: bool = True
    "Compute each prompt once for all its completions; false is TRL's own path, with the same results."
    check_sharing: bool = True
    "Compute the first batch both ways, and stop where they differ by more than rounding."
    training: Annotated[dict[str, Any], ARGUMENTS] = {}
    "TRL's GRPOConfig, key by key (learning_rate, num_generations, beta, loss_type, use_vllm, …)."

    def check(self) -> None:
        """Refuse, before any weight loads, what TRL would only refuse later or not at all."""
        if not self.rewards:
            raise RecipeError("rewards is empty; GRPO needs at least one, e.g. `rewards: [{use: gated}]`")
        group = self.training.get("num_generations", 8)
        if self.training.get("use_transformers_continuous_batching"):
            raise RecipeError(
                "training.use_transformers_continuous_batching: transformers has it for text models only; use use_vllm"
            )
        if self.training.get("sync_ref_model") and self.sharding.zero:
            raise RecipeError(
                "training.sync_ref_model with sharding.zero: a checkpoint would lack the reference's weights, so no "
                "run could resume from it; write sharding.zero: 0, or leave sync_ref_model out"
            )
        if "generation_batch_size" not in self.training:
            self._check_batch(group, processes())

    def _check_batch(self, group: int, processes: int) -> None:
        batch = self.training.get("per_device_train_batch_size", 8)
        blocks = self.training.get("steps_per_generation") or self.training.get("gradient_accumulation_steps", 1)
        total = batch * processes * blocks
        if total % group and not (self.gpus and processes == 1):
            raise RecipeError(
                f"training.num_generations = {group} does not divide the {total} completions of a generation batch "
                f"(per_device_train_batch_size {batch} × {processes} processes × {blocks} accumulation steps); write "
                f"per_device_train_batch_size: {max(1, round(batch / group)) * group}"
            )
