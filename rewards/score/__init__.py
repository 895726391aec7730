"""The learned reward: a score model that sees the image (`ScoreModel`) and what it reads (`Exchange`).

model/      the model itself
training/   how it is trained from preferences (`launch/score.py`)
service/    it behind HTTP (`launch/serve.py`), and the client
scorer      what gives scores, and how that may fail
placement   where it runs: in this process or behind a service; sharded: split over the processes of a ZeRO-3 run
reward/     the reward `score` of GRPO

torch and transformers are imported with `ScoreModel`, not with this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewards.score.model.exchange import Exchange, encode, render

if TYPE_CHECKING:
    from rewards.score.model.score_model import ScoreModel

__all__ = ["Exchange", "ScoreModel", "encode", "render"]


def __getattr__(name: str) -> Any:
    if name == "ScoreModel":
        from rewards.score.model.score_model import ScoreModel

        return ScoreModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # what is imported when it is asked for completes, too
