"""Models and processors of the tiny families, each loaded once a session, and prompts with pictures for them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest

from tests.support.tiny_checkpoints import picture, pixels, section
from vlm import loading

SHAPES = [[(112, 70)], [], [(60, 112), (112, 60)], [(90, 90)]]
"""Sizes of the pictures of four prompts."""


class Loaded(NamedTuple):
    kind: str
    model: object
    processor: object

    def prompts(self, rows=range(4)) -> dict:
        """The four prompts, of unequal length, or those named: padded on the left, as keywords of a model."""
        texts, pictures = [], []
        for row in rows:
            content = [{"type": "image"} for _ in SHAPES[row]]
            content.append({"type": "text", "text": "Where is the ship? " * (row + 1)})
            turn = [{"role": "user", "content": content}]
            texts.append(self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
            pictures.append([picture(*shape, seed=10 * row + n) for n, shape in enumerate(SHAPES[row])])
        if self.kind == "idefics3":
            shown = pictures if any(pictures) else None
        else:
            shown = [one for row in pictures for one in row] or None
        return dict(self.processor(text=texts, images=shown, padding=True, padding_side="left", return_tensors="pt"))


@pytest.fixture(scope="session")
def loaded(family_checkpoints):
    """Kind → `Loaded`, in float32 under SDPA. Weights and configs are left as they are."""

    @functools.cache
    def load(kind: str) -> Loaded:
        path = family_checkpoints(kind)
        model = loading.load_model(section(path)).eval()
        return Loaded(kind, model, loading.load_processor(path, pixels(64 * 64, 128 * 128)))

    return load
