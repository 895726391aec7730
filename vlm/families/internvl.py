"""InternVL3 (arXiv 2504.10479) in transformers' form: InternViT on tiles, pixel shuffle, Qwen2.5."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlm.families.family import Family
from vlm.families.sight import Tiles
from vlm.families.sizes import Architecture, Layer, Text, built_of, decoder, linear, section, sizes_of, text_sizes

TEXT = Text(hidden=4096, intermediate=22016, layers=32, heads=32, groups=32, vocabulary=151936, sized=True, bias=True)
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\\n' }}{% elif content['type'] == 'video' %}{{ '<video>\\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\\n' }}{% endif %}"
)
"""As published. Here contents and the token that ends them are one expression for all roles; marked, they are two."""
MARKED = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n'}}{% if message['role'] == 'assistant' %}"
    "{% generation %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{{ content['text'] }}{% endfor %}{% endif %}"
    "{{'<|im_end|>\\n'}}{% endgeneration %}{% else %}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\\n'}}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\\n' }}{% endif %}"
)


def _text(hidden: int, intermediate: int, layers: int, heads: int, groups: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": 151674,
        "tie_word_embeddings": False,
    }  # fmt: skip


_VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
    "image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True,
}  # fmt: skip


_KNOWN = {
    name: {"model_type": "internvl", "text_config": text, "vision_config": _VISION}
    for name, text in {
        "InternVL3-1B": _text(896, 4864, 24, 14, 2),
        "InternVL3-2B": _text(1536, 8960, 28, 12, 2),
        "InternVL3-8B": _text(3584, 18944, 28, 28, 4),
    }.items()
}


def pair(value: Any) -> int:
    """A side that may be written twice, for height and width."""
    return value[0] if isinstance(value, list | tuple) else value


class InternVL(Family):
    """A picture is a number of tiles, each a unit of `pixel_values` (tiles, 3, edge, edge)."""

    kind, name = "internvl", "InternVL3"
    model = "InternVLForConditionalGeneration"
    processor = "models.internvl.processing_internvl:InternVLProcessor"
    image_processor = "models.got_ocr2.image_processing_pil_got_ocr2:GotOcr2ImageProcessorPil"
    video_processor = "InternVLVideoProcessor"
    placeholder, unsayable = "<IMG_CONTEXT>", ("<video>", "<img>", "</img>")
    shown = "<IMG_CONTEXT>\n"
    positions = "1-D"
    towers, mergers = ("vision_tower",), ("multi_modal_projector",)
    built_of = {"vision_config": ("internvl_vision",)}
    notation = "internvl"
    vllm, frame = True, ("<img>", "</img>")
    pattern = r"^(?!opengvlab/(?!.*-hf)).*internvl[-_]?3(?![._]?\d|[-_]5[-_]).*?(?<![\d.])(?P<size>\d+b)(?![a-z0-9])"
    known = _KNOWN

    def sight(self, config, least, most):
        vision = section(config, "vision_config", "config.json")
        edge, patch = pair(vision.get("image_size", 448)), pair(vision.get("patch_size", 14))
        return Tiles(edge, int((edge // patch * config.get("downsample_ratio", 0.5)) ** 2), least, most)

    def settings(self, stored, sight):
        low, high = sight.limits
        return {**stored, "crop_to_patches": True, "min_patches": low, "max_patches": high}

    def handed(self, picture, processor):
        """As it is: tiles and the picture as a whole are both resized from it."""
        return picture

    def as_it_is(self, sight):
        """`use_fast`: by Pillow. (`backend`, as transformers calls it now, vLLM 0.31 hands to its video processor.)"""
        low, high = sight.limits
        return {"crop_to_patches": True, "min_patches": low, "max_patches": high, "use_fast": False}

    def limits(self, processor):
        tile = processor.size["height"] ** 2
        return processor.min_patches * tile, processor.max_patches * tile

    def keywords(self, settings, config):
        """As the model's config has it: what processor_config.json says may belong to another."""
        return {"image_seq_length": self.sight(config, 1, 1).per_tile}

    def bases(self, processor):
        from transformers.processing_utils import ProcessorMixin

        class InOrder:
            """Pictures alone stand in the order of their placeholders: nothing is to be put in order, as the stock
            processor does by cutting `pixel_values`, of which each picture may be there once."""

            unused_input_names = ("num_patches",)
            __call__ = ProcessorMixin.__call__

        return InOrder, processor

    def marked(self, template):
        return MARKED if template.strip().replace("\n", "\\n") == TEMPLATE else None  # files have the line's end itself

    def tied(self, config):
        """The text model's key; transformers' class has one at the top, which says yes where a file leaves it out. It
        looks into the weights, but not under ZeRO-3, where the head would become the embedding without a word."""
        parts = (config, section(config, "text_config", "config.json"))
        return all(part.get("tie_word_embeddings", True) for part in parts)

    def sizes(self, config, where):
        built_of(config, "text_config", ["qwen2"], where)
        vision = dict(section(config, "vision_config", where))
        sides = {name: pair(vision[name]) for name in ("image_size", "patch_size") if name in vision}
        size = sizes_of({**vision, **sides}, f"{where}: vision_config.")
        found = text_sizes(config, TEXT, where)
        ratio = config.get("downsample_ratio", 0.5)
        edge, patch = size("image_size", 448), size("patch_size", 14)
        return Architecture(
            **{**found, "tied": self.tied(config)},
            kind=self.kind,
            depth=size("num_hidden_layers", 24),
            width=size("hidden_size", 1024),
            vision_heads=size("num_attention_heads", 16),
            vision_intermediate=size("intermediate_size", 4096),
            joined=found["hidden"],
            channels=size("num_channels", 3),
            patch=patch,
            merge=round(1 / ratio),
            temporal=1,
            unit=(edge // patch) ** 2 + 1,
            used=config.get("vision_feature_layer", -1) % (size("num_hidden_layers", 24) + 1),
            more={
                "bias": vision.get("attention_bias", False),
                "normed": vision.get("use_qk_norm", False),
                "norm_bias": vision.get("norm_type", "layer_norm") == "layer_norm",
            },
        )

    def layers(self, sizes):
        square = sizes.width * sizes.merge**2
        yield from tower(sizes)
        yield Layer("model.multi_modal_projector.layer_norm", (square,), bias=True)
        yield linear("model.multi_modal_projector.linear_1", sizes.hidden, square)
        yield linear("model.multi_modal_projector.linear_2", sizes.hidden, sizes.hidden)
        yield from decoder(sizes)

    def score_bytes(self, b):
        """The softmax is computed in the model's own type."""
        return b

    def block_bytes(self, sizes, b, attention):
        """LayerNorm keeps input and output (2·2·b·w), RMSNorm as in the decoder; attention queries, keys, values,
        output (4·b·w); MLP with GELU: input and output (2·b·m); both halves before their scale (2·b·w)."""
        norms = 4 * b if sizes.more["norm_bias"] else 2 * (4 + 2 * b)
        norms += 2 * (4 + b) if sizes.more["normed"] else 0
        return (norms + 6 * b) * sizes.width + 2 * b * sizes.vision_intermediate

    def merger_bytes(self, sizes, b):
        """Pixels; the norm's input and output; GELU's input and output."""
        square = sizes.width * sizes.merge**2
        return b * sizes.channels * sizes.patch**2 * sizes.merge**2 + 2 * b * square + 2 * b * sizes.hidden

    def joined(self, config):
        return round(1 / config.downsample_ratio) ** 2

    def patches(self, media, config):
        vision = config.vision_config
        return len(media["pixel_values"]) * (pair(vision.image_size) // pair(vision.patch_size)) ** 2

    def unit_tokens(self, media, config):
        return [self.patches(media, config) // len(media["pixel_values"]) // self.joined(config)] * len(
            media["pixel_values"]
        )

    def blank(self, config):
        import torch

        edge = pair(config.vision_config.image_size)
        made = {"pixel_values": torch.zeros(1, config.vision_config.num_channels, edge, edge)}
        return made, self.unit_tokens(made, config)[0]


def tower(sizes: Architecture) -> Iterator[Layer]:
    """InternViT's. Its last norm stands only where tokens are not pooled, which is never."""
    width, visual = sizes.width, "model.vision_tower"
    yield Layer(f"{visual}.embeddings.cls_token", (1, 1, width), suffix=False)
    yield Layer(f"{visual}.embeddings.position_embeddings", (1, sizes.unit, width), suffix=False)
    projection = (width, sizes.channels, sizes.patch, sizes.patch)
    yield Layer(f"{visual}.embeddings.patch_embeddings.projection", projection, bias=True)
    for number in range(sizes.depth):
        block = f"{visual}.encoder.layer.{number}"
        yield Layer(f"{block}.lambda_1", (width,), suffix=False)
        yield Layer(f"{block}.lambda_2", (width,), suffix=False)
        for name in ("q_proj", "k_proj", "v_proj"):
            yield linear(f"{block}.attention.{name}", width, width, sizes.more["bias"])
        yield linear(f"{block}.attention.projection_layer", width, width)
        for name in ("q_norm", "k_norm") if sizes.more["normed"] else ():
            yield Layer(f"{block}.attention.{name}", (width,))
        yield linear(f"{block}.mlp.fc1", sizes.vision_intermediate, width)
        yield linear(f"{block}.mlp.fc2", width, sizes.vision_intermediate)
        yield Layer(f"{block}.layernorm_before", (width,), sizes.more["norm_bias"])
        yield Layer(f"{block}.layernorm_after", (width,), sizes.more["norm_bias"])
