"""Tiny random checkpoints of vision-language families, each a folder laid out as its family publishes it.

    checkpoint("qwen3_vl", folder)      # writes it, returns the path as a string

Keys, nesting, file names, classes and special tokens are the published ones; sizes are not. Patch and merge sizes
are, so that pixels a visual token are those of the real models; limits on pictures are lowered, to 4 to 64 tokens.
The vocabulary of a model is that of its tokenizer (published ones are padded). float32, fixed seed, CPU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

from tests.support.families import glm, idefics, internvl, llava, qwen2, qwen3
from tests.support.families.folder import Published, like, write

FAMILIES = {
    "qwen2_vl": qwen2.qwen2_vl,
    "qwen2_5_vl": qwen2.qwen2_5_vl,
    "qwen3_vl": qwen3.qwen3_vl,
    "qwen3_vl_moe": qwen3.qwen3_vl_moe,
    "qwen3_5": qwen3.qwen3_5,
    "qwen3_5_moe": like(qwen3.qwen3_5, "Qwen3_5Moe", **qwen3.MIXTURE, shared_expert_intermediate_size=32),
    "glm4v": glm.glm4v,
    "llava": llava.llava,
    "internvl": internvl.internvl,
    "idefics3": idefics.idefics3,
}
"""`model_type` of a config.json → what its family publishes. The project has no file for the last, which stands for
any other."""

KINDS = tuple(FAMILIES)


LISTED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "internvl")
"""What `make test` takes through every stage; others go through those that are dear in `make test-full`."""


def listed(kinds: Iterable[str], but: Collection[str] = ()) -> list:
    """Parameters of a dear test: those that are not `LISTED`, or in `but`, marked `full`."""
    return [
        kind if kind in LISTED and kind not in but else pytest.param(kind, marks=pytest.mark.full) for kind in kinds
    ]


def published(kind: str) -> Published:
    """What goes into the folder, before weights are drawn."""
    return FAMILIES[kind]()


def base(kind: str) -> str:
    """The kind whose texts and processor this one has: itself, or what it is `like`."""
    return published(kind).like or kind


def checkpoint(kind: str, folder: str | Path, seed: int = 2) -> str:
    """Write the tiny checkpoint of `kind` to `folder`, which is made where it is missing; returns its path.

    With the default seed no kind repeats one token when it writes greedily.
    """
    return write(published(kind), Path(folder), seed)
