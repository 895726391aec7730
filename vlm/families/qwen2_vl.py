"""Qwen2-VL (arXiv 2409.12191): the family of Qwen2VL-7B-RS and ScoreRS."""

from __future__ import annotations

import re

from vlm.families.grids import GridFamily, blocks, merger, mixed, pixel_bytes
from vlm.families.sizes import Architecture, Text, decoder, section, sizes_of, text_sizes

TEXT = Text(hidden=8192, intermediate=29568, layers=80, heads=64, groups=8, vocabulary=152064, bias=True, flat=True)
QWEN2_2B = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
QWEN2_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064,
}  # fmt: skip
_TOWER = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4}

DEFAULT = "You are a helpful assistant."
"""The system prompt of the published template, where a conversation has none."""


def marked(template: str) -> str | None:
    """TRL's marked variant of Qwen2-VL's template, which may have another default system prompt, or blanks around it:
    TRL itself takes a template for a known one only if no letter differs."""
    from trl.chat_template_utils import qwen2_5_vl_chat_template, qwen2_5_vl_training_chat_template

    before, after = map(re.escape, qwen2_5_vl_chat_template.strip().split(DEFAULT))
    found = re.fullmatch(f"{before}([^'{{}}]*){after}", template.strip())
    return qwen2_5_vl_training_chat_template.replace(DEFAULT, found[1]) if found else None


class Qwen2VL(GridFamily):
    kind, name = "qwen2_vl", "Qwen2-VL"
    model, backbone = "Qwen2VLForConditionalGeneration", "Qwen2VLModel"
    processor = "models.qwen2_vl.processing_qwen2_vl:Qwen2VLProcessor"
    notation = "qwen2_vl"
    vllm = exported = True
    pattern = r"qwen[-_]?2[-_]?vl.*?(?<![\d.])(?P<size>\d+b)(?![a-z0-9])"
    known = {
        "Qwen2-VL-2B": {
            "model_type": kind, "tie_word_embeddings": True, "text_config": QWEN2_2B,
            "vision_config": {**_TOWER, "hidden_size": 1536},
        },
        "Qwen2-VL-7B": {
            "model_type": kind, "tie_word_embeddings": False, "text_config": QWEN2_7B,
            "vision_config": {**_TOWER, "hidden_size": 3584},
        },
    }  # fmt: skip

    def marked(self, template):
        return marked(template)

    def sizes(self, config, where):
        size = sizes_of(section(config, "vision_config", where), f"{where}: vision_config.")
        width = size("embed_dim", 1280)
        return Architecture(
            **text_sizes(config, TEXT, where),
            **self.tower_sizes(config, where),
            width=width,
            vision_intermediate=width * size("mlp_ratio", 4),
            joined=size("hidden_size", 3584),
        )

    def layers(self, sizes):
        yield from blocks(sizes, norm_bias=True, widening=("fc1",), narrowing="fc2")
        yield from merger(sizes, norm_bias=True)
        yield from decoder(sizes)

    def block_bytes(self, sizes, b, attention):
        """LayerNorm keeps input and output (2·2·b·w); MLP with QuickGELU: input, sigmoid, product (3·b·m)."""
        return 4 * b * sizes.width + mixed(sizes, b, attention) + 3 * b * sizes.vision_intermediate

    def merger_bytes(self, sizes, b):
        joined = sizes.width * sizes.merge**2
        return pixel_bytes(sizes, b) + 2 * b * joined + 2 * b * joined
