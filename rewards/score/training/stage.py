"""The stage that trains the score model, from a resolved recipe to `final/` and its measurements in the run folder.

`metrics.json` holds every metric of `rewards.score.training.metrics` on the held-out preferences (value, pairs,
convention), `table.md` the same as a table; both are of the final weights.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from rewards.score.training import metrics, planned
from rewards.score.training.preferences import Preference, collect
from rewards.score.training.recipe import ScoreRecipe
from samples.fingerprints import pictures_of
from samples.sections import Role
from samples.store import Drawn
from stage.guards.disk import spared
from stage.guards.out_of_memory import advised
from stage.planning.job import check_full_batch, launched
from stage.planning.lengths import Lengths

logger = logging.getLogger(__name__)


def planner(recipe: ScoreRecipe):
    """For `stage.guards.out_of_memory`: the data is read once."""
    data = planned.survey(recipe.data.train, lengths=Lengths(recipe, answers=True))
    return lambda changed: planned.plan(changed, data)


@advised(planner)
def train(recipe: ScoreRecipe) -> Path:
    """Train; returns the folder of the trained model (`output/final`). Bad data is found before weights load.

    With `model.lora` the adapter lies in `output/adapter`, and `final` holds it merged.
    """
    from trl import RewardConfig

    from rewards.score.training.trainable import trainable
    from rewards.score.training.trainer import PreferenceTrainer
    from stage.checkpoints.beginning import begin
    from stage.curves import draw_run
    from stage.trainer.arguments import arguments
    from stage.trainer.finish import follow
    from stage.trainer.models import own_device, processor_of

    beginning = begin(recipe)
    if beginning.finished is not None:
        return Path(recipe.output) / "final"
    planned.check(recipe)
    check = planned.text_check(recipe, fetch=True)
    records = collect(recipe.data.train, recipe.data.on_fault, "train", check, recipe.data.cache)
    held_out = collect(recipe.data.eval, recipe.data.on_fault, "eval", check, recipe.data.cache)
    check_full_batch(recipe, len(records))
    args = arguments(
        RewardConfig,
        recipe,
        # transformers: sequential order is a strategy of its own
        train_sampling_strategy="random" if recipe.data.shuffle else "sequential",
    )
    processor = processor_of(recipe)
    to_write = planned.plan(launched(recipe), planned.Survey(len(records))).storage
    run = beginning.open(args, to_write, lambda: origins(recipe, records, held_out))
    model = trainable(recipe, own_device(args))
    if recipe.model.lora is not None and args.gradient_checkpointing:
        model.enable_input_require_grads()  # nothing below the adapters would ask for gradients
    trainer = PreferenceTrainer(model, args, processor, records, held_out)
    follow(trainer, run, beginning)
    final = save(trainer, processor, recipe)
    if held_out and (trainer.measured_at != trainer.state.global_step or args.load_best_model_at_end):
        trainer.evaluate()
    if run.main:
        report(trainer.measured, run.folder)
    draw_run(run, "Score model")
    values = {name: metric.value for name, metric in trainer.measured.items()}
    run.finish(steps=trainer.state.global_step, **values)
    return final


def origins(recipe: ScoreRecipe, train: Drawn[Preference], held_out: Drawn[Preference]) -> dict[str, Any]:
    """data.json: what tells the records of each role apart (`stage.origins.comparing`)."""
    found = {}
    roles: list[tuple[Role, Drawn[Preference]]] = [("train", train), ("eval", held_out)]
    for role, records in roles:
        sources = [
            {
                "path": source.path,
                "rows": len(table),
                "sha256": table.about["digest"],
                "pictures_sha256": pictures_of(table),
            }
            for source, (table, _) in zip(recipe.data.sources(role), records.parts, strict=True)
        ]
        found[role] = {"rows": len(records), "sources": sources}
    return found


def save(trainer, processor, recipe: ScoreRecipe) -> Path:
    """Write the whole score model to `output/final`; collective under ZeRO."""
    from stage.trainer.finish import save_model

    final = Path(recipe.output) / "final"
    if recipe.model.lora is None:
        return save_model(trainer, processor, final)
    from rewards.score.training.trainable import merge

    adapter = save_model(trainer, processor, Path(recipe.output) / "adapter")
    if trainer.is_world_process_zero():
        merge(recipe, processor, adapter, final)
    trainer.accelerator.wait_for_everyone()
    return final


def report(measured: dict[str, metrics.Metric], folder: Path) -> None:
    """metrics.json and table.md; nothing where nothing was held out."""
    if not measured:
        return
    content = {name: {"value": m.value, "n": m.n, "convention": m.convention} for name, m in measured.items()}
    texts = {
        "metrics.json": json.dumps(content, indent=2, ensure_ascii=False) + "\n",
        "table.md": metrics.markdown(measured, folder.name),
    }
    for name, text in texts.items():
        with spared(folder / name):
            (folder / name).write_text(text, encoding="utf-8")


def plan(recipe: ScoreRecipe) -> None:
    """Print batch arithmetic, visual tokens, steps and memory (`--dry-run`)."""
    found = planned.plan(recipe)
    here = [source for source in recipe.data.eval if Path(source.path).exists()]
    for source in recipe.data.eval:
        if source not in here:
            logger.warning("data.eval: %s is not here; its rows are not looked at", source.path)
    planned.survey(here, recipe.data.on_fault, planned.text_check(recipe))
    found.render()
