"""CLIP (Radford et al. 2021, arXiv 2103.00020): images and texts as vectors whose dot product is a similarity.

Weights are read from safetensors only. Images are preprocessed by Pillow, so that pixels are the same with and without
torchvision. CLIP reads 77 tokens; longer texts are cut there, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlm.common.errors import RecipeError
from vlm.loading import source
from vlm.pictures import images as pictures
from vlm.weights import check_files, damaged

if TYPE_CHECKING:
    from torch import Tensor


class Clip:
    """A CLIP of transformers. `texts` and `truncated` count what was read and what did not fit into `limit` tokens."""

    def __init__(self, path: str, key: str, revision: str | None = None, dtype: str = "auto", device: Any = "cpu"):
        """path: a folder or a hub id. key: the recipe's, for messages. dtype: of the weights; "auto": as stored.

        Raises: RecipeError where there is none, or where it lacks tensors.
        """
        self.device = device
        self.texts = self.truncated = 0
        self.model, self.processor = _load(path, key, revision, dtype)
        self.model.to(device).eval()
        self.limit = self.model.config.text_config.max_position_embeddings

    def see(self, images: Sequence[Any]) -> Tensor:
        """(images, d) float32, of length 1 each. images: opened, or as `vlm.pictures.images.load` takes them."""
        import torch

        # one after another: 64 pictures of 8,000² are 16 GB, what CLIP sees of them is not
        opened = (pictures.preview(image) if isinstance(image, str | bytes) else image for image in images)
        read = self.processor.image_processor
        pixels = torch.cat([read([one], return_tensors="pt")["pixel_values"] for one in opened])
        with torch.inference_mode():
            features = self.model.get_image_features(pixel_values=pixels.to(self.device, self.model.dtype))
        return _unit(features.pooler_output)

    def read(self, texts: Sequence[str]) -> Tensor:
        """(texts, d) float32, of length 1 each."""
        import torch

        tokenizer, limit = self.processor.tokenizer, self.limit
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        # a text that fills the window may just have fitted
        full = [text for text, length in zip(texts, tokens["attention_mask"].sum(1), strict=True) if length >= limit]
        lengths = [len(ids) for ids in tokenizer(full, verbose=False)["input_ids"]] if full else []
        with torch.inference_mode():
            features = self.model.get_text_features(**tokens.to(self.device))
        self.texts += len(texts)  # last, for a batch that does not fit the memory is read again
        self.truncated += sum(length > limit for length in lengths)
        return _unit(features.pooler_output)


def _unit(features: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.normalize(features.float(), dim=-1)


def _load(path: str, key: str, revision: str | None, dtype: str) -> tuple[Any, Any]:
    """Model and processor."""
    from transformers import AutoTokenizer, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    place, where = source(path, revision)
    try:
        check_files(place, where, key)
        with damaged(path, key):
            model, info = CLIPModel.from_pretrained(
                place, dtype=dtype, use_safetensors=True, output_loading_info=True, **where
            )
        images = CLIPImageProcessorPil.from_pretrained(place, **where)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **where)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{key}: no CLIP checkpoint can be read from {path} ({str(error).splitlines()[0]}); expected a folder "
            "or a hub id, such as openai/clip-vit-large-patch14"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise RecipeError(
            f"{key}: {path} lacks {len(missing)} tensors of a CLIP model ({', '.join(missing[:3])}); expected one "
            "with a text and a vision tower"
        )
    return model, CLIPProcessor(images, tokenizer)
