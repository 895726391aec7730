"""Best-of-N:  accelerate launch launch/bon.py recipes/bon.yaml [key.sub=value …] [--dry-run]"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

from evals import predictions  # noqa: E402
from evals.generate import complete  # noqa: E402
from evals.recipe import GenerationSection  # noqa: E402
from evals.scoring import metrics  # noqa: E402
from rewards import gold  # noqa: E402
from rewards.select import stage  # noqa: E402
from rewards.select.recipe import BonRecipe  # noqa: E402
from stage.cli import launch  # noqa: E402
from stage.parallel.team import device  # noqa: E402
from vlm.common.console import terminal  # noqa: E402
from vlm.loading import load_model, load_processor  # noqa: E402
from vlm.pictures.resizing import seen  # noqa: E402


def drawer(recipe: BonRecipe, size: int, halved: Callable[[int], None] | None = None) -> stage.Draw:
    """Loads the model; draws the recipe's number of completions of each question, `size` rows at a time."""
    processor = load_processor(recipe.model.path, recipe.images, recipe.model.revision, recipe.model.trust_remote_code)
    model = load_model(recipe.model, device()).eval()
    many = recipe.generation.samples
    how = GenerationSection(**recipe.generation.model_dump(exclude={"samples"}) | {"batch_size": size})

    def draw(samples):
        rows = [sample for sample in samples for _ in range(many)]
        found = complete(model, processor, rows, recipe.prompt, how, recipe.seed, halved)
        while texts := [text for _, text in islice(found, many)]:
            yield texts

    return draw


def judge(recipe: BonRecipe, judged, sample, completions):
    """Closed tasks by the benchmarks' metrics, all others by the recipe's `gold`."""
    if sample.task in metrics.OPEN:
        values = judged(sample, completions) if judged else None
        return None if values is None else ("open_ended/gold", values)
    rows = (predictions.from_sample(sample, text, resized=seen(sample.size, recipe.images)) for text in completions)
    found = [metrics.judge(row, recipe.prompt.notation, recipe.inside) for row in rows]
    if sample.task == "grounding":
        return "grounding/acc@0.5", [float(one.iou >= 0.5) for one in found]
    return ("vqa/exact" if sample.task == "vqa" else f"{sample.task}/accuracy"), [float(one.correct) for one in found]


def run(recipe: BonRecipe) -> None:
    judged = partial(judge, recipe, gold.judge(recipe.gold))
    stage.run(recipe, partial(drawer, recipe), judged, check_columns=partial(gold.check, recipe.gold))


def plan(recipe: BonRecipe) -> None:
    stage.plan(recipe, partial(judge, recipe, gold.judge(recipe.gold)), partial(gold.check, recipe.gold))


if __name__ == "__main__":
    with terminal():
        sys.exit(launch(BonRecipe, run, plan))
