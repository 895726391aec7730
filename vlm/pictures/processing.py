"""Processors for Qwen2-VL and Qwen2.5-VL that take images only, and so need no torchvision.

The processors of transformers require a video processor, which needs torchvision. These subclasses drop it,
and always use the Pillow image backend, so that a stage sees the *same pixels* whether torchvision is
installed or not (the torchvision backend resizes tensors with another arithmetic than Pillow).

What they save is stock: the classes carry the stock names, the image processor is written under its stock
type (the `Pil` suffix is dropped by transformers), and a `video_processor` section is kept, so that
`AutoProcessor.from_pretrained(folder)` works wherever torchvision is installed.

Overridden: `__init__`, `prepare_inputs_layout` (rows without pictures may stand beside others, which transformers
refuses), `validate_inputs`, `to_dict` of `ProcessorMixin`.
"""

from __future__ import annotations

from typing import Any

from transformers.models.qwen2_5_vl import processing_qwen2_5_vl as qwen2_5_vl
from transformers.models.qwen2_vl import processing_qwen2_vl as qwen2_vl
from transformers.processing_utils import ProcessorMixin

from vlm.common.errors import RecipeError
from vlm.pictures.images import opaque

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
SHARED_SETTINGS = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
"""Image-processor settings that the video processor of a saved folder must share."""


def present(images):
    """Pictures, or rows of them, without the rows that have none."""
    if not isinstance(images, list | tuple):
        return images
    return [row for row in images if row is not None and not (isinstance(row, list | tuple) and len(row) == 0)]


def token_id(tokenizer, token: str) -> int:
    """Id of a special token; `RecipeError` where the tokenizer has no such token."""
    index = tokenizer.convert_tokens_to_ids(token)
    if index is None or (index == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise RecipeError(
            f"model.path: the tokenizer of {tokenizer.name_or_path or 'this checkpoint'} has no {token} "
            f"token; "
            "expected a Qwen2-VL or Qwen2.5-VL tokenizer"
        )
    return index


class ImagesOnly:
    """What the two processors share; mixed in before the stock class."""

    video_settings: dict[str, Any] | None = None
    """`video_processor` section of the checkpoint this was loaded from, saved again untouched."""

    def set_up(self, image_processor, tokenizer, chat_template) -> None:
        """Do what the stock `__init__` does, less the video processor."""
        self.image_token, self.video_token = IMAGE_TOKEN, VIDEO_TOKEN
        self.image_token_id = token_id(tokenizer, IMAGE_TOKEN)
        self.video_token_id = token_id(tokenizer, VIDEO_TOKEN)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def prepare_inputs_layout(self, images=None, **named):
        return super().prepare_inputs_layout(images=opaque(present(images)) or None, **named)

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if videos is not None:
            raise ValueError("videos are not supported: this processor takes images only")
        super().validate_inputs(images=images, text=text, audio=audio, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The stock `processor_config.json`, video section included."""
        output = super().to_dict()
        shared = {key: value for key, value in output["image_processor"].items() if key in SHARED_SETTINGS}
        output["video_processor"] = {
            "video_processor_type": "Qwen2VLVideoProcessor",
            **(self.video_settings or shared),
        }
        return output


# The stock names matter: `save_pretrained` writes them to processor_config.json and tokenizer_config.json.
# `__init__` must spell out its arguments: transformers reads the sub-processors off its signature.
class Qwen2VLProcessor(ImagesOnly, qwen2_vl.Qwen2VLProcessor):
    """Qwen2-VL: image processor and tokenizer, no video."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        self.set_up(image_processor, tokenizer, chat_template)


class Qwen2_5_VLProcessor(ImagesOnly, qwen2_5_vl.Qwen2_5_VLProcessor):  # noqa: N801 (stock name)
    """Qwen2.5-VL: image processor and tokenizer, no video."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        self.set_up(image_processor, tokenizer, chat_template)


Processor = Qwen2VLProcessor
PROCESSORS = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor}
