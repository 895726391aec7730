"""A question as a conversation, the same for every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL.Image import Image

from samples import Sample
from vlm import prompts
from vlm.pictures.places import blocks
from vlm.pictures.resizing import shown
from vlm.sections import PromptSection


def conversation(
    sample: Sample,
    section: PromptSection,
    limits: tuple[int, int],
    view: Callable[[str | bytes, tuple[int, int]], Image] | None = None,
) -> list[dict[str, Any]]:
    """The prompt with its images decoded, each where the text puts it. limits: (fewest, most) pixels that the model
    sees of each. view: makes a picture ready for the processor that comes next; None: our own."""
    asked = prompts.prompt(sample, section.style, section.system, section.wording)
    return blocks(asked, [(view or shown)(image, limits) for image in sample.images])
