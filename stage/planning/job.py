"""What a plan reads from a training recipe, and its batch arithmetic as `transformers.Trainer` and TRL count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from stage.planning.gpus import parse_gpus
from stage.recipe.sections import ShardingSection
from stage.trainer import workers
from stage.trainer.arguments import load_dtype
from vlm.common.errors import RecipeError
from vlm.common.processes import processes
from vlm.sections import ImageSection, ModelSection


@dataclass(frozen=True)
class Saving:
    """What the plan of the disk reads from a recipe: TRL's arguments of these names, and where they apply."""

    output: str = "."
    save_strategy: str = "no"
    save_steps: float = 500
    save_total_limit: int | None = None
    save_only_model: bool = False
    best: bool = False
    """Whether the best checkpoint stays beside the last ones (`metric_for_best_model`, `load_best_model_at_end`)."""


@dataclass(frozen=True)
class Job:
    """What the plan reads from a recipe. Counts are per process unless they say otherwise."""

    stage: Literal["sft", "grpo"]
    model: ModelSection
    """The recipe's `model:` section."""
    images: ImageSection
    """The recipe's `images:` section."""
    sharding: ShardingSection
    """The recipe's `sharding:` section."""
    samples: int
    """Training rows (for GRPO: prompts)."""
    per_device_batch: int
    """`per_device_train_batch_size`: sequences of one micro-batch (for GRPO: completions)."""
    accumulation: int = 1
    epochs: float = 1.0
    max_steps: int = -1
    """Stops earlier when positive, as in `TrainingArguments`."""
    gpus: str | None = None
    """Target, e.g. `8xA100-80G`; its count is the number of processes."""
    processes: int | None = None
    """Number of processes where `gpus` is not given."""
    checkpointing: bool = True
    """`gradient_checkpointing`."""
    optimiser: str = "adamw_torch_fused"
    """`optim`."""
    deterministic: bool = False
    """`full_determinism`."""
    workers: str = "0"
    """Processes that prepare rows (`stage.trainer.workers`)."""
    saving: Saving = Saving()
    """When checkpoints are written, and how many stay."""
    prompt_tokens: int = 256
    """Text of the longest prompt, template included, images not; measured by `stage.planning.lengths`."""
    completion_tokens: int = 512
    """`max_completion_length` (GRPO), or the answer's tokens (SFT): the longest, which is what must fit."""
    images_per_sample: int = 1
    image_sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) of images in the data, if known; else `max_pixels` is planned for."""
    group: int = 1
    """G, `num_generations`."""
    beta: float = 0.0
    """Weight of the KL term; above 0 a reference model is held."""
    steps_per_generation: int | None = None
    """Micro-batches that one generation serves; `accumulation` when None, as in TRL."""
    iterations: int = 1
    """`num_iterations`: μ, optimisation passes over one generation."""
    external_rollout: bool = False
    """Completions come from a separate server (vLLM): no rollout memory here."""
    engine: float = 0.0
    """Share of a GPU's memory that vLLM takes in the training process; 0 where it is not there."""
    engine_sleeps: bool = False
    """Whether it gives that back during the update."""
    share_prefix: bool = False
    """Each prompt goes once through the model for its completions in a micro-batch, and is prefilled once."""
    fused_head: bool = True
    """TRL 1.16 never holds full logits; False for a trainer that does."""
    resident: int = 0
    """Bytes on each GPU of score models in the training process; whole in each, whatever the ZeRO stage."""
    remarks: tuple[str, ...] = ()
    """Said under the plan."""


def common(recipe: Any) -> dict[str, Any]:
    """Fields of a `Job` that are in the same place of every training recipe."""
    asked = recipe.argument
    return {
        "model": recipe.model.model_copy(update={"dtype": load_dtype(recipe.model, recipe.sharding)}),
        "images": recipe.images,
        "sharding": recipe.sharding,
        "per_device_batch": asked("per_device_train_batch_size"),
        "accumulation": asked("gradient_accumulation_steps"),
        "epochs": asked("num_train_epochs"),
        "max_steps": asked("max_steps"),
        "checkpointing": asked("gradient_checkpointing"),
        "optimiser": asked("optim"),
        "deterministic": asked("full_determinism"),
        "workers": workers.planned(recipe),
        "saving": Saving(
            recipe.output,
            **{name: asked(name) for name in ("save_strategy", "save_steps", "save_total_limit", "save_only_model")},
            best=bool(asked("load_best_model_at_end") or asked("metric_for_best_model")),
        ),
        "gpus": recipe.gpus,
        "processes": processes(),
    }


def launched(recipe: Any) -> Any:
    """The recipe to be planned for the processes of this run, whatever target a dry run would plan for."""
    return recipe.model_copy(update={"gpus": None})


@dataclass(frozen=True)
class Batch:
    """Batch arithmetic. GRPO counts completions, SFT samples."""

    processes: int
    per_step: int
    """Completions (or samples) of one optimiser step, over all processes."""
    steps_per_epoch: int
    steps: int
    generation: int = 0
    """Completions of one generation, over all processes."""
    prompts_per_generation: int = 0
    prompts_per_step: float = 0.0
    left_over: int = 0
    """Rows of the last, incomplete batch that an epoch leaves out (GRPO)."""


def batches(job: Job, processes: int) -> Batch:
    """Batch arithmetic of a job, as `transformers.Trainer` and TRL's `RepeatSampler` do it.

    Raises `RecipeError` when G does not divide the generation batch, or the data is less than one batch.
    """
    for name in ("samples", "per_device_batch", "accumulation", "iterations"):
        if getattr(job, name) < 1:
            raise RecipeError(f"{name} is {getattr(job, name)}; expected at least 1")
    per_step = job.per_device_batch * job.accumulation * processes
    if job.stage == "sft":
        micro = math.ceil(math.ceil(job.samples / job.per_device_batch) / processes)
        epoch = math.ceil(micro / job.accumulation)
        return Batch(processes, per_step, epoch, _steps(job, epoch))
    per_generation = job.steps_per_generation or job.accumulation
    generation = job.per_device_batch * processes * per_generation
    _check_group(job, processes, generation, per_generation)
    prompts = generation // job.group
    blocks = job.samples // prompts
    check_rows(job.samples, prompts)
    epoch = math.ceil(blocks * per_generation * job.iterations / job.accumulation)
    left = job.samples - blocks * prompts
    return Batch(processes, per_step, epoch, _steps(job, epoch), generation, prompts, per_step / job.group, left)


def check_rows(rows: int, prompts: int) -> None:
    """Refuse data that cannot fill one generation batch of this many prompts: TRL drops it and ends after 0 steps."""
    if rows < prompts:
        raise RecipeError(
            f"the data has {rows} prompts, less than the {prompts} of one generation batch, so there would be no step; "
            "add rows, or lower per_device_train_batch_size, gradient_accumulation_steps or steps_per_generation"
        )


def check_full_batch(recipe: Any, rows: int) -> None:
    """Refuse data that fill no batch where incomplete ones are dropped: there would be no step. Raises: RecipeError."""
    count = parse_gpus(recipe.gpus).count if recipe.gpus and processes() == 1 else processes()
    batch = recipe.argument("per_device_train_batch_size")
    if recipe.argument("dataloader_drop_last") and rows < batch * count:
        raise RecipeError(
            f"the data has {rows} rows, less than the {batch * count} of one batch on {count} processes, and "
            "training.dataloader_drop_last leaves incomplete ones out, so there would be no step; add rows, lower "
            "per_device_train_batch_size, or write dataloader_drop_last: false"
        )


def _steps(job: Job, per_epoch: int) -> int:
    return job.max_steps if job.max_steps > 0 else math.ceil(job.epochs * per_epoch)


def _check_group(job: Job, processes: int, generation: int, per_generation: int) -> None:
    if job.group < 2:
        raise RecipeError(
            f"num_generations is {job.group}; GRPO compares completions of one prompt and needs 2 or more"
        )
    if generation % job.group:
        step = job.group // math.gcd(job.group, processes * per_generation)
        below = job.per_device_batch // step * step
        fitting = " or ".join(str(size) for size in (below, below + step) if size)
        raise RecipeError(
            f"num_generations {job.group} does not divide the generation batch of {generation} completions "
            f"(per-device batch {job.per_device_batch} × {processes} processes × {per_generation} "
            f"micro-batches); a per-device batch of {fitting} does"
        )


def prompts_of(rows: int, group: int) -> int:
    """The most prompts that `rows` completions in a row have: groups may be cut at both ends."""
    return rows // group if rows % group == 0 else 1 + math.ceil((rows - 1) / group)
