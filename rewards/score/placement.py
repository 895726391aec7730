"""Where the score model runs: in each training process, split over them (`rewards.score.sharded`), or behind
`launch/serve.py`.

All are built at once and do nothing until asked for a score: a dry run loads no weights and calls no service.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from rewards.registry import nearest
from rewards.score.model.exchange import Exchange
from samples.fingerprints import of_checkpoint
from vlm.common.errors import RecipeError
from vlm.loading import raw_config


class Loaded:
    """A score model that the run itself loads from a checkpoint, at the first call."""

    def __init__(self, path: str, batch_size: int = 16, share_prefix: bool = True, **options: Any) -> None:
        """batch_size, share_prefix: of `ScoreModel.score`. options: of its `from_pretrained`; those that are None keep
        its defaults."""
        self.path, self.batch_size, self.share_prefix = path, batch_size, share_prefix
        self.options = {name: value for name, value in options.items() if value is not None}

    def prepare(self) -> None:
        """Raises RecipeError where there is no such checkpoint; reads no weights."""
        raw_config(self.path, self.options.get("revision"))

    def origin(self) -> dict[str, Any]:
        """What tells its content apart, for a run's record.json; reads a little of each weight."""
        return {"checkpoint": of_checkpoint(self.path, self.options.get("revision"))}


def options_of(section: Any) -> dict[str, Any]:
    """Options of `ScoreModel.from_pretrained` by a recipe's section on a score model; None keeps its default."""
    images = section.images
    return {
        "positions": section.positions,
        "dtype": section.dtype,
        "attention": section.attention,
        "revision": section.revision,
        "min_pixels": images and images.min_pixels,
        "max_pixels": images and images.max_pixels,
    }


class InProcess(Loaded):
    """Whole, in this process; every process of a run has its own."""

    _model: Any = None

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        return self.load().score(exchanges, batch_size=self.batch_size, share_prefix=self.share_prefix)

    def fingerprint(self) -> str:
        """Of the loaded model: the one that a service with the same model shows."""
        from rewards.score.model.fingerprint import fingerprint

        return fingerprint(self.load())

    def load(self) -> Any:
        """The model, loaded at the first call."""
        if self._model is None:
            from rewards.score.model.score_model import ScoreModel

            with unsharded(), random_state_kept():
                self._model = ScoreModel.from_pretrained(self.path, **{"device": _device()} | self.options)
        return self._model


class Served:
    """Score services, which all hold the same model; see `rewards.score.service.client`."""

    def __init__(self, urls: Sequence[str], **options: Any) -> None:
        """options: of `ScoreClient`."""
        from rewards.score.service.client import ScoreClient

        known = set(inspect.signature(ScoreClient).parameters) - {"urls"}
        for name in options.keys() - known:
            raise RecipeError(f"reward 'score': service has no option {name!r}; {nearest(name, known)}")
        self._connect = functools.cache(lambda: ScoreClient(urls, **options))

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        return self._connect().score(exchanges)

    def fingerprint(self) -> str:
        return self._connect().fingerprint()

    def origin(self) -> dict[str, Any]:
        return {"model": self.fingerprint()}

    def prepare(self) -> None:
        """Waits until every replica answers; raises ScorerUnavailable, or ScorerRefused where two models differ."""
        self.fingerprint()


def _device() -> Any:
    """The accelerator of this process, or the CPU."""
    import torch

    if not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.device(torch.accelerator.current_accelerator().type, torch.accelerator.current_device_index())


@contextlib.contextmanager
def unsharded() -> Iterator[None]:
    """Under ZeRO-3 transformers splits every model that it loads over the processes, and a forward pass then needs all
    of them; a score model is called by each process on its own, so it is loaded whole."""
    from transformers.integrations import deepspeed

    kept = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Loading may draw random numbers, and happens at another step in a resumed run: rollouts must not see it."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
