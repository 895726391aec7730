"""Class lists by name, for scenes without annotation: what is asked for must be stated there.

DOTA-1.0's are as in VisionXLab/RSCoVLM (rscovlm/eval/data/dense_det.py at bfc2ff7); what 1.5 and 2.0 add, as in
jwwangchn/NWD (mmdet/datasets/dota.py). Here in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vlm.boxes import spoken
from vlm.common.errors import RecipeError

_DOTA = (
    "plane", "baseball diamond", "bridge", "ground track field", "small vehicle", "large vehicle", "ship",
    "tennis court", "basketball court", "storage tank", "soccer ball field", "roundabout", "harbor", "swimming pool",
    "helicopter",
)  # fmt: skip
LISTS: dict[str, tuple[str, ...]] = {
    "dota-1.0": _DOTA,
    "dota-1.5": (*_DOTA, "container crane"),
    "dota-2.0": (*_DOTA, "container crane", "airport", "helipad"),
}


def named(text: str) -> list[str]:
    """`plane,small-vehicle`, or the name of a list, in words, sorted. Raises: RecipeError."""
    names: Sequence[str] = LISTS.get(text.strip().lower()) or [spoken(name) for name in text.split(",")]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not all(name[:1].isalpha() for name in names) or twice:
        raise RecipeError(
            f"--classes {text}: expected names, separated by commas, each once (plane,small-vehicle), or one of "
            f"{', '.join(LISTS)}"
        )
    return sorted(names)
