"""`image_zoom_in`: a region of the original picture at full resolution, under RSCoVLM's name and form.

The model states corners in the picture that it was shown, in the frame of `prompt.notation`. The region is read from
the original by a window (`vlm.pictures.images.window`), whatever the original's size, grown to a shortest side of
`least` pixels around its centre and pushed back into the picture, and shown within a budget of pixels.

What is refused, with a text that says why: what is no box of four numbers, inverted or empty; a box without a pixel of
the picture; one that is thinner than `TINY` of the picture; one that covers more than `WHOLE` of it, for that picture
the model has seen. A box that overhangs is cut to the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL.Image import Resampling

from vlm.boxes.geometry import contained
from vlm.common.errors import RecipeError
from vlm.families import Sight
from vlm.pictures import images
from vlm.pictures.cache import decoded
from vlm.pictures.resizing import header_size, seen
from vlm.tools.tool import Box, Context, Shown, Tool, ToolError, View, check_arguments

NAME = "image_zoom_in"
GO_ON = "This is that region. Go on."
"""What stands behind a crop."""
TINY = 0.002
"""Share of the picture's width and height that a region has at least: of 500 pixels, one."""
WHOLE = 0.81
"""Share of the picture's area that a region has at most: sides of .9."""
LEAST = 256
HELD = 0.99
"""Share of a true region's area that lies in a crop which holds it."""

SIGNATURE = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "Show a region of a picture at full resolution.",
        "parameters": {
            "name": "bbox",
            "type": "list[int]",
            "description": "The region's corners, [x1, y1, x2, y2].",
            "required": True,
        },
    },
}
"""What the model is told: flat, as RSCoVLM's."""


def holds(crops: Iterable[Mapping[str, Any]], regions: Iterable[Sequence[float]]) -> bool:
    """Whether a crop (`Dialogue.crops`) of a question's first picture holds one of its true regions."""
    boxes = [crop["box"] for crop in crops if crop["image"] == 0]
    return any(contained(region, box) >= HELD for region in regions for box in boxes)


class Zoom:
    """The tool, for pictures as one model sees them."""

    SIGNATURE = SIGNATURE

    def __init__(self, sight: Sight, max_pixels: int | None = None, least: int = LEAST):
        """max_pixels: of a crop as the model sees it, at most those of a question's picture, which is what None means.
        least: shortest side of a region, in pixels of the original. Raises: RecipeError for what cannot be had."""
        most = sight.most if max_pixels is None else max_pixels
        if least < 1 or not sight.least <= most <= sight.most:
            raise RecipeError(
                f"tools: zoom: least = {least}, max_pixels = {most}; expected least ≥ 1, and max_pixels from "
                f"images.min_pixels = {sight.least} to images.max_pixels = {sight.most}, between which the model's "
                "processor leaves a crop as it is"
            )
        if most != sight.most and sight.seen((512, 512)) is None:
            raise RecipeError(
                f"tools: zoom: max_pixels = {most}: this model does not see pictures at a size of their own, so crops "
                "have the limits of all pictures; leave it out"
            )
        self.least, self.sight, self.whole = least, sight.within(sight.least, most), sight

    def __call__(self, arguments: Mapping[str, Any], context: Context) -> list[Any]:
        check_arguments(arguments, {"bbox", "image"}, {"bbox"})
        view = context.view(arguments.get("image"))
        return [self.shown(view, self.region(arguments["bbox"], view)), GO_ON]

    def region(self, bbox: Any, view: View, size: tuple[int, int] | None = None) -> Box:
        """What is cut out for a box that the model stated, in pixels of the original. size: of that, where it is known.
        Raises: ToolError."""
        if not (isinstance(bbox, list) and len(bbox) == 4 and all(type(x) in (int, float) for x in bbox)):
            raise ToolError(f'found "bbox": {str(bbox)[:80]}; expected four numbers, [x1, y1, x2, y2]')
        if not all(abs(x) < 1e9 for x in bbox):
            raise ToolError('found "bbox" with numbers that are not finite')
        wide, high = view.extent
        x1, y1, x2, y2 = bbox
        inside = f"a box inside the picture, whose corners are [0, 0, {wide:g}, {high:g}]"
        if x1 >= x2 or y1 >= y2:
            raise ToolError(f'found "bbox": {bbox}, which is empty; expected x1 < x2 and y1 < y2')
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, wide), min(y2, high)
        if x1 >= x2 or y1 >= y2:
            raise ToolError(f'found "bbox": {bbox}, outside of the picture; expected {inside}')
        if (x2 - x1) * (y2 - y1) > WHOLE * wide * high:
            raise ToolError(f'found "bbox": {bbox}, which is the whole picture again; expected a part of it')
        if (x2 - x1) < TINY * wide or (y2 - y1) < TINY * high:
            raise ToolError(f'found "bbox": {bbox}, which is too small; expected a region that can be seen')
        return self.grown(view.pixels([x1, y1, x2, y2]), size or header_size(view.image))

    def grown(self, box: Box, size: tuple[int, int]) -> Box:
        """Whole pixels around a box, each side at least `least` where the original has as many; inside of it."""
        ends = []
        for low, high, most in zip(box[:2], box[2:], size, strict=True):
            start, stop = max(0, math.floor(low + 1e-6)), min(most, math.ceil(high - 1e-6))
            if stop - start < (wanted := min(self.least, most)):
                start = min(max(0, math.floor((low + high) / 2 - wanted / 2)), most - wanted)
                stop = start + wanted
            ends.append((start, stop))
        (x1, x2), (y1, y2) = ends
        return x1, y1, x2, y2

    def shown(self, view: View, region: Box) -> Shown:
        """The region as the model sees it. Raises: DataError for a file that can no longer be read; ToolError for a
        strip that no model takes."""
        return self.cut(self.seen(view, region))

    def seen(self, view: View, region: Box) -> View:
        """What a region of a view's original is shown as; nothing is opened. Raises: ToolError for a strip that no
        model takes."""
        own = (int(region[2] - region[0]), int(region[3] - region[1]))
        try:
            handed = self.handed(region)
            shown = seen(handed, self.whole) or handed
        except ValueError as error:
            raise ToolError(f"the region has {own[0]} x {own[1]} pixels of the original: {error}") from None
        return View(view.image, region, shown, view.frame, view.number)

    def handed(self, region: Box) -> tuple[int, int]:
        """(width, height) at which a crop is given to the processor. Mostly that leaves it as it is; of some sizes, as
        of thin strips or where limits are nearly equal, it makes another one, which is what the model sees."""
        own = (int(region[2] - region[0]), int(region[3] - region[1]))
        return seen(own, self.sight) or own

    def cut(self, view: View) -> Shown:
        """What `seen` says, with its pixels. Raises: DataError for a file that can no longer be read."""
        region, wanted = view.box, self.handed(view.box)
        own = (int(region[2] - region[0]), int(region[3] - region[1]))
        smaller = wanted if wanted[0] < own[0] and wanted[1] < own[1] else None

        def cut() -> Any:
            part = images.window(view.image, region, smaller)
            return part if own == wanted or part.size == wanted else part.resize(wanted, Resampling.BICUBIC)

        picture = decoded.get(("crop", view.image, region, wanted), cut)
        return Shown(picture, view)

    @property
    def tool(self) -> Tool:
        return Tool(NAME, SIGNATURE, self, self.sight.bounds()[1])
