"""CLIP-score: cosine of image and text in CLIP's space (`vlm.pictures.clip`; Hessel et al. 2021, arXiv 2104.08718).

The baseline that knows no preferences. CLIPScore's factor 2.5 and its cut at 0 are left out: neither changes a ranking,
except that the cut makes ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rewards.score.model.exchange import Exchange, key_of
from stage.guards.halving import in_batches
from vlm.common.errors import DataError
from vlm.pictures.clip import Clip
from vlm.pictures.places import TAG

Text = Literal["answer", "exchange"]


def text_of(exchange: Exchange, text: Text) -> str:
    """What is compared with the image: the last answer, or all turns in a row."""
    if text == "answer":
        return exchange.messages[-1]["content"]
    return " ".join(turn["content"].replace(TAG, "") for turn in exchange.messages if turn["content"])


class ClipScorer(Clip):
    """Scores exchanges by CLIP.

    text: "answer" compares the last answer with the image, "exchange" the questions too. Several images: the mean of
    their cosines.
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
        super().__init__(path, "clip.path", revision, dtype, device)
        self.text, self.batch_size = text, batch_size

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        """Cosines in [-1, 1], in order. Raises: DataError for an exchange without a readable image."""
        scored = in_batches(exchanges, self.batch_size, self._batch, "the exchanges (clip.batch_size)")
        return [score for _, score in scored]

    def _batch(self, exchanges: Sequence[Exchange]) -> list[float]:
        for exchange in exchanges:
            if not exchange.images:
                text = exchange.messages[-1]["content"]
                raise DataError(f"CLIP-score compares an image with a text; found no image with {text[:60]!r}")
        images = {key_of(image): image for exchange in exchanges for image in exchange.images}  # each is encoded once
        seen = self.see(list(images.values()))
        read = self.read([text_of(exchange, self.text) for exchange in exchanges])
        place = {key: number for number, key in enumerate(images)}
        rows = [[place[key_of(image)] for image in exchange.images] for exchange in exchanges]
        return [float((seen[row] @ text).mean()) for row, text in zip(rows, read, strict=True)]
