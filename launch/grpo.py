"""GRPO:  accelerate launch launch/grpo.py recipes/r1.yaml [key.sub=value …] [--dry-run]"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

import rewards  # noqa: E402
from rl import stage  # noqa: E402
from rl.recipe import GRPORecipe  # noqa: E402
from stage.cli import launch  # noqa: E402
from vlm.common.console import terminal  # noqa: E402
from vlm.common.errors import RecipeError  # noqa: E402
from vlm.shapes import sight_of  # noqa: E402
from vlm.tools.toolbox import zoom_of  # noqa: E402


def resolved(recipe: GRPORecipe) -> list:
    """The recipe's rewards as callables; what an option does not set is the prompt's notation, and
    the least side of the zoom. Raises: RecipeError, also where a reward looks for tags that nothing asks for."""
    from rewards.guarded import Limits, guard
    from rewards.score.reward.score import learned

    found = []
    for place, reward in enumerate(recipe.rewards):
        options = dict(reward.options)
        tagged = ":" not in reward.use and "inside" in rewards.options_of(reward.use) and "inside" not in options
        direct = recipe.prompt.style == "direct" and recipe.prompt.system is None
        if tagged and direct:  # it would read nothing, and pay 0 for all that is said
            raise RecipeError(
                f"rewards.{place} ({reward.use}): prompt.style direct asks for no tags, but inside: answer, the "
                "default, reads only what is between them; write options: {inside: text}"
            )
        if "notation" in rewards.options_of(reward.use) and options.get("notation") is None:
            options["notation"] = recipe.prompt.notation
        if reward.use == "zoom" and "least" not in options:
            options["least"] = zoom_of(recipe.tools, sight_of(recipe)).least
        found.append(guard(rewards.resolve(reward.use, **options), Limits.of(reward)))
    for score in learned(found):
        score.check(recipe.sharding.zero)
    return found


def train(recipe: GRPORecipe) -> None:
    from rewards.guarded import guarded_in
    from rewards.score.reward.score import learned
    from rewards.score.reward.stopping import StopOnFailures

    found = resolved(recipe)
    scores = learned(found)
    for score in scores:
        score.prepare()
    stage.train(
        recipe,
        found,
        rewards.check_data,
        [StopOnFailures([*scores, *guarded_in(found)])],
        before_weights=lambda: [score.load() for score in scores],
        score_models=lambda: origins(scores),
    )


def origins(scores: list) -> dict:
    """The models of learned rewards, by what messages call them."""
    return {f"score model {number}": score.scorer.origin() for number, score in enumerate(scores)}


def plan(recipe: GRPORecipe) -> None:
    from rewards.score.reward.score import learned
    from rewards.score.training.planned import resident
    from rewards.trial import Specimens, try_out
    from stage.planning.gpus import parse_gpus
    from vlm.common.processes import processes

    found = resolved(recipe)  # a plugin that does not import is an error in a dry run, too
    count = parse_gpus(recipe.gpus).count if recipe.gpus else processes()
    specimens = Specimens()
    kept = resident(learned(found), recipe.model, count)
    stage.plan(recipe, *kept, partial(rewards.check_data, found), specimens.see)
    try_out(found, specimens.few, recipe.prompt, sight_of(recipe))


if __name__ == "__main__":
    with terminal():
        sys.exit(launch(GRPORecipe, train, plan))
