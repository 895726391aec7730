"""What Qwen's families have in common: pictures of any size as a grid of patches, positions on three axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlm.families.family import Family
from vlm.families.sight import Grid
from vlm.families.sizes import Architecture, Layer, linear, section, sizes_of

if TYPE_CHECKING:
    from torch import Tensor, nn

BICUBIC = 3
"""Of `PIL.Image.Resampling`, which is not imported for it."""


class GridFamily(Family):
    """`pixel_values` (patches, channels · patch volume), `image_grid_thw` (pictures, 3) in patches."""

    image_processor = "models.qwen2_vl.image_processing_pil_qwen2_vl:Qwen2VLImageProcessorPil"
    video_processor = "Qwen2VLVideoProcessor"
    placeholder = "<|image_pad|>"
    shown = "<|vision_start|><|image_pad|><|vision_end|>"
    unsayable = ("<|video_pad|>",)
    depth = True
    patch = 14
    "Default of the config's `patch_size`."

    def sight(self, config, least, most):
        vision = section(config, "vision_config", "config.json")
        size = sizes_of(vision, "config.json: vision_config.")
        return Grid(size("patch_size", self.patch) * size("spatial_merge_size", 2), least, most)

    def settings(self, stored, sight):
        kept = {key: value for key, value in stored.items() if key not in ("min_pixels", "max_pixels")}
        return {**kept, "size": {"shortest_edge": sight.least, "longest_edge": sight.most}}

    def limits(self, processor):
        return processor.size["shortest_edge"], processor.size["longest_edge"]

    def handed(self, picture, processor):
        """At the size at which it is seen: vLLM's processor would resize it with torchvision."""
        wanted = processor.sight.plain.seen(picture.size)
        return picture if wanted == picture.size else picture.resize(wanted, BICUBIC)

    def as_it_is(self, sight):
        return {"min_pixels": sight.side**2, "max_pixels": sight.reached()}

    def unit_tokens(self, media, config):
        return (media["image_grid_thw"].prod(-1) // config.vision_config.spatial_merge_size**2).tolist()

    def joined(self, config):
        return config.vision_config.spatial_merge_size**2

    def patches(self, media, config):
        return int(media["image_grid_thw"].prod(-1).sum())

    def blank(self, config):
        import torch

        vision = config.vision_config
        merge, patch = vision.spatial_merge_size, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        grid = torch.tensor([[1, merge, merge]])
        return {"pixel_values": torch.zeros(merge**2, patch), "image_grid_thw": grid}, 1

    def features(self, model: nn.Module, media: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return model.get_image_features(**media, return_dict=True).pooler_output

    def hidden(self, model: nn.Module, ids: Tensor, features: Tensor | None, **inputs: Any) -> Tensor:
        """The visual tokens replace the placeholders here: transformers before 5.18 swallows `mm_encoder_outputs`, and
        would compute without the pictures."""
        embedded = model.get_input_embeddings()(ids)
        if features is not None:
            places = ids == model.config.image_token_id
            embedded = embedded.masked_scatter(places.unsqueeze(-1), features.to(embedded.device, embedded.dtype))
        return model(inputs_embeds=embedded, use_cache=False, **inputs).last_hidden_state

    def tower_sizes(self, config: Mapping[str, Any], where: str, depth: int = 32, heads: int = 16) -> dict[str, Any]:
        """The fields of `Architecture` that such a vision tower's config says, but for its widths. depth, heads: where
        it says none."""
        vision = section(config, "vision_config", where)
        size = sizes_of(vision, f"{where}: vision_config.")
        return {
            "kind": self.kind,
            "depth": size("num_hidden_layers" if "num_hidden_layers" in vision else "depth", depth),
            "vision_heads": size("num_attention_heads" if "num_attention_heads" in vision else "num_heads", heads),
            "channels": size("in_channels", 3),
            "patch": size("patch_size", self.patch),
            "merge": size("spatial_merge_size", 2),
            "temporal": size("temporal_patch_size", 2),
        }


def merger(sizes: Architecture, norm_bias: bool) -> Iterator[Layer]:
    """Qwen2-VL's projection of 2 × 2 patches."""
    square = sizes.width * sizes.merge**2
    yield Layer("model.visual.merger.ln_q", (sizes.width,), norm_bias)
    yield linear("model.visual.merger.mlp.0", square, square)
    yield linear("model.visual.merger.mlp.2", sizes.joined, square)


def blocks(sizes: Architecture, norm_bias: bool, widening: Sequence[str], narrowing: str) -> Iterator[Layer]:
    """The patch embedding without bias, and transformer blocks. widening, narrowing: linears of a block's MLP."""
    width, wide, tower = sizes.width, sizes.vision_intermediate, "model.visual"
    yield Layer(f"{tower}.patch_embed.proj", (width, sizes.channels, sizes.temporal, sizes.patch, sizes.patch))
    for number in range(sizes.depth):
        block = f"{tower}.blocks.{number}"
        yield Layer(f"{block}.norm1", (width,), norm_bias)
        yield Layer(f"{block}.norm2", (width,), norm_bias)
        yield linear(f"{block}.attn.qkv", 3 * width, width)
        yield linear(f"{block}.attn.proj", width, width)
        for name in widening:
            yield linear(f"{block}.mlp.{name}", wide, width)
        yield linear(f"{block}.mlp.{narrowing}", width, wide)


def mixed(sizes: Architecture, b: int, attention: str) -> int:
    """Bytes that one patch leaves in attention, whose queries, keys and values are one linear's: rotated queries and
    keys, all three where the values are a part of them, the output; under sdpa, which has each picture's by itself, the
    output of all once more."""
    return b * sizes.width * (7 if attention == "sdpa" else 6)


def pixel_bytes(sizes: Architecture, b: int) -> int:
    """Bytes of the pixels behind a visual token."""
    return b * sizes.channels * sizes.temporal * sizes.patch**2 * sizes.merge**2
