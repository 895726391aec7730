"""What a reward returns, as plain floats: made once, where its values come in, whatever it computes with.

Values in a wrong form are no failure of some rows, but a bug of the reward that each batch would meet again: they end
the run at the first call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from typing import Any

from vlm.common.errors import RecipeError

LARGEST = 3.4028234663852886e38
"""Of float32, in which TRL computes: anything above becomes infinite."""


class WrongValues(RecipeError):
    """A reward's values have a wrong length or form; the message names it, what it gave and what was expected."""


def plain(found: Any, count: int, who: str) -> list[float | None]:
    """The values of a reward for `count` completions: a list, a tuple, an array or a tensor of one axis, an iterator;
    of numbers (Python's, numpy's, tensors without an axis) and None.

    who: the reward, for the message. Raises: WrongValues.
    """
    shape = getattr(found, "shape", None)
    if shape is not None and len(shape) != 1:
        raise _wrong(who, f"{_a(found)} of shape {tuple(shape)}", count)
    if isinstance(found, Mapping):
        raise _wrong(who, f"{_a(found)}, whose keys are no values", count)
    if isinstance(found, str | bytes | Set) or not isinstance(found, Iterable):
        raise _wrong(who, "None" if found is None else _a(found), count)
    listed = found.tolist() if shape is not None and hasattr(found, "tolist") else list(found)
    if len(listed) != count:
        raise _wrong(who, f"{len(listed)} value{'s' * (len(listed) != 1)}", count)
    return [_number(value, place, who, count) for place, value in enumerate(listed)]


def unusable(value: float | None) -> str:
    """Why a value is a failure of its row; empty where it is none."""
    if value is None or abs(value) <= LARGEST:  # not so for NaN
        return ""
    return f"the value is {value}" + (", beyond float32" if math.isfinite(value) else "")


def _number(value: Any, place: int, who: str, count: int) -> float | None:
    if value is None:
        return None
    if isinstance(value, str | bytes) or getattr(value, "shape", ()) != () or not hasattr(value, "__float__"):
        raise _wrong(who, f"{_a(value)} ({str(value)[:40]}) as its value {place}", count)
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf if value > 0 else -math.inf


def _a(found: Any) -> str:
    kind = type(found).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _wrong(who: str, got: str, count: int) -> WrongValues:
    return WrongValues(
        f"{who} returned {got} for {count} completion{'s' * (count != 1)}; expected a list of {count}: for each "
        "completion, in order, a number, or None where the reward does not apply"
    )
