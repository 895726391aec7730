"""State as plain values and tensors, so that it can be stored and read without running code from the file.

A checkpoint's own state files are read by `torch.load(weights_only=True)`, which builds dicts, lists, tuples, numbers,
texts and tensors and nothing else. `pack` makes such a structure of what trainers and rewards hold, `unpack` makes it
again: bytes and pictures become tensors of bytes, deques lists, and every tensor lies on the CPU.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from vlm.common.errors import UserError
from vlm.pictures import images

BYTES, PICTURE = "<bytes>", "<picture>"
"""Stand as the only key of a dict before the tensor that holds the content."""


def pack(value: Any, where: str = "state") -> Any:
    """Raises: UserError naming the place (`where` and the keys below it) of a value that cannot be stored."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_key(key, where): pack(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(pack(inner, f"{where}.{number}") for number, inner in enumerate(value))
    if isinstance(value, list | deque):
        return [pack(inner, f"{where}.{number}") for number, inner in enumerate(value)]
    if isinstance(value, bytes):
        return {BYTES: torch.from_numpy(np.frombuffer(bytearray(value), np.uint8))}
    if isinstance(value, Image.Image):
        return {PICTURE: pack(_png(value))[BYTES]}
    raise UserError(
        f"a checkpoint cannot hold {where}, a {type(value).__name__}; a state_dict() may give numbers, texts, None, "
        "bytes, tensors, PIL images, and lists, tuples and dicts of them"
    )


def unpack(value: Any, tensor: Callable[[torch.Tensor], torch.Tensor] = lambda found: found) -> Any:
    """What `pack` was given. tensor: applied to each tensor, e.g. to move it to a GPU."""
    if isinstance(value, torch.Tensor):
        return tensor(value)
    if isinstance(value, dict):
        if value.keys() == {BYTES}:
            return value[BYTES].numpy().tobytes()
        if value.keys() == {PICTURE}:
            return images.load(unpack({BYTES: value[PICTURE]}))
        return {key: unpack(inner, tensor) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(unpack(inner, tensor) for inner in value)
    return [unpack(inner, tensor) for inner in value] if isinstance(value, list) else value


def _key(key: Any, where: str) -> Any:
    if isinstance(key, bool | int | float | str):
        return key
    raise UserError(f"a checkpoint cannot hold the key {key!r} of {where}; expected a text or a number")


def _png(picture: Image.Image) -> bytes:
    """Lossless; PNG knows the modes that pictures of data sets have (RGB, RGBA, L, P, 1, I;16)."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
