"""LLaVA-1.5 (arXiv 2310.03744) in transformers' form: CLIP's tower, a two-layer projector, Vicuna.

transformers' files cut the middle out of a picture that is no square, and its chat template puts all pictures before a
turn's text, leaves plain texts out, and does not end an assistant's turn, so that a model trained with it never stops.
Here pictures are padded to a square, as the model was trained; they stand where the text has them; and a turn ends with
the token that Vicuna ends it with. A conversation begins with Vicuna's first token, which its tokenizer would put there
by itself, but not in TRL's trainer for SFT, to which a template says it all.

A `llava` whose tower is not CLIP's, as Pixtral's, is another model, without a file here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlm.common.console import say
from vlm.families.family import Family
from vlm.families.sight import Square
from vlm.families.sizes import (
    Architecture,
    Layer,
    Sizes,
    Text,
    built_of,
    decoder,
    linear,
    section,
    sizes_of,
    text_sizes,
)

TEXT = Text(
    hidden=4096, intermediate=11008, layers=32, heads=32, groups=None, vocabulary=32000, sized=True, stated=True,
    mlp=True,
)  # fmt: skip
TEMPLATE = (
    "<s>{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}{{ content['text'] }}{% endfor %}{% endif %}"
    "{{ '</s>' }}{% endgeneration %}"
    "{% elif message['content'] is string %}{{ message['content'] + ' ' }}"
    "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<image>\\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] + ' ' }}{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TOWER = {
    "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "num_attention_heads": 16,
    "num_hidden_layers": 24, "patch_size": 14,
}  # fmt: skip
"""CLIP ViT-L/14's, which a config without a section means; one that leaves out keys means CLIP's own defaults."""
RENDERS_FIRST = "{# Render all images first #}"
"""In the template of every checkpoint that transformers' conversion made."""


class Llava(Family):
    kind, name = "llava", "LLaVA-1.5"
    model = "LlavaForConditionalGeneration"
    processor = "models.llava.processing_llava:LlavaProcessor"
    image_processor = "models.llava.image_processing_pil_llava:LlavaImageProcessorPil"
    placeholder = "<image>"
    positions = "1-D"
    towers, mergers = ("vision_tower",), ("multi_modal_projector",)
    notation = "llava"
    vllm = True
    pattern = r"^(?!liuhaotian/).*llava[-_](?:v)?1\.5.*?(?<![\d.])(?P<size>\d+b)(?![a-z0-9])"
    known = {
        "LLaVA-1.5-7B": {
            "model_type": kind,
            "tie_word_embeddings": False,
            "text_config": {"vocab_size": 32064},
            "vision_config": TOWER,
        },
    }

    def built(self, config):
        tower = config.get("vision_config") or {}
        kind = tower.get("model_type") if isinstance(tower, Mapping) else getattr(tower, "model_type", None)
        return kind in (None, "clip_vision_model")

    def sight(self, config, least, most):
        size = of_tower(config, "config.json")
        edge = size("image_size", 224)
        first = config.get("vision_feature_select_strategy", "default") == "full"
        return Square(edge, (edge // size("patch_size", 32)) ** 2 + first)

    def settings(self, stored, sight):
        if stored.get("do_pad") is False:
            say("note: LLaVA-1.5: preprocessor_config.json says do_pad: false: of a picture only the middle is seen")
        return {"do_pad": True, **stored}

    def handed(self, picture, processor):
        """The square that the image processor makes of it, of which vLLM's has nothing to pad, resize or cut."""
        import numpy as np
        from PIL import Image

        made = processor.image_processor([picture], do_rescale=False, do_normalize=False, return_tensors="pt")
        return Image.fromarray(np.moveaxis(made["pixel_values"][0].numpy(), 0, -1).astype(np.uint8))

    def as_it_is(self, sight):
        return {}

    def sent(self, name, weight):
        """transformers has one module less around the tower since version 5."""
        inside = "vision_tower.vision_model."
        return name if inside in name else name.replace("vision_tower.", inside), weight

    def limits(self, processor):
        edge = processor.crop_size["height"]
        return edge**2, edge**2

    def keywords(self, settings, config):
        """As the model's config has it: what processor_config.json says may belong to another."""
        return {
            "patch_size": of_tower(config, "config.json")("patch_size", 32),
            "vision_feature_select_strategy": config.get("vision_feature_select_strategy", "default"),
            "num_additional_image_tokens": 1,
            "image_token": settings.get("image_token", self.placeholder),
        }

    def bases(self, processor):
        class OneSize:
            """The stock processor counts the pixels of each picture, where one may stand for many rows; all have the
            same number."""

            def replace_image_token(self, image_inputs, image_idx, **named):
                return super().replace_image_token(image_inputs, 0, **named)

        return OneSize, processor

    def template(self, template):
        return TEMPLATE if template is not None and RENDERS_FIRST in template else template

    def marked(self, template):
        return TEMPLATE if template == TEMPLATE else None

    def sizes(self, config, where):
        built_of(config, "text_config", ["llama"], where)
        built_of(config, "vision_config", ["clip_vision_model"], where)
        size = of_tower(config, where)
        found = text_sizes(config, TEXT, where)
        edge, patch = size("image_size", 224), size("patch_size", 32)
        layers = config.get("vision_feature_layer", -2)
        layers = [layers] if isinstance(layers, int) else layers
        return Architecture(
            **found,
            kind=self.kind,
            depth=size("num_hidden_layers", 12),
            width=size("hidden_size", 768),
            vision_heads=size("num_attention_heads", 12),
            vision_intermediate=size("intermediate_size", 3072),
            joined=found["hidden"],
            channels=size("num_channels", 3),
            patch=patch,
            merge=1,
            temporal=1,
            unit=(edge // patch) ** 2 + 1,
            used=max(number % (size("num_hidden_layers", 12) + 1) for number in layers),
            more={
                "features": len(layers),
                "bias": config.get("multimodal_projector_bias", True),
            },
        )

    def layers(self, sizes):
        more = sizes.more
        yield from tower(sizes)
        yield linear("model.multi_modal_projector.linear_1", sizes.hidden, sizes.width * more["features"], more["bias"])
        yield linear("model.multi_modal_projector.linear_2", sizes.hidden, sizes.hidden, more["bias"])
        yield from decoder(sizes)

    def block_bytes(self, sizes, b, attention):
        """LayerNorm keeps input and output (2·2·b·w); attention queries, keys, values, output (4·b·w); MLP with
        QuickGELU: input, sigmoid, product (3·b·m)."""
        return 8 * b * sizes.width + 3 * b * sizes.vision_intermediate

    def merger_bytes(self, sizes, b):
        """Pixels; the input of the norm before the blocks; the projector's input, and GELU's input and output."""
        features = sizes.width * sizes.more["features"]
        return b * (sizes.channels * sizes.patch**2 + sizes.width + features + 2 * sizes.hidden)

    def settle(self, model):
        """Layers of the tower behind the one that is looked at are frozen: they are computed and never get a gradient,
        for which DDP would wait."""
        looked = model.config.vision_feature_layer
        if isinstance(looked, int):
            tower = model.model.vision_tower
            count = len(tower.encoder.layers)
            behind = tower.encoder.layers[looked if looked >= 0 else count + 1 + looked :]
            for module in (*behind, tower.post_layernorm):
                module.requires_grad_(False)

    def patches(self, media, config):
        return len(media["pixel_values"]) * (config.vision_config.image_size // config.vision_config.patch_size) ** 2

    def unit_tokens(self, media, config):
        side = config.vision_config.image_size // config.vision_config.patch_size
        return [side**2 + (config.vision_feature_select_strategy == "full")] * len(media["pixel_values"])

    def blank(self, config):
        import torch

        edge = config.vision_config.image_size
        made = {"pixel_values": torch.zeros(1, config.vision_config.num_channels, edge, edge)}
        return made, self.unit_tokens(made, config)[0]


def of_tower(config: Mapping[str, Any], where: str) -> Sizes:
    said = config.get("vision_config") is not None
    return sizes_of(section(config, "vision_config", where) if said else TOWER, f"{where}: vision_config.")


def tower(sizes: Architecture) -> Iterator[Layer]:
    """CLIP's (arXiv 2103.00020)."""
    width, visual = sizes.width, "model.vision_tower"
    yield Layer(f"{visual}.embeddings.class_embedding", (width,), suffix=False)
    yield Layer(f"{visual}.embeddings.patch_embedding", (width, sizes.channels, sizes.patch, sizes.patch))
    yield Layer(f"{visual}.embeddings.position_embedding", (sizes.unit, width))
    yield Layer(f"{visual}.pre_layrnorm", (width,), bias=True)
    for number in range(sizes.depth):
        block = f"{visual}.encoder.layers.{number}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield linear(f"{block}.self_attn.{name}", width, width)
        yield Layer(f"{block}.layer_norm1", (width,), bias=True)
        yield linear(f"{block}.mlp.fc1", sizes.vision_intermediate, width)
        yield linear(f"{block}.mlp.fc2", width, sizes.vision_intermediate)
        yield Layer(f"{block}.layer_norm2", (width,), bias=True)
    yield Layer(f"{visual}.post_layernorm", (width,), bias=True)
