"""From samples to the `datasets.Dataset` that TRL reads: prompt or chat, and the sample's fields as columns.

Images stay paths (or bytes) in the table and are decoded when a row is read, through a small cache: GRPO reads the same
row once per completion of a group.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from vlm import prompts
from vlm.errors import DataError
from vlm.images import load
from vlm.recipe import DataSection, PromptSection, SourceSection
from vlm.samples import Faults, Sample, read

logger = logging.getLogger(__name__)

CACHED_IMAGES = 64


def selected(samples: Iterable[Sample], tasks: Sequence[str] | None, limit: int | None) -> Iterator[Sample]:
    """The samples of these tasks (None: all), read no further than the limit: what is behind it is not checked."""
    return islice((s for s in samples if tasks is None or s.task in tasks), limit)


def collect(sources: Iterable[SourceSection], data: DataSection, role: str) -> list[Sample]:
    """All samples of the sources, checked, filtered by `data.tasks` and cut to each source's limit.

    Raises: DataError for a faulty row (under `on_fault: error`) and when nothing is left.
    """
    samples: list[Sample] = []
    for source in sources:
        faults = Faults()
        rows = read(source.path, source.format, source.images, source.task, data.on_fault, faults, split=source.split)
        samples += selected(rows, data.tasks, source.limit)
        if faults.skipped:
            logger.warning("%s: %s", source.path, faults)
    if not samples:
        raise DataError(f"data.{role}: no rows left; sources {[s.path for s in sources]}, tasks {data.tasks or 'all'}")
    return samples


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
    """Rows for GRPO: `prompt` (conversation), `images` (decoded), and the sample's fields."""
    from datasets import Dataset

    rows = [
        {"prompt": prompts.prompt(s, section.style, section.system, section.wording), **_columns(s)} for s in samples
    ]
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
