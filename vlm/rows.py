"""From samples to the `datasets.Dataset` that TRL reads: prompt or chat, and the sample's fields as columns.

Images stay paths (or bytes) in the table and are decoded when a row is read, through a small cache: GRPO reads the same
row once per completion of a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from vlm import prompts
from vlm.errors import DataError
from vlm.images import load
from vlm.recipe import PromptSection
from vlm.samples import Sample

CACHED_IMAGES = 64


@lru_cache(maxsize=CACHED_IMAGES)
def _decoded(image: str | bytes):
    return load(image)


def _decode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    if "images" in batch:
        batch["images"] = [[_decoded(image) for image in images] for images in batch["images"]]
    return batch


def _columns(sample: Sample) -> dict[str, Any]:
    """The fields that reward functions see, and where the picture lies (for tables of completions)."""
    first = sample.images[0] if sample.images else None
    return {
        "images": sample.images,
        "image_file": first if isinstance(first, str) else None,
        "task": sample.task,
        "kind": sample.kind,
        "answer": sample.answer,
        "boxes": sample.boxes,
        "quads": sample.quads,
        "size": list(sample.size) if sample.size else None,
        "choices": sample.choices,
        "source": sample.source,
        "id": sample.id,
    }


def prompt_rows(samples: Iterable[Sample], section: PromptSection):
    """Rows for GRPO: `prompt` (conversation), `images` (decoded), the sample's fields, and `copy`.

    A row that a mixture repeats is a prompt of its own each time, with completions of its own. `copy` numbers these
    times from 0: by it rewards that compare within a group tell neighbours with the same source and id apart.
    """
    from datasets import Dataset

    rows, seen = [], Counter()
    for s in samples:
        name = (s.source, s.id)
        asked = prompts.prompt(s, section.style, section.system, section.wording)
        rows.append({"prompt": asked, **_columns(s), "copy": seen[name]})
        seen[name] += 1
    return Dataset.from_list(rows).with_transform(_decode)


def chat_rows(samples: Iterable[Sample], section: PromptSection):
    """Rows for SFT: `messages` ending in the assistant's turn, and `images` (decoded).

    Raises: DataError for a row without an assistant turn to learn from.
    """
    from datasets import Dataset

    rows = []
    for sample in samples:
        if not sample.messages or sample.messages[-1]["role"] != "assistant":
            raise DataError(
                f"{sample.source}: row {sample.id!r}: messages end without an assistant turn; supervised training "
                "needs one to learn from"
            )
        asked = prompts.prompt(sample, section.style, section.system, section.wording)
        rows.append({"messages": [*asked, sample.messages[-1]], "images": sample.images})
    return Dataset.from_list(rows).with_transform(_decode)
