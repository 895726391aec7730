"""A recipe class with every kind of field, and how tests write, load and fail to load one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from stage.recipe import config
from vlm.common.errors import RecipeError


@dataclass
class Reward:
    name: str
    weight: float = 1.0
    "Share in the sum."
    steps: list[float] = field(default_factory=lambda: [0.5, 0.7])


@dataclass
class Inner:
    depth: int = 3
    """How deep.

    A second paragraph.
    """
    label: str | None = "inner"


@dataclass
class Foreign:
    """Stands for a library's config class."""

    lr: float = 0.0
    epochs: int = 1
    output_dir: str = ""


@dataclass
class Recipe:
    output: str
    "Run folder."
    seed: int = 7
    lr: float = 1e-6
    on: bool = False
    mode: Literal["fast", "off", 3] = "fast"
    inner: Inner = field(default_factory=lambda: Inner(depth=5))
    maybe: Inner | None = None
    names: list[str] = field(default_factory=list)
    rewards: list[Reward] = field(default_factory=lambda: [Reward("iou", 2.0, [0.2, 0.3]), Reward("format")])
    table: dict[str, int] = field(default_factory=lambda: {"a": 1})
    amount: int | str = 0
    extra: dict[str, Any] = field(
        default_factory=dict,
        metadata={"keys_of": f"{__name__}:Foreign", "owned": {"output_dir": "output"}},
    )
    free: dict[str, Any] = field(default_factory=dict)
    file: str | None = field(default=None, metadata={"path": True})

    def check(self) -> None:
        if self.seed == 13 and self.on:
            raise RecipeError("seed 13 cannot be on; write on: false")


def writer(folder: Path):
    """A function that writes a recipe file under `folder` and returns its path."""

    def write(text: str, name: str = "r.yaml") -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def loader(write):
    """A function that loads a `Recipe` from text, with `output` given, and overrides."""

    def load(text: str = "", *overrides: str) -> Recipe:
        return config.load(write("output: out\n" + text), Recipe, overrides)

    return load


def message(action, *args, **kwargs) -> str:
    with pytest.raises(RecipeError) as caught:
        action(*args, **kwargs)
    return str(caught.value)
