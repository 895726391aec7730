"""A reward as a judge of completions where no closed answer says how good they are (captions, open questions).

gold: demo.world.captions:reward        # any reward spec: a built-in, my.py:function, package.module:function
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from rewards.registry import Reward, resolve
from samples import Sample
from vlm.common.errors import DataError

Judge = Callable[[Sample, Sequence[str]], list[float] | None]
"""`judge(sample, completions)` → one value per completion; None where it does not apply to the sample."""


def judge(spec: str | None) -> Judge | None:
    """The judge of a recipe's `gold:`. Raises: RecipeError for a spec that does not resolve."""
    if spec is None:
        return None
    reward = resolve(spec)
    return lambda sample, completions: values(reward, sample, completions)


def values(reward: Reward, sample: Sample, completions: Sequence[str]) -> list[float] | None:
    """What a reward of TRL's signature gives completions of the sample; None where it gives one of them None.

    Raises: DataError where a value is not finite, or there are not as many as completions.
    """
    found = called(reward, sample, completions)
    numbers = [float(value) for value in found if value is not None]
    if len(numbers) < len(found):
        return None
    if len(numbers) != len(completions) or not all(map(math.isfinite, numbers)):
        raise DataError(
            f"{sample.source}, sample {sample.id}: the judge gave {found!r}; expected a finite number for each of "
            f"{len(completions)} completions"
        )
    return numbers


def called(reward: Reward, sample: Sample, completions: Sequence[str]) -> list[float | None]:
    """What the reward itself returns for completions of the sample."""
    columns = {field.name: [getattr(sample, field.name)] * len(completions) for field in dataclasses.fields(sample)}
    said = [[{"role": "assistant", "content": text}] for text in completions]
    return reward(prompts=[sample.messages] * len(completions), completions=said, **columns)
