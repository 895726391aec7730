"""CLIP-score: cosine of image and text in CLIP's space (Radford et al. 2021; Hessel et al. 2021, arXiv 2104.08718).

The baseline that knows no preferences. CLIPScore's factor 2.5 and its cut at 0 are left out: neither changes a ranking,
except that the cut makes ties. CLIP reads 77 tokens; longer texts are cut there, and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

from rewards.score.model.exchange import Exchange, key_of
from vlm.common.errors import DataError, RecipeError
from vlm.loading import source
from vlm.pictures import images as pictures
from vlm.weights import check_files, damaged

logger = logging.getLogger(__name__)

Text = Literal["answer", "exchange"]


def text_of(exchange: Exchange, text: Text) -> str:
    """What is compared with the image: the last answer, or all turns in a row."""
    if text == "answer":
        return exchange.messages[-1]["content"]
    return " ".join(turn["content"] for turn in exchange.messages if turn["content"])


class ClipScorer:
    """Scores exchanges by CLIP. `texts` and `truncated` count what was read and what did not fit.

    path: a CLIP checkpoint, a folder or a hub id. text: "answer" compares the last answer with the image, "exchange"
    the questions too. Several images: the mean of their cosines.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        text: Text = "answer",
        dtype: str = "float32",
        device: Any = "cpu",
        batch_size: int = 64,
    ):
        self.text, self.batch_size, self.device = text, batch_size, device
        self.texts = self.truncated = 0
        self.model, self.processor = _load(path, revision, dtype)
        self.model.to(device).eval()
        self.limit = self.model.config.text_config.max_position_embeddings

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        """Cosines in [-1, 1], in order. Raises: DataError for an exchange without a readable image."""
        scores: list[float] = []
        for start in range(0, len(exchanges), self.batch_size):
            scores += self._batch(exchanges[start : start + self.batch_size])
        return scores

    def _batch(self, exchanges: Sequence[Exchange]) -> list[float]:
        import torch

        for exchange in exchanges:
            if not exchange.images:
                text = exchange.messages[-1]["content"]
                raise DataError(f"CLIP-score compares an image with a text; found no image beside {text[:60]!r}")
        images = {key_of(image): image for exchange in exchanges for image in exchange.images}  # each is encoded once
        with torch.inference_mode():
            seen = self._see(list(images.values()))
            read = self._read([text_of(exchange, self.text) for exchange in exchanges])
        place = {key: number for number, key in enumerate(images)}
        rows = [[place[key_of(image)] for image in exchange.images] for exchange in exchanges]
        return [float((seen[row] @ text).mean()) for row, text in zip(rows, read, strict=True)]

    def _see(self, images: list[Any]):
        """(images, d), of length 1 each."""
        opened = [pictures.load(image) if isinstance(image, str | bytes) else image for image in images]
        pixels = self.processor.image_processor(opened, return_tensors="pt")["pixel_values"]
        features = self.model.get_image_features(pixel_values=pixels.to(self.device, self.model.dtype))
        return _unit(features.pooler_output)

    def _read(self, texts: list[str]):
        """(texts, d), of length 1 each."""
        tokenizer = self.processor.tokenizer
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=self.limit, return_tensors="pt")
        # a text that fills the window may just have fitted
        full = [
            text for text, length in zip(texts, tokens["attention_mask"].sum(1), strict=True) if length >= self.limit
        ]
        lengths = [len(ids) for ids in tokenizer(full, verbose=False)["input_ids"]] if full else []
        self.texts += len(texts)
        self.truncated += sum(length > self.limit for length in lengths)
        features = self.model.get_text_features(**tokens.to(self.device))
        return _unit(features.pooler_output)


def _unit(features):
    """Rows of length 1, in float32."""
    return features.float() / features.float().norm(dim=-1, keepdim=True)


def _load(path: str, revision: str | None, dtype: str):
    """Model and processor; the same pixels with and without torchvision, by Pillow."""
    import torch
    from transformers import AutoTokenizer, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    place, where = source(path, revision)
    options = {"dtype": getattr(torch, dtype), "use_safetensors": True, "output_loading_info": True}
    try:
        check_files(place, where, "clip.path")
        with damaged(path, "clip.path"):
            model, info = CLIPModel.from_pretrained(place, **options, **where)
        images = CLIPImageProcessorPil.from_pretrained(place, **where)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **where)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"clip.path: no CLIP checkpoint can be read from {path} ({str(error).splitlines()[0]}); expected a folder "
            "or a hub id, such as openai/clip-vit-large-patch14"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise RecipeError(
            f"clip.path: {path} lacks {len(missing)} tensors of a CLIP model ({', '.join(missing[:3])}); expected one "
            "with a text and a vision tower"
        )
    return model, CLIPProcessor(images, tokenizer)
