"""Which scorer a recipe's reward `score` asks for."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.score.placement import InProcess, Served
from rewards.score.sharded import Sharded
from vlm.common.errors import RecipeError


def place(
    model: str | None, urls: Sequence[str], sharded: bool, passes: dict, local: dict, service: dict
) -> InProcess | Sharded | Served:
    """The scorer of a recipe, from `model` (a checkpoint) or `urls` (services), one of which must be given.

    passes: `batch_size` and `share_prefix`. local: options of `ScoreModel.from_pretrained`. service: of `ScoreClient`.
    """
    if bool(model) == bool(urls):
        raise RecipeError(
            "reward 'score' needs one of `model` (a score model's folder or hub id, loaded into the training process) "
            f"and `urls` (of running score services); found model = {model!r}, urls = {list(urls)!r}"
        )
    if not urls:
        if service:
            raise RecipeError("reward 'score': `service` says how services are asked; with `model` there are none")
        if not sharded:
            return InProcess(model, **passes, **local)
        return Sharded(model, **passes, **local)
    if sharded:
        raise RecipeError(
            "reward 'score': `sharded` splits a score model over the training processes, and with `urls` none is "
            "there; leave one of the two out"
        )
    stated = [name for name, value in local.items() if value is not None]
    stated += [] if passes["share_prefix"] else ["share_prefix"]
    if stated:
        raise RecipeError(f"reward 'score': with `urls`, {stated[0]!r} is the service's own option; state it there")
    return Served([urls] if isinstance(urls, str) else urls, **service)
