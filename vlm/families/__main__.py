"""docs/models.md, from the registry: python -m vlm.families > docs/models.md"""

from __future__ import annotations

import inspect
import sys

from vlm.boxes import NOTATIONS
from vlm.families import FAMILIES, Family
from vlm.families.sight import Grid, Tiles

HEAD = """# Models

Written by `python -m vlm.families > docs/models.md` from `vlm/families/`, in which each family is one file; a test
keeps it so. What a cell promises is tested for each family that promises it, with a tiny checkpoint in the published
layout.
"""

TAIL = """
- **Prompts shared**: a group's prompt goes once through the model in the update, the reference and the rollout;
  log-probabilities and gradients equal stock TRL's to 1e-5. Where it says no, each completion computes its prompt, as
  in TRL, and a line of the run's first ones says why.
- **Pictures**: what a visual token covers. `images.min_pixels` and `max_pixels` limit the pixels of a picture; of tiles
  those of all tiles together, without the one that shows the whole.
- **Boxes**: `prompt.notation` where the recipe says nothing; the frame is what the numbers count in (`vlm/boxes`).
- **Score model**: whether a reward head was tried on it (`launch/score.py`, reward `score`).
- **vLLM**: whether what vLLM reads of its prompts and pictures was compared with what the trainer means
  (`make test-vllm`); others are refused there.
- **Plan**: whether `--dry-run` knows its memory.

## Any other model

A vision-language model without a file is loaded by transformers' own classes and trained as TRL does, which a line
says: its processor keeps its own settings (`images.min_pixels` and `max_pixels` have no say), prompts are not shared,
memory is not planned, and boxes are read in the notation that the recipe states. CONTRIBUTING.md says how to write its
file.
"""


def rows(family: Family) -> dict[str, str]:
    """Column → cell."""
    sight = family.sight(dict(next(iter(family.known.values()), {})), 262144, 1048576)
    if isinstance(sight, Grid):
        pictures = f"{sight.side} × {sight.side} pixels a token"
    elif isinstance(sight, Tiles):
        pictures = f"tiles of {sight.edge} × {sight.edge}, {sight.per_tile} tokens each"
    else:
        pictures = f"padded to {sight.least**0.5:.0f} × {sight.least**0.5:.0f}, {sight.bounds()[1]} tokens"
    notation = NOTATIONS[family.notation]
    return {
        "Model": family.name,
        "`model_type`": f"`{family.kind}`",
        "Sizes known": ", ".join(name.rpartition("-")[2] if "A3B" not in name else "30B-A3B" for name in family.known)
        or "–",
        "Pictures": pictures,
        "Positions": family.positions,
        "Boxes": f"`{notation.name}`, {notation.frame}",
        "Prompts shared": "yes" if family.unshared is None else "no",
        "Score model": "yes" if family.backbone else "–",
        "vLLM": "yes" if family.vllm else "–",
        "Plan": "yes" if family.known else "–",
    }


def page() -> str:
    found = [rows(family) for family in FAMILIES.values()]
    lines = [list(found[0]), ["---"] * len(found[0]), *(list(row.values()) for row in found)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [HEAD, table, TAIL, "## In each family's words\n"]
    for family in FAMILIES.values():
        said = inspect.cleandoc(sys.modules[type(family).__module__].__doc__ or "")
        shown = family.shown.replace("\n", "\\n")
        parts.append(f"**{family.name}** (`{type(family).__module__.replace('.', '/')}.py`). {said}\n")
        parts.append(f"A picture stands in a text as `{shown}`, where the data have it.\n")
    reasons = [f"**{one.name}** does not share prompts: {one.unshared}.\n" for one in FAMILIES.values() if one.unshared]
    return "\n".join([*parts, *reasons]).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
