"""The GRPO stage, from a resolved recipe to a trained model in the run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rl.recipe import GRPORecipe
from samples import mixture
from samples.rows import prompt_rows
from stage.guards.out_of_memory import advised
from stage.planning.estimate import training
from stage.planning.job import Job, common
from stage.planning.plan import Plan
from vlm.pictures.resizing import Resizing

Reward = Callable[..., list[float | None]]
ANY_NUMBER = 2**30
"""Of rows: what is asked of the plan then does not depend on it."""


def planned(recipe: GRPORecipe, rows: int, resident: int = 0, remarks: Sequence[str] = ()) -> Plan:
    """The plan of a recipe with so many training rows; the others as in `plan`."""
    asked: dict[str, Any] = recipe.training
    job = Job(
        stage="grpo",
        samples=rows,
        group=asked.get("num_generations", 8),
        beta=asked.get("beta", 0.0),
        completion_tokens=asked.get("max_completion_length", 256),
        steps_per_generation=asked.get("steps_per_generation"),
        iterations=asked.get("num_iterations", 1),
        external_rollout=bool(asked.get("use_vllm")) and asked.get("vllm_mode", "colocate") == "server",
        resident=resident,
        share_prefix=recipe.share_prefix,
        remarks=tuple(remarks),
        **common(recipe),
    )
    return training(job)


@advised(lambda recipe: lambda changed: planned(changed, ANY_NUMBER))
def train(
    recipe: GRPORecipe,
    rewards: Sequence[Reward],
    check_tasks: Callable[[Sequence[Reward], set[str]], None],
    callbacks: Sequence[Any] = (),
) -> Path:
    """Train; returns the folder of the trained model (`output/final`).

    rewards: TRL reward callables in the order of `recipe.rewards`. check_tasks: refuses tasks that no reward knows.
    callbacks: transformers', given to the trainer.
    Everything that can be wrong with recipe and data is found before weights load.
    """
    from trl import GRPOConfig

    from rl.trainer import GRPOTrainer
    from stage.checkpoints.beginning import begin
    from stage.curves import draw_run
    from stage.trainer.arguments import arguments, trainable_model
    from stage.trainer.callbacks import PassCallback, attach
    from stage.trainer.finish import follow, save_model
    from vlm.loading import load_processor

    beginning = begin(recipe)
    if beginning.finished is not None:
        return Path(recipe.output) / "final"
    data = mixture.draw_all(recipe.data, recipe.seed)
    check_tasks(rewards, {s.task for found in data.values() for s in found.samples})
    args = arguments(
        GRPOConfig,
        recipe,
        reward_weights=[r.weight for r in recipe.rewards],
        shuffle_dataset=recipe.data.shuffle,
        log_completions=recipe.training.get("log_completions", True),
        num_completions_to_print=recipe.training.get("num_completions_to_print", 0),
    )
    processor = load_processor(recipe.model.path, recipe.images, recipe.model.revision, recipe.model.trust_remote_code)
    run = beginning.open(args)
    run.note_mixtures(data)
    faults = recipe.data.on_fault
    sizes, held_out = Resizing(recipe.images, recipe.seed, train=True), Resizing(recipe.images)
    trainer = GRPOTrainer(
        trainable_model(recipe.model, recipe.sharding),
        list(rewards),
        args,
        train_dataset=prompt_rows(data["train"].samples, recipe.prompt, sizes, faults),
        eval_dataset=prompt_rows(data["eval"].samples, recipe.prompt, held_out, faults) if "eval" in data else None,
        processing_class=processor,
        callbacks=[PassCallback(sizes), *callbacks],
        share_prefix=recipe.share_prefix,
        check_sharing=recipe.check_sharing,
    )
    attach(trainer, run, "grpo")
    follow(trainer, run, beginning)
    final = save_model(trainer, processor, Path(recipe.output) / "final")
    draw_run(run, "GRPO")
    run.finish(steps=trainer.state.global_step)
    return final


def plan(recipe: GRPORecipe, resident: int = 0, remarks: Sequence[str] = ()) -> None:
    """Print batch arithmetic, visual tokens, steps and memory (`--dry-run`).

    resident: bytes on each GPU that score models take. remarks: said under the plan.
    """
    data = mixture.count(recipe.data, "train", recipe.seed)
    data.show()
    planned(recipe, data.rows, resident, remarks).render()
