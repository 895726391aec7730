"""Images and texts as vectors of length 1, whose dot product is a similarity: by CLIP, or without any weights.

    images   perceptual hash (`vlm.pictures.perceptual`): scaling, compression, a change of brightness hardly change it
    texts    TF-IDF of hashed character n-grams: spelling, punctuation and a few other words change it little

A vector of zeros means "nothing to compare" (a featureless image, a blank text); it is similar to nothing, itself
included, so such rows are kept.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from vlm.answers import normalise
from vlm.common.errors import RecipeError
from vlm.pictures.images import load
from vlm.pictures.perceptual import BITS, perceptual_hash

NGRAMS = (3, 4)
BUCKETS = 2**18
CLIP_BATCH = 64


def perceptual_hashes(images: Iterable[str | bytes]) -> np.ndarray:
    """(n, BITS) float32: the bits as ±1 over the root of their number.

    The cosine of two hashes is 1 − 2·(share of bits that differ): 0.9 lets 12 of 255 bits differ.
    """
    return np.stack([_signs(image) for image in images])


def _signs(image: str | bytes) -> np.ndarray:
    bits = perceptual_hash(load(image))
    if bits is None:
        return np.zeros(BITS, np.float32)
    return np.where(bits, 1, -1).astype(np.float32) / np.sqrt(np.float32(BITS))


def ngram_vectors(texts: Sequence[str]) -> sparse.csr_array:
    """(n, BUCKETS) float32, rows of length 1: counts of character 3- and 4-grams, weighted by ln((1+n)/(1+df)) + 1.

    The weighting is scikit-learn's smoothed one. Texts are compared in the form of `vlm.answers.normalise`.
    """
    counts = [_ngrams(normalise(text)) for text in texts]
    ends = np.cumsum([0, *map(len, counts)])
    columns = np.fromiter((column for row in counts for column in row), np.int64, ends[-1])
    values = np.fromiter((count for row in counts for count in row.values()), np.float32, ends[-1])
    table = sparse.csr_array((values, columns, ends), shape=(len(texts), BUCKETS))
    frequency = np.bincount(columns, minlength=BUCKETS)  # each column stands at most once in a row
    table.data *= (np.log((1 + len(texts)) / (1 + frequency)) + 1).astype(np.float32)[table.indices]
    lengths = np.sqrt(np.add.reduceat(np.append(table.data**2, 0), ends[:-1])) if len(texts) else np.zeros(0)
    lengths[ends[:-1] == ends[1:]] = 1  # reduceat gives an empty row its neighbour's first value
    table.data /= np.repeat(lengths, np.diff(ends))
    return table


def _ngrams(text: str) -> Counter[int]:
    """Bucket → count. A text shorter than an n-gram is one itself."""
    if not text:
        return Counter()
    grams = (text[start : start + n] for n in NGRAMS for start in range(max(1, len(text) - n + 1)))
    # crc32, for Python's own hash of a text differs between processes
    return Counter(zlib.crc32(gram.encode()) % BUCKETS for gram in grams)


class Clip:
    """A CLIP of transformers, from a folder or the hub, as (n, d) float32 vectors of length 1."""

    def __init__(self, path: str):
        import torch
        from transformers import AutoTokenizer, CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        from vlm.loading import source
        from vlm.weights import check_files, damaged

        name, keywords = source(path)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            check_files(name, keywords, "dedup")
            with damaged(path, "dedup"):
                model, found = CLIPModel.from_pretrained(
                    name, use_safetensors=True, output_loading_info=True, **keywords
                )
            self.processor = CLIPImageProcessorPil.from_pretrained(name, **keywords)  # needs no torchvision
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **keywords)
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"dedup: no CLIP can be read from {path} ({str(error).splitlines()[0]}); expected a folder or a hub id"
            ) from error
        if found["missing_keys"]:
            raise RecipeError(f"dedup: {path} lacks tensors of a CLIP, such as {sorted(found['missing_keys'])[0]}")
        self.model = model.to(self.device).eval()

    def images(self, images: Sequence[str | bytes]) -> np.ndarray:
        def embed(batch: Sequence[str | bytes]) -> Any:
            inputs = self.processor(images=[load(image) for image in batch], return_tensors="pt")
            return self.model.get_image_features(**inputs.to(self.device))

        return self._embedded(images, embed)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """CLIP reads the first 77 tokens of a text; what comes after does not count."""

        def embed(batch: Sequence[str]) -> Any:
            longest = self.model.config.text_config.max_position_embeddings
            inputs = self.tokenizer(list(batch), padding=True, truncation=True, max_length=longest, return_tensors="pt")
            return self.model.get_text_features(**inputs.to(self.device))

        return self._embedded(texts, embed)

    def _embedded(self, items: Sequence[Any], embed: Any) -> np.ndarray:
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(items), CLIP_BATCH):
                features = embed(items[start : start + CLIP_BATCH]).pooler_output.float()  # (batch, d)
                parts.append(torch.nn.functional.normalize(features, dim=-1).cpu().numpy())
        return np.concatenate(parts)
