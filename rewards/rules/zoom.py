"""Where a completion has looked: whether a crop holds the true region, how tightly, and in how many calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.registry import register
from rewards.rules.rows import Column, name_of
from vlm.boxes.geometry import contained
from vlm.common.errors import DataError, RecipeError
from vlm.tools.zoom import LEAST


@register("zoom")
def zoom(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    regions: Column = None,
    size: Column = None,
    turns: Column = None,
    crops: Column = None,
    decay: float = 0.8,
    tightness: float = 0.5,
    least: int = LEAST,
    **columns: Any,
) -> list[float | None]:
    """How well a completion looks where the truth is, in [0, 1]; None for rows without `regions`.

        r = max over crops c and true regions R of  |c ∩ R| / |R| · min(1, |R⁺| / |c|)^tightness,  times decay^(n − 1)

    R⁺ is R grown as the tool grows it, to sides of `least` pixels of the original (the option `least` of the zoom; the
    same number belongs here), so that what no crop can avoid costs nothing. n counts all calls that were answered,
    failed ones, too. No crop: 0. Crops of other pictures than the first count in n alone.

    Containment and efficiency are GeoEyes' terms (arXiv 2602.14201), whose constants are not published. Hacking: a crop
    of nearly the whole picture holds the truth, and is paid by its area; many crops that tile the picture, or one that
    is repeated, are paid by decay, and no two crops add up.
    """
    if not 0 < decay <= 1 or tightness < 0 or least < 1:
        raise RecipeError(
            f"reward 'zoom': decay is {decay}, tightness {tightness}, least {least}; expected 0 < decay ≤ 1, tightness "
            "≥ 0, and least as the zoom among the recipe's tools has it"
        )
    found: list[float | None] = []
    for row in range(len(completions)):
        truth = regions[row] if regions is not None else None
        if not truth:
            found.append(None)
            continue
        if crops is None or turns is None or size is None or size[row] is None:
            raise DataError(
                f"{name_of(row, columns)}: the reward 'zoom' needs the columns turns, crops and size; GRPO has them "
                "where the recipe names the zoom: write `tools: [{use: zoom}]`"
            )
        shown = [crop["box"] for crop in crops[row] if crop["image"] == 0]
        best = max((_seen(crop, one, size[row], tightness, least) for crop in shown for one in truth), default=0.0)
        calls = sum(turn["role"] == "tool" for turn in turns[row])
        found.append(best * decay ** max(calls - 1, 0))
    return found


def _seen(crop: Sequence[float], region: Sequence[float], size: Sequence[int], tightness: float, least: int) -> float:
    held = contained(region, crop)
    if not held:
        return 0.0
    x1, y1, x2, y2 = region
    needed = max(x2 - x1, min(least, size[0])) * max(y2 - y1, min(least, size[1]))
    area = (crop[2] - crop[0]) * (crop[3] - crop[1])
    return held * min(1.0, needed / area) ** tightness
