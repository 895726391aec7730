"""Qwen3-VL (arXiv 2511.21631), dense: deepstack features, 32 × 32 pixels a visual token, interleaved M-RoPE."""

from __future__ import annotations

from collections.abc import Iterator

from vlm.families.grids import GridFamily, blocks, mixed, pixel_bytes
from vlm.families.sizes import Architecture, Layer, Text, decoder, linear, section, sizes_of, text_sizes

TEXT = Text(
    hidden=4096, intermediate=22016, layers=32, heads=32, groups=32, vocabulary=151936, head=128, sized=True,
    stated=True, normed=True,
)  # fmt: skip
SMALL = {
    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16,
    "deepstack_visual_indexes": [5, 11, 17],
}  # fmt: skip
LARGE = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
    "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip


def text(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    }  # fmt: skip


class Qwen3VL(GridFamily):
    kind, name = "qwen3_vl", "Qwen3-VL"
    model, backbone = "Qwen3VLForConditionalGeneration", "Qwen3VLModel"
    processor = "models.qwen3_vl.processing_qwen3_vl:Qwen3VLProcessor"
    video_processor = "Qwen3VLVideoProcessor"
    positions = "interleaved M-RoPE"
    mergers = ("visual.merger", "visual.deepstack_merger_list")
    notation = "qwen3_vl"
    vllm = True
    patch = 16
    decoder = TEXT
    pattern = r"qwen[-_]?3[-_]?vl.*?(?<![\d.a])(?P<size>\d+b)(?![a-z0-9])(?!-a\d)"
    known = {
        "Qwen3-VL-2B": {
            "model_type": kind, "tie_word_embeddings": True, "text_config": text(2048, 6144, 28, 16),
            "vision_config": {**SMALL, "out_hidden_size": 2048},
        },
        "Qwen3-VL-4B": {
            "model_type": kind, "tie_word_embeddings": True, "text_config": text(2560, 9728, 36, 32),
            "vision_config": {**SMALL, "out_hidden_size": 2560},
        },
        "Qwen3-VL-8B": {
            "model_type": kind, "tie_word_embeddings": False, "text_config": text(4096, 12288, 36, 32),
            "vision_config": {**LARGE, "out_hidden_size": 4096},
        },
    }  # fmt: skip

    def marked(self, template):
        from trl.chat_template_utils import qwen3_vl_chat_template
        from trl.chat_template_utils import qwen3_vl_training_chat_template as marked

        return marked if template.strip() == qwen3_vl_chat_template.strip() else None

    def sizes(self, config, where):
        vision = section(config, "vision_config", where)
        size = sizes_of(vision, f"{where}: vision_config.")
        return Architecture(
            # whether the head is tied only the top level says
            **text_sizes(config, self.decoder, where) | {"tied": config.get("tie_word_embeddings", False)},
            **self.tower_sizes(config, where, depth=27),
            width=size("hidden_size", 1152),
            vision_intermediate=size("intermediate_size", 4304),
            joined=size("out_hidden_size", 3584),
            more={
                "positions": size("num_position_embeddings", 2304),
                "deepstack": len(vision.get("deepstack_visual_indexes", (8, 16, 24))),
            },
        )

    def layers(self, sizes):
        yield from tower(sizes)
        yield from decoder(sizes)

    def features(self, model, media):
        """Beside the merger's output that of each deepstack merger, which the first layers of the decoder add. Straight
        from the vision tower: `get_image_features` tells pictures apart in the former, and by version in the latter."""
        import torch

        pixels = media["pixel_values"].to(model.visual.dtype)
        found = model.visual(pixels, grid_thw=media["image_grid_thw"], return_dict=True)
        whole = torch.cat([found.pooler_output, *found.deepstack_features], -1)
        return whole.split(self.unit_tokens(media, model.config))

    def hidden(self, model, ids, features, **inputs):
        embedded, places = model.get_input_embeddings()(ids), ids == model.config.image_token_id
        deep = None
        if features is not None:
            first, *deep = features.to(embedded.device, embedded.dtype).split(embedded.shape[-1], -1)
            embedded = embedded.masked_scatter(places.unsqueeze(-1), first)
        return model.language_model(
            inputs_embeds=embedded, visual_pos_masks=places, deepstack_visual_embeds=deep, use_cache=False, **inputs
        ).last_hidden_state

    def block_bytes(self, sizes, b, attention):
        """LayerNorm keeps input and output (2·2·b·w); MLP with GELU: input and output (2·b·m)."""
        return 4 * b * sizes.width + mixed(sizes, b, attention) + 2 * b * sizes.vision_intermediate

    def merger_bytes(self, sizes, b):
        """Of each merger the norm's output and GELU's input and output; of the last one the norm's input, too, which of
        the deepstack ones is that of the next block."""
        return pixel_bytes(sizes, b) + b * sizes.width * sizes.merge**2 * (4 + 3 * sizes.more["deepstack"])


def tower(sizes: Architecture) -> Iterator[Layer]:
    visual, square = "model.visual", sizes.width * sizes.merge**2
    embedding, *rest = blocks(sizes, norm_bias=True, widening=("linear_fc1",), narrowing="linear_fc2")
    yield embedding._replace(bias=True)
    yield Layer(f"{visual}.pos_embed", (sizes.more["positions"], sizes.width))
    yield from rest
    mergers = [("merger", sizes.width)]
    mergers += [(f"deepstack_merger_list.{number}", square) for number in range(sizes.more["deepstack"])]
    for name, normed in mergers:
        yield Layer(f"{visual}.{name}.norm", (normed,), bias=True)
        yield linear(f"{visual}.{name}.linear_fc1", square, square)
        yield linear(f"{visual}.{name}.linear_fc2", sizes.joined, square)
