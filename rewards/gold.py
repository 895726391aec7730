"""A reward as a judge of completions where no closed answer says how good they are (captions, open questions).

gold: demo.world.captions:reward        # any reward spec: a built-in, my.py:function, package.module:function
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from rewards.columns import check_columns, required
from rewards.registry import Reward, resolve
from rewards.values import plain
from samples import Sample
from samples.readers.checks import CLOSED
from vlm.common.errors import DataError
from vlm.common.plugins.places import defined

FIELDS = [field.name for field in dataclasses.fields(Sample) if field.name != "columns"]
Judge = Callable[[Sample, Sequence[str]], list[float] | None]
"""`judge(sample, completions)` → one value per completion; None where it does not apply to the sample."""


def judge(spec: str | None) -> Judge | None:
    """The judge of a recipe's `gold:`. Raises: RecipeError for a spec that does not resolve."""
    if spec is None:
        return None
    reward = resolve(spec)
    return lambda sample, completions: values(reward, sample, completions)


def check(spec: str | None, columns: Mapping[str, Iterable[str]]) -> None:
    """Refuse a judge that asks for a column which no open question has (`rewards.columns`), or does not resolve.

    columns: by task. Raises: RecipeError.
    """
    reward = None if spec is None else resolve(spec)
    asked = {task: names for task, names in columns.items() if task not in CLOSED}
    if reward is not None and asked:
        check_columns([reward], asked)


def values(reward: Reward, sample: Sample, completions: Sequence[str]) -> list[float] | None:
    """What a reward of TRL's signature gives completions of the sample; None where it gives one of them None.

    Raises: DataError where a value is not finite.
    """
    found = called(reward, sample, completions)
    numbers = [value for value in found if value is not None]
    if len(numbers) < len(found):
        return None
    if not all(map(math.isfinite, numbers)):
        raise DataError(
            f"{sample.source}, sample {sample.id}: the judge gave {found!r}; expected a finite number for each of "
            f"{len(completions)} completions"
        )
    return numbers


def called(reward: Reward, sample: Sample, completions: Sequence[str]) -> list[float | None]:
    """What the reward itself returns for completions of the sample. Raises: WrongValues for a wrong length or form."""
    columns = {name: [getattr(sample, name)] * len(completions) for name in FIELDS}
    held = dict.fromkeys(required(reward)) | (sample.columns or {})
    columns |= {name: [value] * len(completions) for name, value in held.items() if name not in columns}
    said = [[{"role": "assistant", "content": text}] for text in completions]
    found = reward(prompts=[sample.messages] * len(completions), completions=said, **columns)
    return plain(found, len(completions), f"{sample.source}, sample {sample.id}: the judge ({defined(reward)})")
