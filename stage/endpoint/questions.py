"""The questions of a recipe as requests to its endpoint: who is asked in which manner, and what it will cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from samples import Sample
from stage.endpoint import cost
from stage.endpoint.sections import ServedSection
from stage.recipe.asking import AskingRecipe
from stage.recipe.sections import ToolKeys
from vlm import prompts
from vlm.families import Sight
from vlm.pictures.resizing import seen

REPLY = 400
"""Characters of a reply that an estimate reckons with: a short trace and an answer."""
TOLD = 60
"""And of a tool's turn beside its picture."""


def section_of(recipe: AskingRecipe) -> ServedSection:
    """The endpoint as it is asked: what the recipe says elsewhere, in the protocol's fields."""
    assert recipe.endpoint is not None
    how = recipe.generation
    asked = {"temperature": how.temperature, "top_p": how.top_p}
    changes = {"max_tokens": how.max_new_tokens, "max_pixels": recipe.images.max_pixels}
    return recipe.endpoint.model_copy(update={**changes, "request": {**asked, **recipe.endpoint.request}})


def calls(recipe: AskingRecipe, sample: Sample, sight: Sight) -> list[cost.Call]:
    """The requests of a question, for an estimate: one, or with tools as many more as calls may be answered, each with
    all that was said and shown before. Pictures count at the size at which they are sent; those of unknown size, and
    what tools show, as large as they may be. sight: of the recipe, which `vlm.shapes.sight_of` reads from a file."""
    asked = prompts.asked(sample, recipe.prompt)
    side = _side(recipe.images.max_pixels)
    sizes = [seen(sample.size, sight.among(len(sample.images))) or (side, side)] * len(sample.images)
    said = sum(len(str(turn["content"])) for turn in asked)
    if not isinstance(recipe, ToolKeys) or not recipe.tools:
        return [cost.Call(said, sizes, REPLY)]
    crop = max(_side(one.options.get("max_pixels", recipe.images.max_pixels)) for one in recipe.tools)
    return [
        cost.Call(said + turn * (REPLY + TOLD), [*sizes, *[(crop, crop)] * turn], REPLY)
        for turn in range(recipe.turns.limit + 1)
    ]


def _side(pixels: int) -> int:
    return round(pixels**0.5)


def estimated(recipe: AskingRecipe, asked: Iterable[tuple[Sequence[cost.Call], int]]) -> cost.Estimate:
    """What asking costs. asked: the requests of each question, and how often it is asked.

    Raises: UserError where it may be more than `cost.max_cost`.
    """
    rows = ([*requests] * times for requests, times in asked)
    found = cost.estimate(rows, section_of(recipe), recipe.cost, "questions")
    cost.refuse_above(found, recipe.cost)
    return found
