"""What the readers of published sets with one region a row share: the record that looks there before it answers."""

from __future__ import annotations

from typing import Any

from samples.readers.rows import Place

NEARLY = 0.8
"""Share of the picture: a little less than `vlm.tools.zoom.WHOLE`, for a call states whole numbers."""


def looks(found: dict[str, Any], region: list[float], size: tuple[int, int], place: Place, said: str = "") -> bool:
    """Let the reply of a record (`samples.readers.records.record`) zoom into a region, cut to the picture, before it
    answers; said: the thoughts before the call.

    False where the region is nearly the whole picture, which the tool would not show again: the record stays as it
    is, and that is noted (`zoom_whole`).
    """
    share = (region[2] - region[0]) * (region[3] - region[1]) / (size[0] * size[1])
    if share > NEARLY:
        what = f"a zoom into {share:.0%} of the picture, which the tool does not show again: answered without"
        place.dropped.append(("zoom_whole", what))
        return False
    found["messages"].insert(-1, {"role": "assistant", "content": said, "zoom": region})
    return True
