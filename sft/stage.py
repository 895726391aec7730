"""The supervised stage on TRL's SFTTrainer, from a resolved recipe to a trained model in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from samples import Sample, mixture
from samples.rows import chat_rows, say_untagged, taught
from samples.sections import Role
from sft.recipe import SFTRecipe
from sft.teaching import Teaching
from stage.guards.out_of_memory import advised
from stage.planning.estimate import training
from stage.planning.job import Job, check_full_batch, common, launched
from stage.planning.lengths import Lengths
from stage.planning.plan import Outline
from vlm.pictures.resizing import by_role
from vlm.shapes import sight_of
from vlm.tools.toolbox import zoom_of


def planned(recipe: SFTRecipe, rows: int, remarks: Sequence[str] = (), **measured: int) -> Outline:
    """The plan of a recipe with this many training rows. measured: of their texts. remarks: said under it."""
    return training(Job(stage="sft", samples=rows, remarks=tuple(remarks), **measured, **common(recipe)))


@advised(lambda recipe: lambda changed: planned(changed, rows=1))
def train(recipe: SFTRecipe) -> Path:
    """Train; returns the folder of the trained model (`output/final`). Bad data is found before weights load."""
    from trl import SFTConfig

    from sft import template
    from sft.trainer import SFTTrainer
    from stage.checkpoints.beginning import begin
    from stage.origins.comparing import of_mixtures
    from stage.trainer.arguments import arguments
    from stage.trainer.finish import complete
    from stage.trainer.models import own_device, processor_of, tables, untrained

    beginning = begin(recipe)
    if beginning.finished is not None:
        return Path(recipe.output) / "final"
    teaching = Teaching(recipe, fetch=True)
    data = mixture.draw_all(recipe.data, recipe.seed, teaching)
    teaching.tell()
    check_full_batch(recipe, data["train"].rows)
    zoom = zoom_of(recipe.tools, sight_of(recipe))
    rows, passes = tables(recipe, data, partial(chat_rows, zoom=zoom))
    for role, found in data.items():
        say_untagged(found.samples, recipe.prompt, role)
    args = arguments(
        SFTConfig,
        recipe,
        assistant_only_loss=True,
        # transformers: sequential order is a strategy of its own
        train_sampling_strategy="random" if recipe.data.shuffle else "sequential",
    )
    processor = processor_of(recipe)
    template.check(processor, recipe.model.path)
    run = beginning.open(args, planned(launched(recipe), data["train"].rows).storage, lambda: of_mixtures(data))
    run.note_mixtures(data)
    trainer = SFTTrainer(
        untrained(recipe, own_device(args)),
        args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("eval"),
        processing_class=processor,
        callbacks=[passes],
    )
    return complete(trainer, run, beginning, processor, "SFT")


def plan(recipe: SFTRecipe) -> None:
    """Print batch arithmetic, visual tokens, steps and memory (`--dry-run`)."""
    lengths, teaching, sizes = Lengths(recipe, answers=True), Teaching(recipe), by_role(recipe)
    zoom = zoom_of(recipe.tools, sight_of(recipe))

    def see(role: Role, sample: Sample) -> None:
        taught(sample, recipe.prompt, sizes[role], zoom)
        if role == "train":
            lengths.see(sample)

    data = mixture.count_all(recipe.data, recipe.seed, see, teaching)["train"]
    data.show()
    teaching.tell()
    check_full_batch(recipe, data.rows)
    measured, remark = lengths.measure(data.absent)
    planned(recipe, data.rows, [remark], **measured).render()
