"""The GRPO stage, from a resolved recipe to a trained model in the run folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rl import sampling
from rl.recipe import GRPORecipe
from samples import Sample, mixture
from samples.columns import ByTask, Columns
from samples.rows import check_strip, prompt_rows
from samples.sections import Role
from stage.guards.out_of_memory import advised
from stage.planning import control
from stage.planning.estimate import training
from stage.planning.gpus import parse_gpus
from stage.planning.job import Job, check_rows, common, launched
from stage.planning.lengths import Lengths, say_opened
from stage.planning.plan import Outline
from vlm import families
from vlm.common.errors import RecipeError
from vlm.common.processes import processes
from vlm.pictures.resizing import by_role
from vlm.shapes import read_config, sight_of
from vlm.tools.toolbox import Toolbox

Reward = Callable[..., list[float | None]]
ANY_NUMBER = 2**30
"""Of rows: what is asked of the plan then does not depend on it."""


def planned(recipe: GRPORecipe, rows: int, resident: int = 0, remarks: Sequence[str] = (), **measured: int) -> Outline:
    """The plan of a recipe with this many training rows. measured: of their texts. The others as in `plan`."""
    asked = recipe.argument
    job = Job(
        stage="grpo",
        samples=rows,
        group=asked("num_generations"),
        beta=asked("beta"),
        completion_tokens=asked("max_completion_length") + given_tokens(recipe),
        steps_per_generation=_micro_batches(recipe),
        iterations=asked("num_iterations"),
        external_rollout=asked("use_vllm") and asked("vllm_mode") == "server",
        engine=asked("vllm_gpu_memory_utilization") if asked("use_vllm") and asked("vllm_mode") == "colocate" else 0.0,
        engine_sleeps=bool(asked("vllm_enable_sleep_mode")),
        resident=resident,
        share_prefix=recipe.share_prefix,
        remarks=tuple(remarks),
        **measured,
        **common(recipe),
    )
    return training(job)


def given_tokens(recipe: GRPORecipe) -> int:
    """Tokens of a completion that its tools say, as planned."""
    sight = sight_of(recipe)
    toolbox = Toolbox.of(recipe.tools, recipe.turns, sight)
    return 0 if toolbox is None else toolbox.most_tokens(sight)


def said_of_tools(recipe: GRPORecipe) -> list[str]:
    """What a plan says of tools."""
    if not recipe.tools:
        return []
    names = ", ".join(Toolbox.of(recipe.tools, recipe.turns, sight_of(recipe)).tools)
    calls = f"{recipe.turns.limit} call{'s' * (recipe.turns.limit > 1)}"
    open_ended = [one.use for one in recipe.tools if one.use != "zoom"]
    unknown = f" ({', '.join(open_ended)}: planned as one picture a call)" if open_ended else ""
    return [
        f"tools: {names}; up to {calls} of a completion answered, planned as {given_tokens(recipe)} tokens{unknown}; "
        "max_completion_length counts the model's own tokens in all turns"
    ]


def _micro_batches(recipe: GRPORecipe) -> int | None:
    """Those that one generation serves, where the recipe says so in one of TRL's two ways."""
    stated = recipe.argument("generation_batch_size")
    if stated is None:
        return recipe.argument("steps_per_generation")
    count = _processes(recipe)
    at_once = recipe.argument("per_device_train_batch_size") * count
    if stated % at_once:
        raise RecipeError(
            f"training.generation_batch_size = {stated}; expected a multiple of the {at_once} of one step"
        )
    return stated // at_once


def check_pictures(recipe: GRPORecipe, role: Role, shown: set[bool]) -> None:
    """shown: whether rows have pictures. Raises: RecipeError for both in a family that cannot take both."""
    fault = families.of(read_config(recipe.model.path, recipe.model.revision)[0]).unmixed if len(shown) > 1 else None
    if fault:
        raise RecipeError(
            f"data.{role}: some rows have pictures, and some have none: {fault}; keep rows of one kind (`tasks`, or a "
            "file of their own)"
        )


def _processes(recipe: GRPORecipe) -> int:
    """Those that are planned for: of the recipe's GPUs, else the ones that are launched."""
    return parse_gpus(recipe.gpus).count if recipe.gpus else processes()


@advised(lambda recipe: lambda changed: planned(changed, ANY_NUMBER))
def train(
    recipe: GRPORecipe,
    rewards: Sequence[Reward],
    check_data: Callable[[Sequence[Reward], ByTask], None],
    callbacks: Sequence[Any] = (),
    before_weights: Callable[[], object] = lambda: None,
    score_models: Callable[[], dict[str, Any]] = dict,
) -> Path:
    """Train; returns the folder of the trained model (`output/final`).

    rewards: TRL reward callables in the order of `recipe.rewards`. check_data: refuses tasks that no reward knows, and
    columns that a reward needs and the data lacks.
    callbacks: transformers', given to the trainer. before_weights: loads what rewards hold, once the devices are set.
    score_models: what learned rewards load or ask, for record.json.
    Everything that can be wrong with recipe and data is found before weights load.
    """
    from trl import GRPOConfig

    from rl.trainer import GRPOTrainer
    from stage.checkpoints.beginning import begin
    from stage.origins.comparing import of_mixtures
    from stage.trainer.arguments import arguments
    from stage.trainer.finish import complete
    from stage.trainer.models import own_device, processor_of, tables, untrained

    recipe.check_batch(processes())
    beginning = begin(recipe)
    if beginning.finished is not None:
        return Path(recipe.output) / "final"
    data = mixture.draw_all(recipe.data, recipe.seed, control.of_recipe(recipe, fetch=True))
    say_opened(recipe)
    columns = Columns()
    for role, found in data.items():
        columns.add(found.samples)
        check_pictures(recipe, role, {facts.shown for facts in found.samples.facts()})
    check_data(rewards, columns.by_task)
    rows, passes = tables(recipe, data, prompt_rows)
    args = arguments(
        GRPOConfig,
        recipe,
        reward_weights=[r.weight for r in recipe.rewards],
        shuffle_dataset=recipe.data.shuffle,
    )
    check_rows(data["train"].rows, args.generation_batch_size // args.num_generations)
    processor = processor_of(recipe)
    to_write = planned(launched(recipe), data["train"].rows).storage
    run = beginning.open(args, to_write, lambda: of_mixtures(data), score_models)
    before_weights()
    run.note_mixtures(data)
    trainer = GRPOTrainer(
        untrained(recipe, own_device(args)),
        list(rewards),
        args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("eval"),
        processing_class=processor,
        callbacks=[passes, *callbacks],
        share_prefix=recipe.share_prefix,
        check_sharing=recipe.check_sharing,
        toolbox=Toolbox.of(recipe.tools, recipe.turns, processor.sight, processor.family),
        notation=recipe.prompt.notation,
    )
    return complete(trainer, run, beginning, processor, "GRPO")


def plan(
    recipe: GRPORecipe,
    resident: int = 0,
    remarks: Sequence[str] = (),
    check: Callable[[Iterable[str]], Any] = set,
    see: Callable[[Sample], object] = lambda sample: None,
) -> None:
    """Print batch arithmetic, visual tokens, steps and memory (`--dry-run`).

    resident: bytes on each GPU that score models take. remarks: said under the plan. check: refuses
    tasks of the data, and their columns where all of it is here (then it is given `samples.columns.ByTask`). see: is
    shown each row.
    """
    lengths, columns, sizes, pictures = Lengths(recipe), Columns(), by_role(recipe), defaultdict(set)

    def shown(role: Role, sample: Sample) -> None:
        check_strip(sample, sizes[role])
        columns.see(sample)
        pictures[role].add(bool(sample.images))
        if role == "train":
            lengths.see(sample)
            see(sample)

    counted = mixture.count_all(recipe.data, recipe.seed, shown, control.of_recipe(recipe))
    data = counted["train"]
    data.show()
    for role, kinds in pictures.items():
        check_pictures(recipe, role, kinds)
    say_opened(recipe)
    whole = not data.absent and all(map(mixture.is_here, recipe.data.eval))
    check(columns.by_task if whole else columns.by_task.keys() | data.tasks)
    recipe.check_evaluation(_processes(recipe))
    measured, remark = lengths.measure(data.absent)
    if not data.absent and "prompt_tokens" in measured:
        sampling.check_room(recipe, measured["prompt_tokens"], measured["images_per_sample"])
    planned(recipe, data.rows, resident, [*said_of_tools(recipe), *remarks, remark], **measured).render()
