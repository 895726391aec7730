"""What tells two score models apart: a digest of everything that their scores depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING

from vlm.pictures.budget import ROW_PIXELS

if TYPE_CHECKING:
    from rewards.score.model.score_model import ScoreModel

IRRELEVANT = ("_name_or_path", "transformers_version")


def fingerprint(model: ScoreModel) -> str:
    """16 hexadecimal digits of a SHA-256 over configuration (positions included), pixel limits, chat template, and
    each tensor as it was loaded; equal on every machine and device. Reads all weights once: seconds per 10 GB.

    Of a model that ZeRO-3 has split, one tensor after the other is put together; all processes must then ask.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in IRRELEVANT}
    image, template = model.processor.image_processor.to_dict(), model.processor.chat_template
    if model.processor.row_pixels is not None:
        image[ROW_PIXELS] = model.processor.row_pixels
    digest = hashlib.sha256(json.dumps([config, image, template], sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        with _whole(tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _whole(tensor):
    """A context in which a tensor that ZeRO-3 has split is whole; DeepSpeed marks such tensors with a `ds_id`."""
    if not hasattr(tensor, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([tensor])


def _bytes(tensor) -> memoryview:
    """The tensor's own bytes; NumPy knows no bfloat16."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
