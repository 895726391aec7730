"""A few preferences to train on, in which two answers are about one picture of one colour."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from rewards.score.training.preferences import Preference, write


def coloured_pairs(folder: Path) -> None:
    """Eight rows as `folder/pairs.jsonl`, pictures beside it."""
    pairs = []
    for number in range(8):
        path = folder / f"colour{number}.png"
        Image.new("RGB", (112, 112), (30 * number, 90, 200)).save(path)
        pairs.append(Preference([str(path)], "What color?", [f"blue {number}", "a lake"], source="s", id=str(number)))
    write(folder / "pairs.jsonl", pairs)
