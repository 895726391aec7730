"""Evaluation: generate → `predictions.jsonl` → metrics, a table, and a picture grid."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from evals import compare, metrics, predictions
from evals.recipe import EvalRecipe
from vlm import answers, boxes, config, mixture
from vlm.errors import RecipeError, UserError
from vlm.resizing import seen
from vlm.runs import FINISHED, Run, processes
from vlm.samples import Sample

logger = logging.getLogger(__name__)


def unique(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, refused where two would have the same key in predictions.jsonl."""
    seen: set[tuple[str, str]] = set()
    for sample in samples:
        if (sample.source, sample.id) in seen:
            raise UserError(
                f"data.eval: two questions are called {sample.source}/{sample.id}; give rows distinct ids, or leave "
                "one of the sources out"
            )
        seen.add((sample.source, sample.id))
    return list(samples)


def started(recipe: EvalRecipe, folder: Path) -> list[predictions.Prediction]:
    """Predictions of an interrupted evaluation by the same recipe, to be continued.

    Raises: UserError where the folder's predictions are by another recipe.
    """
    file = folder / "predictions.jsonl"
    if recipe.overwrite or not file.exists() or (folder / FINISHED).exists():  # a finished one: Run.create refuses it
        return []
    earlier = config.load(folder / "recipe.yaml", EvalRecipe)
    changes = {key for key in config.difference(earlier, recipe) if key not in ("overwrite", "pictures")}
    if changes:
        raise UserError(
            f"{file} was begun with another recipe (different: {', '.join(sorted(changes))}); write overwrite=true, or "
            "choose another output"
        )
    return predictions.resume(file)


Judge = Callable[[Sample, Sequence[str]], list[float] | None]
"""`judge(sample, completions)` → a value for each; None where it does not apply to the sample."""


def run(recipe: EvalRecipe, judge: Judge | None = None) -> metrics.Report:
    """Evaluate; returns the report, which also lies in the run folder. Faulty data is found before weights load.

    judge: of the recipe's `gold`, for open questions.
    """
    from vlm.loading import load_model, load_processor

    if processes() > 1:
        raise UserError(
            f"an evaluation is one process, and {processes()} were launched; start it with `python launch/eval.py …`"
        )
    data = mixture.draw(recipe.data, "eval", recipe.seed)
    samples = unique(data.samples)
    folder = Path(recipe.output)
    done = started(recipe, folder)
    processor = load_processor(recipe.model.path, recipe.images, recipe.model.revision, recipe.model.trust_remote_code)
    record = Run.create(folder, config.to_dict(recipe), overwrite=recipe.overwrite, resume=bool(done))
    mixture.show_and_note(record, {"eval": data})
    have = {prediction.key for prediction in done}
    todo = [s for s in samples if f"{s.source}/{s.id}" not in have]
    if done:
        logger.info("continuing: %d of %d questions are answered", len(done), len(samples))
    if todo:
        generate(recipe, load_model(recipe.model), processor, todo, folder, append=bool(done), judge=judge)
    report = metrics.evaluate(predictions.read(folder / "predictions.jsonl"), recipe.prompt.notation, recipe.inside)
    save(report, recipe, folder)
    record.finish(**{name: metric.value for name, metric in report.metrics.items()})
    return report


def generate(
    recipe: EvalRecipe, model, processor, samples: list[Sample], folder: Path, append: bool, judge: Judge | None = None
) -> None:
    """Answer the questions; each batch is on disk before the next one starts."""
    import torch
    from tqdm.auto import tqdm
    from transformers import set_seed

    from evals.generate import complete

    set_seed(recipe.seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    with open(folder / "predictions.jsonl", "a" if append else "w", encoding="utf-8", buffering=1) as file:
        pairs = complete(model, processor, samples, recipe.prompt, recipe.generation)
        for sample, text in tqdm(pairs, total=len(samples), desc="eval", mininterval=2.0):
            judged = judge(sample, [text]) if judge is not None and sample.task in metrics.OPEN else None
            gold, resized = judged[0] if judged else None, seen(sample.size, recipe.images)
            row = predictions.from_sample(sample, text, gold=gold, resized=resized)
            file.write(predictions.line(row) + "\n")


def save(report: metrics.Report, recipe: EvalRecipe, folder: Path) -> None:
    """metrics.json, table.md and pictures.png; the table goes to the terminal too."""
    from rich.console import Console

    (folder / "metrics.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    name = folder.name
    (folder / "table.md").write_text(compare.markdown({name: report}))
    Console().print(compare.table({name: report}))
    if recipe.pictures:
        from vlm.drawing import grid

        rows = predictions.read(folder / "predictions.jsonl")
        chosen = pick(rows, recipe.pictures)
        shown = [picture(row, recipe.prompt.notation, recipe.inside) for row in chosen]
        if shown:
            grid(shown, folder / "pictures.png", title=f"Held-out questions, answered by {name}")


def pick(rows: list[predictions.Prediction], count: int) -> list[predictions.Prediction]:
    """`count` predictions spread evenly over the file's questions that have a picture on disk."""
    rows = [row for row in rows if row.image is not None]
    step = max(1, len(rows) // count)
    return rows[::step][:count]


def picture(row: predictions.Prediction, notation: str, inside: metrics.Inside):
    """A prediction as a cell of the picture grid."""
    from vlm.drawing import Picture

    judged = metrics.judge(row, notation, inside)
    said = answers.parse(row.completion).answer if inside == "answer" else row.completion
    found = boxes.read_boxes(said, notation, row.size, row.resized) if said and row.boxes and row.size else None
    return Picture(
        image=row.image,
        question=row.prompt,
        truth=None if row.boxes else row.answer,
        answer=None if found else (said or "no answer in tags"),
        boxes=row.boxes or [],
        predicted=found,
        right=judged.iou >= 0.5 if judged.iou is not None else judged.correct,
    )


def plan(recipe: EvalRecipe) -> None:
    """Print what would be asked (`--dry-run`); neither model nor data need be here yet: what is not is noted."""
    from rich.console import Console

    from vlm.loading import architecture
    from vlm.shapes import visual_range

    console = Console()
    try:
        architecture(recipe.model.path, recipe.model.revision)
    except RecipeError as error:
        console.print(f"note: {error}", markup=False, highlight=False)
    known = [source for source in recipe.data.eval if source.limit is not None or Path(source.path).exists()]
    for source in recipe.data.eval:
        if source not in known:
            console.print(f"note: {source.path} is not here; its questions are not counted", markup=False)
    questions = mixture.count(dataclasses.replace(recipe.data, eval=known), "eval", recipe.seed)
    questions.show()
    count = questions.rows
    low, high = visual_range(recipe.images.min_pixels, recipe.images.max_pixels)
    console.print(f"{count} questions in {-(-count // recipe.generation.batch_size)} batches")
    console.print(f"{low} to {high} visual tokens an image, up to {recipe.generation.max_new_tokens} new tokens each")
