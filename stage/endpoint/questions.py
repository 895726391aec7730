"""The questions of a recipe as requests to its endpoint: who is asked in which manner, and what it will cost."""

from __future__ import annotations

from collections.abc import Iterable

from samples import Sample
from stage.endpoint import cost
from stage.endpoint.sections import ServedSection
from stage.recipe.asking import AskingRecipe
from vlm import prompts
from vlm.families import Sight
from vlm.pictures.resizing import seen

REPLY = 400
"""Characters of a reply that an estimate reckons with: a short trace and an answer."""


def section_of(recipe: AskingRecipe) -> ServedSection:
    """The endpoint as it is asked: what the recipe says elsewhere, in the protocol's fields."""
    assert recipe.endpoint is not None
    how = recipe.generation
    asked = {"temperature": how.temperature, "top_p": how.top_p}
    changes = {"max_tokens": how.max_new_tokens, "max_pixels": recipe.images.max_pixels}
    return recipe.endpoint.model_copy(update={**changes, "request": {**asked, **recipe.endpoint.request}})


def call(recipe: AskingRecipe, sample: Sample, sight: Sight) -> cost.Call:
    """The request of a question, for an estimate. Pictures count at the size at which they are sent; those of unknown
    size as large as they may be. sight: of the recipe, which `vlm.shapes.sight_of` reads from a file."""
    asked = prompts.asked(sample, recipe.prompt)
    side = round(recipe.images.max_pixels**0.5)
    sizes = [seen(sample.size, sight) or (side, side)] * len(sample.images)
    return cost.Call(sum(len(str(turn["content"])) for turn in asked), sizes, REPLY)


def estimated(recipe: AskingRecipe, calls: Iterable[tuple[cost.Call, int]]) -> cost.Estimate:
    """What asking costs. calls: the request of each question, and how often it is sent.

    Raises: UserError where it may be more than `cost.max_cost`.
    """
    rows = ([one] * times for one, times in calls)
    found = cost.estimate(rows, section_of(recipe), recipe.cost, "questions")
    cost.refuse_above(found, recipe.cost)
    return found
