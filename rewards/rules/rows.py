"""What the rule rewards have in common: going through the rows, and naming them in errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from vlm import answers
from vlm.common.errors import DataError

Inside = Literal["answer", "text"]
Column = Sequence[Any] | None
WHOLE = ("trainer_state", "log_metric", "log_extra")
"""What TRL passes as one object for the batch; everything else has one value for each row."""


def text_of(completion: Any) -> str:
    """Generated text of one TRL completion: a string, or messages, of which the last one counts."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def per_row(
    name: str,
    completions: Sequence[Any],
    columns: Mapping[str, Any],
    task: Column,
    applies_to: Sequence[str],
    inside: Inside,
    judge: Callable[[int, str], float | None],
    readable: Callable[[int, str], bool] = lambda row, said: not answers.blank(said),
) -> list[float | None]:
    """``judge(row, answer)`` on rows of the right task. It sees the empty answer, too: whether a row applies
    does not depend on what was generated.

    columns: what else TRL passes. Its log_metric is told, for each row that the reward applies to, whether the answer
    can not be read (`readable`), as ``reward_unreadable/<name>``: one call a row, so that TRL's mean over all calls of
    all processes is that over rows.
    """
    tasks = (applies_to,) if isinstance(applies_to, str) else applies_to
    log_metric = columns.get("log_metric")
    rewards: list[float | None] = []
    for row, completion in enumerate(completions):
        if task is not None and task[row] not in tasks:
            rewards.append(None)
            continue
        text = text_of(completion)
        said = text if inside == "text" else answers.parse(text).answer
        rewards.append(judge(row, said or ""))
        if log_metric is not None and rewards[-1] is not None:
            log_metric(f"reward_unreadable/{name}", float(not readable(row, said or "")))
    return rewards


def of_rows(columns: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """What TRL passes to a reward, for some rows of the batch."""
    return {
        name: values if name in WHOLE or values is None else [values[row] for row in rows]
        for name, values in columns.items()
    }


def given(reward: str, row: int, task: Column, columns: dict[str, Any], **truth: Column) -> bool:
    """Whether the row has every field of ``truth``. Where its task says that it should, a missing one is an
    error."""
    missing = [name for name, column in truth.items() if column is None or column[row] is None]
    if missing and task is not None:
        raise DataError(
            f"{name_of(row, columns)}: the reward {reward!r} applies to task {task[row]!r} and needs the field "
            f"{missing[0]!r}, which is absent; add it to the data"
        )
    return not missing


def name_of(row: int, columns: Mapping[str, Any]) -> str:
    """The row as its user knows it: source and id where the data has them, else its place in the batch."""
    parts = [f"{name} {columns[name][row]!r}" for name in ("source", "id") if columns.get(name) and columns[name][row]]
    return ", ".join(parts) or f"row {row} of the batch"
