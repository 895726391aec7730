"""Where the score model runs: in each training process, split over them (`rewards.score.sharded`), or behind
`launch/serve.py`.

All are built at once and do nothing until asked. `prepare` is for the start of a run, `ready` for a dry run, which
loads no weights and waits for no service.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.score.model.exchange import Exchange
from rewards.score.model.layout import check_stored
from rewards.score.scorer import ScorerUnavailable, count_cut
from samples.fingerprints import of_checkpoint
from vlm.common.errors import RecipeError
from vlm.common.plugins.importing import nearest
from vlm.loading import at_hand

ASKED = 3.0
"""Seconds for which a dry run asks a service: one that is up answers much sooner."""

if TYPE_CHECKING:
    from rewards.score.scorer import Fitted


class Loaded:
    """A score model that the run itself loads from a checkpoint."""

    def __init__(self, path: str, batch_size: int = 16, share_prefix: bool = True, **options: Any) -> None:
        """batch_size, share_prefix: of `ScoreModel.score`. options: of its `from_pretrained`; those that are None keep
        its defaults."""
        self.path, self.batch_size, self.share_prefix = path, batch_size, share_prefix
        self.options = {name: value for name, value in options.items() if value is not None}

    cut = 0
    "Answers so far that were longer than the model reads, and were scored without their end."

    def prepare(self) -> None:
        """Raises RecipeError where there is no such checkpoint, or it is none of a score model; reads no weights."""
        check_stored(self.path, self.options.get("revision"))

    def ready(self) -> str:
        """Whether it could be loaded here, in words. Raises: RecipeError where it is here and does not fit."""
        revision = self.options.get("revision")
        here = Path(self.path).expanduser().exists() or at_hand(self.path, "config.json", revision) is not None
        found = check_stored(self.path, revision) if here else "it is not here, and is not checked"
        return f"score model {self.path}: {found}"

    def origin(self) -> dict[str, Any]:
        """What tells its content apart, for a run's record.json; reads a little of each weight."""
        return {"checkpoint": of_checkpoint(self.path, self.options.get("revision"))}

    def _readable(self, exchanges: Sequence[Exchange], model: Any) -> list[Exchange]:
        """The exchanges as the model can read them. Raises: DataError for one that is too long without any answer."""
        if model.processor is None:  # `ScoreModel.score` says so
            return list(exchanges)
        fitted = [_fit(exchange, model) for exchange in exchanges]
        self.cut = count_cut(self.cut, sum(one.cut for one in fitted), self.path)
        return [one.exchange for one in fitted]


def _fit(exchange: Exchange, model: Any) -> Fitted:
    from rewards.score.model.lengths import fit

    return fit(exchange, model.processor, model.config.text_config.max_position_embeddings)


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
        """Raises: DataError for an exchange that is too long without any answer."""
        model = self.load()
        return model.score(self._readable(exchanges, model), batch_size=self.batch_size, share_prefix=self.share_prefix)

    def fit(self, exchange: Exchange) -> Fitted:
        """What the loaded model can read of it; see `rewards.score.model.lengths`."""
        return _fit(exchange, self.load())

    def fingerprint(self) -> str:
        """Of the loaded model: the one that a service with the same model shows."""
        from rewards.score.model.fingerprint import fingerprint

        return fingerprint(self.load())

    def load(self) -> Any:
        """The model: loaded before the policy's weights, or at the first score."""
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
        self._connect = functools.cache(lambda **less: ScoreClient(urls, **options | less))

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        return self._connect().score(exchanges)

    def fingerprint(self) -> str:
        return self._connect().fingerprint()

    def ready(self) -> str:
        """Whether the services answer now, in words. Raises: ScorerRefused where one is there and refuses (the token,
        the model); RecipeError."""
        try:
            model = self._connect(timeout=ASKED, patience=ASKED).fingerprint()
        except ScorerUnavailable as cause:
            return f"score service: not ready, and a run would wait for it: {cause}"
        return f"score service: ready, with the model {model}"

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
