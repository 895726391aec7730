"""The chat template that SFT trains with: the checkpoint's own, which marks what the assistant says.

TRL computes the loss on what stands between `{% generation %}` and `{% endgeneration %}`. It has marked variants of the
templates it knows, and takes a template for one of them only if no letter differs; a family marks its own
(`vlm.families`).
"""

from __future__ import annotations

from typing import Any

from vlm.common.errors import RecipeError
from vlm.pictures.processing import ImagesOnly


def marked(processor: Any) -> str | None:
    """The family's template with marks; None where it has none, or TRL is to look."""
    return processor.family.marked(processor.chat_template) if isinstance(processor, ImagesOnly) else None


def check(processor: Any, path: str) -> None:
    """Refuse a template whose assistant turns cannot be told. path: of the checkpoint. Raises: RecipeError."""
    from trl.chat_template_utils import get_training_chat_template

    if not isinstance(processor.chat_template, str):
        raise RecipeError(f"model.path: {path} has no chat template; expected chat_template.jinja in it")
    if marked(processor) is not None:
        return
    try:
        get_training_chat_template(processor)
    except ValueError as error:
        raise RecipeError(
            f"model.path: the chat template of {path} does not mark what the assistant says, which alone is learned, "
            "and it is none that is known; in its chat_template.jinja write {% generation %} before and "
            "{% endgeneration %} behind an assistant turn's content and what ends it, or take the published template"
        ) from error
