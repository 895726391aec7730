"""Small models of each family, whose memory is measured: no size equals another, so that no error hides another.

The vision tower has about as much to keep as the decoder. Random weights as transformers draws them, nothing saved.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoConfig

from tests.support.families import published
from tests.support.runs.plan_jobs import model_section
from vlm import families
from vlm.families.other import Other

KINDS = [kind for kind, family in families.FAMILIES.items() if type(family).sizes is not Other.sizes]
TEXT = {
    "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
QWEN3 = {
    "head_dim": 32,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
}
TEXTS = {
    "qwen3_vl": QWEN3,
    "qwen3_vl_moe": QWEN3 | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 40},
    "glm4v": {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 2, 2]}},
    "qwen2_vl": {"rope_scaling": {"type": "mrope", "mrope_section": [4, 4, 4]}},
    "qwen2_5_vl": {"rope_scaling": {"type": "mrope", "mrope_section": [4, 4, 4]}},
}
GRID = {"depth": 4, "hidden_size": 64, "intermediate_size": 176, "num_heads": 4, "out_hidden_size": 96}
SQUARE = {
    "hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "num_hidden_layers": 4, "image_size": 112,
}  # fmt: skip
TOWERS = {
    "qwen2_vl": {"depth": 4, "embed_dim": 64, "hidden_size": 96, "num_heads": 4},
    "qwen2_5_vl": GRID | {"fullatt_block_indexes": [0, 1, 2, 3]},
    "qwen3_vl": GRID | {"deepstack_visual_indexes": [0, 1]},
    "qwen3_vl_moe": GRID | {"deepstack_visual_indexes": [0, 1]},
    "glm4v": GRID,
    "llava": SQUARE,
    "internvl": SQUARE | {"image_size": [112, 112]},
}
ROWS, WORDS = 2, 40


def config(kind: str) -> dict:
    raw = published(kind).config
    text = TEXT | TEXTS.get(kind, {})
    nested = {"text_config": raw["text_config"] | text} if "text_config" in raw else text
    return raw | nested | {"vision_config": raw["vision_config"] | TOWERS[kind]}


def small(kind: str, folder: Path, dtype: str, attention: str, **settings):
    """(model, `model:` section with these settings) of a folder that has nothing but config.json."""
    (folder / "config.json").write_text(json.dumps(config(kind)))
    section = model_section(folder, dtype=dtype, attention=attention, **settings)
    model_class = families.FAMILIES[kind].model_class
    made = AutoConfig.from_pretrained(folder)
    return model_class._from_config(made, dtype=getattr(torch, dtype), attn_implementation=attention).train(), section


def batch(model) -> tuple[dict, int]:
    """(inputs of `ROWS` sequences of `WORDS` tokens and a picture each, of which one is padded; its visual tokens)."""
    family = families.of(model.config)
    media, tokens = family.blank(model.config)
    media["pixel_values"] = media["pixel_values"].repeat(ROWS, *[1] * (media["pixel_values"].dim() - 1))
    if "image_grid_thw" in media:  # of 8 × 8 patches
        tokens = 64 // family.joined(model.config)
        media["pixel_values"] = torch.randn(ROWS * 64, media["pixel_values"].shape[1])
        media["image_grid_thw"] = torch.tensor([[1, 8, 8]] * ROWS)
    ids = torch.full((ROWS, WORDS + tokens), 5)
    ids[:, 4 : 4 + tokens] = model.config.image_token_id
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    kinds = {"mm_token_type_ids": (ids == model.config.image_token_id).int()} if "image_grid_thw" in media else {}
    media["pixel_values"] = media["pixel_values"].to(model.dtype)
    return {"input_ids": ids, "attention_mask": mask, **media, **kinds}, tokens
