"""What a GRPO recipe holds (`recipes/r1.yaml`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from rl import sampling
from stage.recipe.arguments import arguments
from stage.recipe.sections import ToolKeys, TrainingRecipe
from vlm.common.errors import RecipeError
from vlm.common.processes import processes
from vlm.common.section import Section
from vlm.tools.zoom import LEAST

ARGUMENTS = arguments(
    "GRPOConfig",
    {"reward_weights": "rewards", "shuffle_dataset": "data.shuffle"},
    log_completions=True,
    num_completions_to_print=0,
)


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


class GRPORecipe(ToolKeys, TrainingRecipe):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300) with the rewards below."""

    first = (
        "stage output model.path data.train.<n>.path data.train.<n>.limit rewards.<n>.use rewards.<n>.weight "
        "rewards.<n>.options training.num_generations training.max_completion_length training.beta "
        "training.temperature training.learning_rate training.per_device_train_batch_size "
        "training.gradient_accumulation_steps training.num_train_epochs training.max_steps training.lr_scheduler_type "
        "training.gradient_checkpointing training.logging_steps training.save_strategy images.min_pixels "
        "images.max_pixels model.dtype model.attention model.lora sharding.zero tracking.report_to gpus"
    )
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
        super().check()
        for key in ("use_transformers_continuous_batching", "use_transformers_paged"):
            if self.argument(key):
                raise RecipeError(f"training.{key}: transformers has it for text models only; use use_vllm")
        if self.argument("use_vllm") and self.model.quantization is not None:
            raise RecipeError(
                f"training.use_vllm with model.quantization {self.model.quantization}: vLLM would roll out "
                "other weights than the 4-bit ones that are trained; write `use_vllm: false`, or `quantization: null`"
            )
        if self.argument("auto_find_batch_size"):
            raise RecipeError(
                "training.auto_find_batch_size would cut groups; write false, and lower per_device_train_batch_size"
            )
        if self.argument("sync_ref_model") and not self.argument("beta"):
            raise RecipeError("training.sync_ref_model with beta = 0: there is no reference model; set training.beta")
        if self.argument("sync_ref_model") and self.sharding.zero:
            raise RecipeError(
                "training.sync_ref_model with sharding.zero: a checkpoint would lack the reference's weights, so no "
                "run could resume from it; write sharding.zero: 0, or leave sync_ref_model out"
            )
        summed = sorted({"typical_p", "top_h"} & set(self.argument("generation_kwargs") or {}))
        if summed and self.argument("full_determinism") and not self.argument("use_vllm"):
            raise RecipeError(
                f"training.generation_kwargs: {summed[0]} with full_determinism: transformers adds floats for it as "
                "CUDA refuses to do there; leave one of them out, or sample by top_p, top_k or min_p"
            )
        sampling.check(self)
        self._check_tools()
        if self.argument("entropy_coef_min") > self.argument("entropy_coef_max"):
            raise RecipeError("training.entropy_coef_min is above training.entropy_coef_max; swap them")
        if not self.gpus or processes() > 1:  # else the plan, or the run, knows their number
            self.check_batch(processes())

    def _check_tools(self) -> None:
        if any(reward.use == "zoom" for reward in self.rewards) and not self.zooms:
            raise RecipeError("rewards: zoom without the tool that it judges; write `tools: [{use: zoom}]`")
        if not self.tools:
            return
        shown = [one.options.get("least", LEAST) for one in self.tools if one.use == "zoom"]
        for reward in self.rewards:
            if reward.use == "zoom" and (paid := reward.options.get("least", LEAST)) != shown[0]:
                raise RecipeError(
                    f"rewards: zoom: least = {paid}, and the tool shows at least {shown[0]} pixels a side: what no "
                    f"crop can avoid would cost, or looseness be free; write `options: {{least: {shown[0]}}}` there"
                )
        if self.sharding.zero == 3 and not self.argument("ds3_gather_for_generation"):
            raise RecipeError(
                "training.ds3_gather_for_generation = false with tools: processes would wait for each other where "
                "their conversations have unequal numbers of turns; leave it out"
            )
        if self.argument("use_vllm") and (
            self.argument("vllm_mode") == "server" or self.argument("vllm_tensor_parallel_size") > 1
        ):
            raise RecipeError(
                "tools with vLLM: conversations go through an engine in each process alone, for engines that processes "
                "share would wait for all of them in each turn; write vllm_mode: colocate and "
                "vllm_tensor_parallel_size: 1, or use_vllm: false"
            )

    def doubts(self) -> Iterator[str]:
        """What can run and is probably not meant, a line each."""
        return sampling.doubts(self)

    def check_batch(self, processes: int) -> None:
        """Refuse batches that groups do not fill on this many processes. Raises: RecipeError."""
        group, batch = self.argument("num_generations"), self.argument("per_device_train_batch_size")
        blocks = self.argument("steps_per_generation") or self.argument("gradient_accumulation_steps")
        total, stated = batch * processes * blocks, self.argument("generation_batch_size")
        if stated and self.argument("steps_per_generation"):
            raise RecipeError("training.generation_batch_size and training.steps_per_generation say the same; keep one")
        if stated and stated % (batch * processes):
            raise RecipeError(
                f"training.generation_batch_size = {stated}; expected a multiple of the {batch * processes} that "
                f"{processes} processes take at a time (per_device_train_batch_size {batch})"
            )
        if stated and stated % group:
            raise RecipeError(
                f"training.num_generations = {group} does not divide training.generation_batch_size = {stated}"
            )
        if not stated and total % group:
            raise RecipeError(
                f"training.num_generations = {group} does not divide the {total} completions of a generation batch "
                f"(per_device_train_batch_size {batch} × {processes} processes × {blocks} accumulation steps); write "
                f"per_device_train_batch_size: {max(1, round(batch / group)) * group}"
            )
        self.check_evaluation(processes)

    def check_evaluation(self, processes: int) -> None:
        """Refuse evaluation batches that groups do not fill on this many processes, and engines that do not come out
        even. Raises: RecipeError."""
        sampling.check_split(self, processes)
        held_out = self.argument("num_generations_eval") or self.argument("num_generations")
        at_once = self.argument("per_device_eval_batch_size") * processes
        evaluates = self.argument("eval_strategy") != "no" or self.argument("eval_on_start")
        if evaluates and at_once % held_out:
            fitting = held_out // math.gcd(held_out, processes)
            raise RecipeError(
                f"training.per_device_eval_batch_size = {at_once // processes} on {processes} processes; expected a "
                f"multiple of the {held_out} completions of a held-out prompt (num_generations_eval, num_generations); "
                f"write per_device_eval_batch_size: {fitting}"
            )
