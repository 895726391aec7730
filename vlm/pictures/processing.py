"""Processors that take images only, and so need no torchvision, for every family.

Most processors of transformers require a video processor, which needs torchvision. These subclasses drop it, and always
use the Pillow image backend, so that a stage sees the *same pixels* whether torchvision is installed or not (the
torchvision backend resizes tensors with another arithmetic than Pillow).

What they save is stock: the classes carry the stock names, the image processor is written under its stock type (the
`Pil` suffix is dropped by transformers), and a `video_processor` section is kept, so that
`AutoProcessor.from_pretrained(folder)` works wherever torchvision is installed.

Overridden: `__init__` (the stock one runs, but for its video processor), `prepare_inputs_layout` (rows without pictures
may stand beside others, which transformers refuses; pictures that share a budget have their sizes already),
`validate_inputs`, `to_dict` of `ProcessorMixin`.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from transformers.processing_utils import ProcessorMixin

from vlm.common.errors import RecipeError
from vlm.families import FAMILIES, Family, Sight
from vlm.pictures.budget import ROW_PIXELS, check_rows, shared
from vlm.pictures.images import opaque

SHARED_SETTINGS = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
"""Image-processor settings that the video processor of a saved folder must share."""


def present(images):
    """Pictures, or rows of them, without the rows that have none."""
    if not isinstance(images, list | tuple):
        return images
    return [row for row in images if row is not None and not (isinstance(row, list | tuple) and len(row) == 0)]


class ImagesOnly:
    """Mixed in before the stock class."""

    family: Family
    sight: Sight
    "What the model sees of pictures, under the limits that it was loaded with."
    row_pixels: int | None = None
    "What the pictures of a row share (`vlm.pictures.budget`); saved with the limits. Set by `share_rows`."
    video_settings: dict[str, Any] | None = None
    """`video_processor` section of the checkpoint this was loaded from, saved again untouched."""

    def share_rows(self, row_pixels: int | None) -> None:
        """Take a recipe's `images.row_pixels`. Raises: RecipeError as `vlm.pictures.budget.shared`."""
        self.row_pixels, self.sight = row_pixels, shared(self.sight.plain, row_pixels)

    def prepare_inputs_layout(self, images=None, **named):
        if self.row_pixels is not None:
            check_rows(images or (), self.sight)
        return super().prepare_inputs_layout(images=opaque(present(images)) or None, **named)

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if videos is not None:
            raise ValueError("videos are not supported: this processor takes images only")
        super().validate_inputs(images=images, text=text, audio=audio, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The stock `processor_config.json`, video section included."""
        output = super().to_dict()
        if self.row_pixels is not None:
            output["image_processor"][ROW_PIXELS] = self.row_pixels
        if self.family.video_processor is not None:
            shared = {key: value for key, value in output["image_processor"].items() if key in SHARED_SETTINGS}
            kind = {"video_processor_type": self.family.video_processor}
            output["video_processor"] = {**kind, **(self.video_settings or shared)}
        return output


class WithoutVideo(ProcessorMixin):
    """Mixed in behind the stock class, whose `__init__` hands its video processor on."""

    def __init__(self, image_processor=None, tokenizer=None, video_processor=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


@cache
def images_only(family: Family) -> type[ProcessorMixin]:
    """The processor class of a family; under the stock name, which a saved folder has."""
    stock = family.class_of(family.processor)

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **named):  # noqa: N807
        for token in (family.placeholder, *family.frame):
            if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id):
                raise RecipeError(
                    f"model.path: the tokenizer of {tokenizer.name_or_path or 'this checkpoint'} has no {token} token; "
                    f"expected a tokenizer of {family.name}"
                )
        stock.__init__(self, image_processor, tokenizer, chat_template=chat_template, **named)

    # transformers reads off the signature which parts a processor has, and what of it is saved
    signature = inspect.signature(stock.__init__)
    kept = [one for name, one in signature.parameters.items() if name not in ("video_processor", "kwargs")]
    __init__.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    # pickle finds a class by module and qualified name, which is no stock class's, as families share these
    named = {"__module__": __name__, "__qualname__": family.kind, "__doc__": f"{family.name}'s, without video."}
    bases = (ImagesOnly, *family.bases(stock), WithoutVideo)
    return type(stock.__name__, bases, {"__init__": __init__, "family": family, **named})


def __getattr__(name: str) -> Any:
    """A class of `images_only` by its qualified name."""
    if name in FAMILIES:
        return images_only(FAMILIES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
