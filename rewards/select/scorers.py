"""Scorers by name, as recipes ask for them: `score`, `clip`, `random`. All have `.score(exchanges) -> list[float]`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.score.model.exchange import Exchange, key_of
from rewards.score.placement import InProcess, Served, options_of
from rewards.score.scorer import Scorer
from rewards.select.clip import ClipScorer
from rewards.select.recipe import ClipSection, ScorerSection
from stage.guards.halving import fitting
from stage.parallel.journal import fingerprint, state_of_checkpoint
from stage.parallel.team import device
from stage.planning import decoding, memory
from stage.planning.decoding import BatchSize
from stage.recipe import config
from vlm.common.console import say
from vlm.common.errors import RecipeError
from vlm.loading import looks_local
from vlm.sections import ModelSection
from vlm.shapes import shape

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RandomScorer:
    """Uniform in [0, 1), by seed and content alone: neither order, batch nor process changes a score."""

    seed: int = 0

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        return [self._one(exchange) for exchange in exchanges]

    def _one(self, exchange: Exchange) -> float:
        digest = hashlib.sha256(json.dumps([self.seed, exchange.messages], sort_keys=True).encode())
        for image in exchange.images:
            digest.update(repr(key_of(image)).encode())
        return int.from_bytes(digest.digest()[:6], "big") / 2**48


MOST = 64
"""Exchanges at a time: as many as curation hands over by default, and best-of-N draws."""
TEXT = 1024
"""Tokens of an exchange's text that `auto` plans with; longer ones are rare, and the batch is halved for them."""


class Fitting(InProcess):
    """A score model that takes as many exchanges at a time as the memory holds, and fewer where it runs out."""

    def __init__(self, path: str, batch_size: BatchSize, share_prefix: bool, **options: Any) -> None:
        super().__init__(path, share_prefix=share_prefix, **options)
        self.stated = batch_size
        self.size: int | None = None

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        """Raises: DataError as `InProcess`; OutOfMemory where one exchange alone does not fit."""
        model = self.load()
        readable = self._readable(exchanges, model)
        if self.size is None:
            self.size = self._auto(model) if self.stated == "auto" else self.stated
        asked = min(self.size, max(1, len(readable)))

        def scores(size: int) -> list[float]:
            return model.score(readable, batch_size=size, share_prefix=self.share_prefix)

        fitted, found = fitting(asked, scores, "the exchanges (scorer.batch_size)")
        if fitted < asked:
            self.size = fitted
        return found

    def _auto(self, model: Any) -> int:
        if model.processor is None:  # `ScoreModel.score` says so
            return 1
        asked = {"path": self.path, "revision": self.options.get("revision")}
        sizes = shape(config.build(asked, ModelSection, where=f"score model {self.path}"))
        visual = model.processor.sight.bounds()[1]
        kind = model.config.text_config._attn_implementation
        setup = memory.Setup(weight_bytes=model.dtype.itemsize, attention=kind)
        size = min(MOST, decoding.Decoding(sizes, setup, TEXT, visual, new_tokens=0).most(decoding.room(weights=0)))
        logger.info("scorer.batch_size: auto takes %d exchanges at a time", size)
        return size


def learned(section: ScorerSection) -> InProcess | Served:
    """The score model of a recipe, which loads at its first score, or the services that hold it."""
    if section.urls:
        return Served(section.urls)
    assert section.path is not None  # the recipe's check says so
    return Fitting(section.path, section.batch_size, section.share_prefix, **options_of(section))


def look(section: ScorerSection) -> None:
    """For a dry run: say whether the checkpoint could be loaded here; services are not asked. Raises: RecipeError where
    it is here and could not."""
    model = learned(section)
    if isinstance(model, InProcess):
        say(model.ready())


def load(name: str, scorer: ScorerSection, clip: ClipSection, seed: int) -> Scorer:
    """The scorer `name`, on this process's device. Raises: RecipeError."""
    if name == "random":
        return RandomScorer(seed)
    if name == "clip":
        assert clip.path is not None
        return ClipScorer(clip.path, clip.revision, clip.text, clip.dtype, device(), clip.batch_size)
    return learned(scorer)


def identity(name: str, scorer: ScorerSection, clip: ClipSection, seed: int) -> str:
    """Changes when scores would: with the checkpoint's content and every setting but the batch size.

    Raises: RecipeError where there is no such checkpoint or service; no weights are read.
    """
    if name == "random":
        return fingerprint(name, seed)
    if name == "clip":
        assert clip.path is not None
        if looks_local(clip.path):  # a hub id is found out when it is loaded
            check_folder(clip.path)
        settings = clip.model_dump(exclude={"path", "batch_size"})
        return fingerprint(name, settings, state_of_checkpoint(clip.path, clip.revision))
    model = learned(scorer)
    model.prepare()
    if isinstance(model, Served):
        return fingerprint(name, model.fingerprint())
    # not the loaded model's own fingerprint: where all is scored already, 16 GB of weights need not be read
    return fingerprint(name, model.options, state_of_checkpoint(model.path, scorer.revision))


def check_folder(path: str) -> None:
    """Raises: RecipeError where a CLIP checkpoint's folder is not there."""
    if not (Path(path).expanduser() / "config.json").is_file():
        raise RecipeError(f"clip.path: no checkpoint in {path}; expected a folder with a config.json, or a hub id")


def note_truncation(scorer: Scorer) -> None:
    """Say how many texts CLIP could not read to their end."""
    if isinstance(scorer, ClipScorer) and scorer.truncated:
        logger.warning(
            "CLIP-score: %d of %d texts were longer than %d tokens and were cut there",
            scorer.truncated,
            scorer.texts,
            scorer.limit,
        )
