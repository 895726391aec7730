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
    """The conversation with calls and crops written out, and the crops in order.

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
        text, shown = called(turn["zoom"], context, zoom)
        said.append({"role": "assistant", "content": f"{content}\n{text}" if content else text})
        said.append({"role": "user", "content": TAG + GO_ON})
        assert shown.view is not None
        context.views.append(shown.view)
        crops.append(shown)
    return said, crops


def called(box: Sequence[float], context: Context, zoom: Zoom) -> tuple[str, Shown]:
    """(the text of the call for a region, what it shows). Raises: DataError."""
    bbox, view, number = stated(box, context, zoom)
    try:
        shown = zoom.shown(view, zoom.region(bbox, view))
    except ToolError as error:
        raise DataError(f"zoom: found the region {list(box)}, which the tool would refuse: {error}") from None
    arguments = {"bbox": bbox} if number is None else {"bbox": bbox, "image": number}
    return calls.write(NAME, arguments), shown


def refusal(box: Sequence[float], views: Sequence[View], zoom: Zoom) -> str | None:
    """Why the tool would not show a region; None where it would. Reads no pixels."""
    bbox, view, _ = stated(box, Context(list(views), len(views)), zoom)
    try:
        zoom.sized(zoom.region(bbox, view))
    except ToolError as error:
        return str(error)
    return None


def stated(box: Sequence[float], context: Context, zoom: Zoom) -> tuple[list[int], View, int | None]:
    """A region as a call states it; the picture in which it does, and that one's number where it has to be said."""
    first, last = context.views[0], context.views[-1]
    x1, y1, x2, y2 = box
    width, height = first.size
    grown = zoom.grown((x1, y1, x2, y2), (int(width), int(height)))
    if last.number == 0 and _within(grown, last.box):
        return last.stated(grown), last, None
    return first.stated(grown), first, 1


def _within(box: Sequence[float], region: Box) -> bool:
    x1, y1, x2, y2 = box
    return region[0] <= x1 and region[1] <= y1 and x2 <= region[2] and y2 <= region[3]
