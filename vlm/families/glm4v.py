"""GLM-4.1V (arXiv 2507.01006).

Its chat template prints Python's lists where an assistant's or system's contents come in parts, and does not end an
assistant's turn. GLM ends one by naming who speaks next, and stops there (`eos_token_id` in generation_config.json).
Here that token belongs to the turn that it ends, as in TRL's template of GLM-4 MoE; the last one ends with `<|user|>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vlm.families.grids import GridFamily, blocks, mixed, pixel_bytes
from vlm.families.sight import Grid
from vlm.families.sizes import Architecture, Layer, Text, linear, section, sizes_of, text_sizes

TEXT = Text(hidden=4096, intermediate=13696, layers=40, heads=32, groups=2, vocabulary=151552, bias=True)
TEMPLATE = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if part['type'] == 'image' %}{{ '<|begin_of_image|><|image|><|end_of_image|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endmacro %}"
    "[gMASK]<sop>{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|assistant|>\\n' }}"
    "{% generation %}{{ said(message['content']) }}"
    "{{ '<|system|>' if not loop.last and loop.nextitem['role'] == 'system' else '<|user|>' }}{% endgeneration %}"
    "{% else %}{% if loop.first or loop.previtem['role'] != 'assistant' %}"
    "{{ '<|' + message['role'] + '|>' }}{% endif %}"
    "{{ '\\n' + said(message['content']) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
PUBLISHED = "[gMASK]<sop>", "<|assistant|>{{ msg.metadata }}"
"""In the template of every checkpoint."""


@dataclass(frozen=True)
class Enlarged(Grid):
    """GLM first enlarges a picture with a side below a visual token's."""

    def within(self, least: int, most: int) -> Enlarged:
        return Enlarged(self.side, least, most)

    def seen(self, size):
        if min(size) < self.side:
            scale = self.side / min(size)
            size = (int(size[0] * scale), int(size[1] * scale))
        return super().seen(size)


class Glm4v(GridFamily):
    kind, name = "glm4v", "GLM-4.1V"
    model = "Glm4vForConditionalGeneration"
    processor = "models.glm4v.processing_glm4v:Glm4vProcessor"
    image_processor = "models.glm4v.image_processing_pil_glm4v:Glm4vImageProcessorPil"
    video_processor = "Glm4vVideoProcessor"
    placeholder, unsayable = "<|image|>", ("<|video|>",)
    shown = "<|begin_of_image|><|image|><|end_of_image|>"
    linears = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
    notation = "glm4v"
    reordered = True  # rotary positions cover half a head, and both halves are put together again
    vllm = True
    pattern = r"glm[-_]?4[.v_-]?1v.*?(?<![\d.])(?P<size>\d+b)(?![a-z0-9])"
    known = {
        "GLM-4.1V-9B": {
            "model_type": kind, "tie_word_embeddings": False,
            "text_config": {
                "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 32,
                "num_key_value_heads": 2, "vocab_size": 151552,
            },
            "vision_config": {
                "depth": 24, "hidden_size": 1536, "intermediate_size": 13696, "num_heads": 12, "out_hidden_size": 4096,
            },
        },
    }  # fmt: skip

    def template(self, template):
        return TEMPLATE if template is not None and all(part in template for part in PUBLISHED) else template

    def marked(self, template):
        return TEMPLATE if template == TEMPLATE else None

    def sizes(self, config, where):
        vision = section(config, "vision_config", where)
        size = sizes_of(vision, f"{where}: vision_config.")
        return Architecture(
            **text_sizes(config, TEXT, where),
            **self.tower_sizes(config, where, depth=24, heads=12),
            width=size("hidden_size", 1536),
            vision_intermediate=size("out_hidden_size", 4096),
            joined=size("out_hidden_size", 4096),
            more={
                "positions": (size("image_size", 336) // size("patch_size", 14)) ** 2,
                "merger": size("intermediate_size", 13696),
                "bias": vision.get("attention_bias", False),
            },
        )

    def sight(self, config, least, most):
        found = super().sight(config, least, most)
        return Enlarged(found.side, least, most)

    def settings(self, stored, sight):
        """The processor counts a picture as two frames, whose pixels together lie within its limits."""
        return {**stored, "size": {"shortest_edge": 2 * sight.least, "longest_edge": 2 * sight.most}}

    def as_it_is(self, sight):
        return {"size": {"shortest_edge": 2 * sight.side**2, "longest_edge": 2 * sight.reached()}}

    def limits(self, processor):
        return processor.size["shortest_edge"] // 2, processor.size["longest_edge"] // 2

    def layers(self, sizes):
        yield from tower(sizes)
        yield from decoder(sizes)

    def norm_bytes(self, sizes, b):
        """Two norms before linears, as elsewhere, and two behind, whose output is only added."""
        return (2 * (4 + 2 * b) + 2 * (4 + b)) * sizes.hidden

    def block_bytes(self, sizes, b, attention):
        """RMSNorm and gated MLP, as Qwen2.5-VL's."""
        return 2 * (4 + 2 * b) * sizes.width + mixed(sizes, b, attention) + 4 * b * sizes.vision_intermediate

    def merger_bytes(self, sizes, b):
        """Pixels; four patches in the norms after the first convolution and after the last block; LayerNorm's input,
        GELU's, and GELU's output; the gated MLP."""
        return (
            pixel_bytes(sizes, b)
            + (2 * (4 + b) + b) * sizes.width * sizes.merge**2
            + 4 * b * sizes.joined
            + 4 * b * sizes.more["merger"]
        )


def tower(sizes: Architecture) -> Iterator[Layer]:
    visual, width, wide = "model.visual", sizes.width, sizes.joined
    yield Layer(f"{visual}.embeddings.position_embedding", (sizes.more["positions"], width))
    first, *rest = blocks(sizes, norm_bias=False, widening=("gate_proj", "up_proj"), narrowing="down_proj")
    yield first._replace(bias=True)
    for layer in rest:
        yield layer._replace(bias=sizes.more["bias"] and layer.name.endswith(".qkv"))
    yield linear(f"{visual}.merger.proj", wide, wide, bias=False)
    yield Layer(f"{visual}.merger.post_projection_norm", (wide,), bias=True)
    yield linear(f"{visual}.merger.gate_proj", sizes.more["merger"], wide, bias=False)
    yield linear(f"{visual}.merger.up_proj", sizes.more["merger"], wide, bias=False)
    yield linear(f"{visual}.merger.down_proj", wide, sizes.more["merger"], bias=False)
    yield Layer(f"{visual}.post_conv_layernorm", (width,))
    yield Layer(f"{visual}.downsample", (wide, width, sizes.merge, sizes.merge), bias=True)
    yield Layer(f"{visual}.post_layernorm", (width,))


def decoder(sizes: Architecture) -> Iterator[Layer]:
    """Gate and up projection are one; norms stand behind attention and MLP, too."""
    hidden, text = sizes.hidden, "model.language_model"
    yield Layer(f"{text}.embed_tokens", (sizes.vocabulary, hidden))
    for number in range(sizes.layers):
        layer = f"{text}.layers.{number}"
        yield linear(f"{layer}.self_attn.q_proj", sizes.query, hidden)
        yield linear(f"{layer}.self_attn.k_proj", sizes.key_value, hidden)
        yield linear(f"{layer}.self_attn.v_proj", sizes.key_value, hidden)
        yield linear(f"{layer}.self_attn.o_proj", hidden, sizes.query, bias=False)
        yield linear(f"{layer}.mlp.gate_up_proj", 2 * sizes.intermediate, hidden, bias=False)
        yield linear(f"{layer}.mlp.down_proj", hidden, sizes.intermediate, bias=False)
        for name in ("input", "post_attention", "post_self_attn", "post_mlp"):
            yield Layer(f"{layer}.{name}_layernorm", (hidden,))
    yield Layer(f"{text}.norm", (hidden,))
    yield linear("lm_head", sizes.vocabulary, hidden, bias=False)
