"""Questions asked without the zoom, and with a first call that is put into the model's mouth.

    no_zoom       what the answer is worth without looking closer
    true_region   what it is worth when the crop is the right one: the box around all true regions of the question
    centre        a crop of the same size from the middle of the picture: detail alone, without knowing where
    random        and one from anywhere, by the recipe's seed and the question's name

A forced call counts as one of `turns.limit`. It is stated as the model would state it, and answered by the tool itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evals.controls.registry import Asked, register
from samples import Sample
from stage.parallel.journal import fingerprint
from vlm.boxes.geometry import hull
from vlm.pictures.resizing import header_size
from vlm.shapes import sight_of
from vlm.tools.chains import refusal
from vlm.tools.tool import views_of
from vlm.tools.toolbox import instruction, zoom_of

DEFAULT = ("no_zoom", "true_region")
"""What an evaluation with the zoom asks where its recipe says nothing."""
NO_TOOL = "the evaluation has no zoom (tools: [{use: zoom}])"
NO_REGION = "without a true region"
UNZOOMED = "that the benchmark asks without zoom"
REFUSED = "whose true region the zoom would not show, as it is the whole picture or too thin"

Place = Callable[[Sample, tuple[int, int], Sequence[float]], Sequence[float]]
"""(question, size of its first picture, the box around its true regions) → the region that is shown."""


@register("no_zoom", "the same questions without the tool that zooms in")
def no_zoom(samples: Sequence[Sample], recipe: Any) -> Asked | str:
    if not recipe.zooms:
        return NO_TOOL
    tools = [one for one in recipe.tools if one.use != "zoom"]
    prompt = recipe.prompt.told(instruction(tools, recipe.turns), recipe.prompt.ask if tools else "")
    return Asked(list(samples), recipe.model_copy(update={"tools": tools, "prompt": prompt}))


@register("true_region", "the same questions, with a first call that shows the box around their true regions")
def true_region(samples: Sequence[Sample], recipe: Any) -> Asked | str:
    return forced(samples, recipe, lambda sample, size, region: region)


@register("centre", "the same questions, with a first call that shows as large a region from the picture's middle")
def centre(samples: Sequence[Sample], recipe: Any) -> Asked | str:
    return forced(samples, recipe, lambda sample, size, region: placed(size, region, (0.5, 0.5)))


@register("random", "the same questions, with a first call that shows as large a region from anywhere")
def random(samples: Sequence[Sample], recipe: Any) -> Asked | str:
    def anywhere(sample: Sample, size: tuple[int, int], region: Sequence[float]) -> Sequence[float]:
        rng = np.random.default_rng(int(fingerprint("random", recipe.seed, sample.source, sample.id), 16))
        return placed(size, region, tuple(rng.random(2)))

    return forced(samples, recipe, anywhere)


def placed(
    size: tuple[int, int], region: Sequence[float], share: tuple[float, ...]
) -> tuple[float, float, float, float]:
    """A region as large as another one within a picture, that leaves these shares of the rest to its left and above."""
    width, height = region[2] - region[0], region[3] - region[1]
    left, top = share[0] * max(0, size[0] - width), share[1] * max(0, size[1] - height)
    return left, top, left + width, top + height


def forced(samples: Sequence[Sample], recipe: Any, place: Place) -> Asked | str:
    """The questions that have a true region which the tool would show, each with a first call."""
    if not recipe.zooms:
        return NO_TOOL
    sight = sight_of(recipe)
    zoom = zoom_of(recipe.tools, sight)
    assert zoom is not None
    found, openings, missed = [], {}, Counter[str]()
    for sample in samples:
        if not recipe.tooled(sample):
            missed[UNZOOMED] += 1
        elif not sample.regions or not sample.images:
            missed[NO_REGION] += 1
        else:
            views = views_of(sample.images, sight, recipe.prompt.notation)
            region = place(
                sample, header_size(sample.images[0]), hull([edge for one in sample.regions for edge in one])
            )
            if refusal(region, views, zoom) is not None:
                missed[REFUSED] += 1
                continue
            openings[sample.source, sample.id] = [*map(float, region)]
            found.append(sample)
    if not found:
        why = ", ".join(f"{count} {reason}" for reason, count in missed.items())
        return f"no question has a true region (`regions`) that could be shown: {why}"
    asked = recipe.model_copy(update={"turns": recipe.turns.opened(openings)})
    return Asked(found, asked, dict(missed))
