"""Scores of reference answers: computed once, then remembered, in memory and where asked in a file.

A file is JSONL, one `{"model": …, "key": …, "score": …}` per line, that the processes of a machine may share: lines are
appended whole under a lock, the file is read on when something is missing, and a line cut short by a crash is passed
over. It may outlive the run: scores of another model are passed over, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from rewards.score.model.exchange import Exchange
from vlm.pictures import images as pictures
from vlm.pictures.digests import digest

logger = logging.getLogger(__name__)


class ImageKeys:
    """Digests of pictures by their pixels, so that a path, its bytes and the decoded image are one and the same.

    Each object is digested once in the life of an instance, which keeps it alive: make one per call.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, str]] = {}

    def __call__(self, image: Any) -> str:
        if id(image) not in self._seen:
            picture = image if isinstance(image, Image.Image) else pictures.preview(image)
            self._seen[id(image)] = image, digest(picture.convert("RGB")).hex()
        return self._seen[id(image)][1]


def exchange_key(exchange: Exchange, image_keys: ImageKeys) -> str:
    """Digest of pictures and turns: equal keys, equal scores."""
    parts = [[image_keys(image) for image in exchange.images], list(exchange.messages)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class ReferenceScores:
    """Key → score, for good.

    path: the file to share them through; its folder is made when the first is written. model: gives the score model's
    fingerprint, for the file; asked once, and only where there is a file.
    """

    def __init__(self, path: str | Path | None = None, model: Callable[[], str] | None = None) -> None:
        self.path = Path(path) if path else None
        self._model, self._fingerprint = model, None
        self._scores: dict[str, float] = {}
        self._read_to = 0

    def identify(self) -> None:
        """Ask for the fingerprint now, where there is a file: for a score model that all processes must ask at once."""
        if self.path is not None:
            _ = self.fingerprint

    def find(self, keys: Iterable[str]) -> dict[str, float]:
        """The known ones of `keys`; what another process has written since counts as known."""
        keys = set(keys)
        if self.path is not None and not keys <= self._scores.keys():
            self._read_on()
        return {key: self._scores[key] for key in keys if key in self._scores}

    def add(self, scores: Mapping[str, float]) -> None:
        new = {key: score for key, score in scores.items() if key not in self._scores}
        self._scores |= new
        if self.path is None or not new:
            return
        rows = ({"model": self.fingerprint, "key": key, "score": score} for key, score in new.items())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file closes
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())

    def state_dict(self) -> dict[str, float]:
        return dict(self._scores)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._scores = dict(state)

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = self._model() if self._model else ""
        return self._fingerprint

    def _read_on(self) -> None:
        """Read what was appended since the last time, up to the last whole line."""
        model = self.fingerprint
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                if row["model"] == model:
                    self._scores.setdefault(row["key"], float(row["score"]))
            except (ValueError, KeyError, TypeError):  # cut short by a crash, and continued by the next process
                logger.warning("%s: a line that is no score is passed over: %s", self.path, os.fsdecode(line[:80]))
