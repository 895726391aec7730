"""Conversations with calls that are known already, for SFT and controls: the calls are written, the regions cut out.

A turn {"role": "assistant", "content": …, "zoom": [x1, y1, x2, y2]} calls `image_zoom_in` on that region, in pixels of
the original first picture. The region is grown as the tool would grow it, and stated in the picture that a model would
zoom into: the last one shown where the region lies in it, else the first. What is cut out is what the tool itself gives
for the numbers that are stated, so that a model is taught what it will see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm.common.errors import DataError
from vlm.pictures.places import TAG, placed
from vlm.tools import calls
from vlm.tools.tool import Box, Context, Shown, ToolError, View
from vlm.tools.zoom import GO_ON, NAME, Zoom

Turns = Sequence[Mapping[str, Any]]


def chained(turns: Turns, views: Sequence[View], zoom: Zoom) -> tuple[list[dict[str, str]], list[Shown]]:
    """`written`, and the crops in order. Raises: DataError, also for a file that can no longer be read."""
    said, crops = written(turns, views, zoom)
    return said, [zoom.cut(view) for view in crops]


def written(turns: Turns, views: Sequence[View], zoom: Zoom) -> tuple[list[dict[str, str]], list[View]]:
    """The conversation with calls and the tool's turns written out, and what these show, in order; nothing is opened.

    views: the question's pictures. Contents are texts; `<image>` says where each picture stands, the question's too.
    Raises: DataError for a region that the tool would not show.
    """
    context, crops, said = Context(list(views), len(views)), [], []
    head = "" if placed(turns) else TAG * len(views)
    for turn in turns:
        content = turn["content"]
        if turn["role"] == "user":
            content, head = head + content, ""
        if "zoom" not in turn:
            said.append({"role": turn["role"], "content": content})
            continue
        text, view = called(turn["zoom"], context, zoom)
        said.append({"role": "assistant", "content": f"{content}\n{text}" if content else text})
        said.append({"role": "user", "content": TAG + GO_ON})
        context.views.append(view)
        crops.append(view)
    return said, crops


def called(box: Sequence[float], context: Context, zoom: Zoom) -> tuple[str, View]:
    """(the text of the call for a region, what it shows). Raises: DataError.

    Where the picture shown last would not show it, for it is nearly all of that, it is stated in the first one.
    """
    first, last = context.views[0], context.views[-1]
    size = (int(first.size[0]), int(first.size[1]))
    x1, y1, x2, y2 = box
    grown = zoom.grown((x1, y1, x2, y2), size)
    tried: list[tuple[View, int | None]] = [(first, None if last is first else 1)]
    if last is not first and last.number == 0 and _within(grown, last.box):
        tried.insert(0, (last, None))
    for view, number in tried:
        bbox = view.stated(grown)
        try:
            shown = zoom.seen(view, zoom.region(bbox, view, size))
        except ToolError as error:
            fault = error
            continue
        return calls.write(NAME, {"bbox": bbox} if number is None else {"bbox": bbox, "image": number}), shown
    raise DataError(f"zoom: found the region {list(box)}, which the tool would refuse: {fault}")


def _within(box: Sequence[float], region: Box) -> bool:
    x1, y1, x2, y2 = box
    return region[0] <= x1 and region[1] <= y1 and x2 <= region[2] and y2 <= region[3]


def refusal(box: Sequence[float], views: Sequence[View], zoom: Zoom) -> str | None:
    """Why the tool would not show a region; None where it would. Reads no pixels."""
    try:
        called(box, Context(list(views), len(views)), zoom)
    except DataError as error:
        return str(error)
    return None
