"""Qwen2.5-VL (arXiv 2502.13923)."""

from __future__ import annotations

from vlm.families.grids import GridFamily, blocks, merger, mixed, pixel_bytes
from vlm.families.qwen2_vl import QWEN2_7B, TEXT, marked
from vlm.families.sizes import Architecture, decoder, section, sizes_of, text_sizes

QWEN2_5_3B = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
_TOWER = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}


class Qwen25VL(GridFamily):
    kind, name = "qwen2_5_vl", "Qwen2.5-VL"
    model, backbone = "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel"
    processor = "models.qwen2_5_vl.processing_qwen2_5_vl:Qwen2_5_VLProcessor"
    notation = "qwen2_5_vl"
    vllm = exported = True
    pattern = r"qwen[-_]?(?:2\.5|2_5|25)[-_]?vl.*?(?<![\d.])(?P<size>\d+b)(?![a-z0-9])"
    known = {
        "Qwen2.5-VL-3B": {
            "model_type": kind, "tie_word_embeddings": True, "text_config": QWEN2_5_3B,
            "vision_config": {**_TOWER, "out_hidden_size": 2048},
        },
        "Qwen2.5-VL-7B": {
            "model_type": kind, "tie_word_embeddings": False, "text_config": QWEN2_7B,
            "vision_config": {**_TOWER, "out_hidden_size": 3584},
        },
    }  # fmt: skip

    def marked(self, template):
        return marked(template)

    def sizes(self, config, where):
        size = sizes_of(section(config, "vision_config", where), f"{where}: vision_config.")
        return Architecture(
            **text_sizes(config, TEXT, where),
            **self.tower_sizes(config, where),
            width=size("hidden_size", 3584),
            vision_intermediate=size("intermediate_size", 3420),
            joined=size("out_hidden_size", 3584),
        )

    def layers(self, sizes):
        yield from blocks(sizes, norm_bias=False, widening=("gate_proj", "up_proj"), narrowing="down_proj")
        yield from merger(sizes, norm_bias=False)
        yield from decoder(sizes)

    def block_bytes(self, sizes, b, attention):
        """RMSNorm and gated MLP as in the decoder: float32 input, normalised and scaled value (2·(4 + 2b)·w); gate,
        silu(gate), up, product (4·b·m)."""
        return 2 * (4 + 2 * b) * sizes.width + mixed(sizes, b, attention) + 4 * b * sizes.vision_intermediate

    def merger_bytes(self, sizes, b):
        joined = sizes.width * sizes.merge**2
        return pixel_bytes(sizes, b) + (4 + 2 * b) * joined + 2 * b * joined
