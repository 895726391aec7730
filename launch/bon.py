"""Best-of-N:  accelerate launch launch/bon.py recipes/bon.yaml [key.sub=value …] [--dry-run]"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

from evals import predictions  # noqa: E402
from evals.asking.answering import sized  # noqa: E402
from evals.generate import answerer, check  # noqa: E402
from evals.scoring import metrics  # noqa: E402
from evals.scoring.reading import Reading  # noqa: E402
from rewards import gold  # noqa: E402
from rewards.select import stage  # noqa: E402
from rewards.select.recipe import BonRecipe  # noqa: E402
from stage.cli import launch  # noqa: E402
from vlm.common.console import terminal  # noqa: E402
from vlm.pictures.resizing import seen  # noqa: E402
from vlm.shapes import sight_of  # noqa: E402


def drawer(recipe: BonRecipe, size: int, halved: Callable[[int], None] | None = None) -> stage.Draw:
    """Makes ready who answers; draws completions of questions, `size` rows at a time."""
    who = answerer(recipe)
    return lambda rows: who.draw(sized(recipe, size), rows, halved)


def judge(recipe: BonRecipe, sight, judged, sample, completions):
    """Closed tasks by the benchmarks' metrics, all others by the recipe's `gold`."""
    if sample.task in metrics.OPEN:
        values = judged(sample, completions) if judged else None
        return None if values is None else ("open_ended/gold", values)
    resized = seen(sample.size, sight.among(len(sample.images)))
    rows = (predictions.from_sample(sample, text, resized=resized, form=recipe.prompt.masks) for text in completions)
    found = [metrics.judge(row, Reading.of(recipe)) for row in rows]
    if sample.task == "grounding":
        return "grounding/acc@0.5", [float(one.iou >= 0.5) for one in found]
    if sample.task == "segmentation":
        return "segmentation/giou", [float(one.iou) for one in found]
    if sample.task == "detection":
        return "detection/f1@0.5", [float(one.f1 or 0.0) for one in found]
    return ("vqa/exact" if sample.task == "vqa" else f"{sample.task}/accuracy"), [float(one.correct) for one in found]


def run(recipe: BonRecipe) -> None:
    if recipe.completions is None:
        check(recipe)
    judged = partial(judge, recipe, sight_of(recipe), gold.judge(recipe.gold))
    stage.run(recipe, partial(drawer, recipe), judged, check_columns=partial(gold.check, recipe.gold))


def plan(recipe: BonRecipe) -> None:
    stage.plan(
        recipe, partial(judge, recipe, sight_of(recipe), gold.judge(recipe.gold)), partial(gold.check, recipe.gold)
    )


if __name__ == "__main__":
    with terminal():
        sys.exit(launch(BonRecipe, run, plan))
