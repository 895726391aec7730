"""The table of completions: text that can be read, and what each row's question was; what ours takes from TRL's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stage.tracking.table import Batch

LOGGED_COLUMNS = ("image_file", "task", "answer")
"""Of the data set, that the table shows."""


def as_text(messages: str | list[dict[str, Any]]) -> str:
    """A conversation to be read: `role: text` by turn, `<image>` where one stands; a lone turn without its role."""
    if isinstance(messages, str):
        return messages
    turns = []
    for turn in messages:
        content = turn["content"]
        if not isinstance(content, str):
            content = "".join(block["text"] if block["type"] == "text" else f"<{block['type']}>" for block in content)
        turns.append(content if len(messages) == 1 else f"{turn['role']}: {content}")
    return "\n".join(turns)


def pictures_of(row: dict[str, Any]) -> list[Any]:
    """Pictures of a row of the data set, under either of TRL's two names."""
    return row.get("images") or ([row["image"]] if row.get("image") is not None else [])


TRACKERS = {"wandb", "trackio"}
"""Those that TRL's table of completions goes to with its pictures."""


def batch_of(trainer: Any) -> Batch:
    """The generation batch that a trainer has just made."""
    args, accelerator = trainer.args, trainer.accelerator
    micro = args.steps_per_generation * trainer.num_iterations
    return Batch(
        step=trainer.state.global_step + 1,
        covers=max(1, micro // args.gradient_accumulation_steps),
        last=trainer.state.max_steps,
        group=trainer.num_generations,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )


def logged(trainer: Any, rows: int) -> Callable[[int], tuple[tuple[str, str], dict[str, Any], float]]:
    """What TRL has noted of the batch, `rows` of it on each process: place in it → texts, rewards, advantage.

    Beside the rewards stand the numbers that they have noted of each row (`log_extra`), such as `reward_raw/format`.
    """
    logs, total = trainer._logs, rows * trainer.accelerator.num_processes

    def at(place: int) -> tuple[tuple[str, str], dict[str, Any], float]:
        place -= total  # from the end: the newest stand last
        # a column that this batch lacks still holds an earlier one's
        extra = {name: logs["extra"][name][place] for name in logs["extra"] if name in trainer._noted}
        numbers = {name: value for name, value in extra.items() if isinstance(value, float | int)}
        rewards = {name: values[place] for name, values in logs["rewards"].items()}
        texts = (as_text(logs["prompt"][place]), as_text(logs["completion"][place]))
        return texts, {**rewards, **numbers}, logs["advantages"][place]

    return at
