"""A question as a conversation, the same for every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL.Image import Image

from samples import Sample
from samples.rows import check_zooms
from vlm import prompts
from vlm.families import Sight
from vlm.pictures.places import blocks
from vlm.pictures.resizing import shown
from vlm.sections import PromptSection


def conversation(
    sample: Sample,
    section: PromptSection,
    sight: Sight,
    view: Callable[[str | bytes, Sight], Image] | None = None,
) -> list[dict[str, Any]]:
    """The prompt with its images decoded, each where the text puts it. sight: what the model sees of them.
    view: makes a picture ready for the processor that comes next; None: our own.

    Raises: DataError where a turn of what is asked zooms."""
    check_zooms(sample, sample.messages[: prompts.replied(sample.messages)])
    asked = prompts.asked(sample, section)
    among = sight.among(len(sample.images))
    return blocks(asked, [(view or shown)(image, among) for image in sample.images])
