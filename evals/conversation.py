"""A question as a conversation, the same for every backend."""

from __future__ import annotations

from typing import Any

from samples import Sample
from vlm import prompts
from vlm.pictures.places import blocks
from vlm.pictures.resizing import shown
from vlm.sections import PromptSection


def conversation(sample: Sample, section: PromptSection, limits: tuple[int, int]) -> list[dict[str, Any]]:
    """The prompt with its images decoded, each where the text puts it. limits: (fewest, most) pixels that the model
    sees of each."""
    asked = prompts.prompt(sample, section.style, section.system, section.wording)
    return blocks(asked, [shown(image, limits) for image in sample.images])
