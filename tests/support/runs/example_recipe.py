"""A recipe class with every kind of field, and how tests write, load and fail to load one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from stage.recipe import config
from stage.recipe.arguments import Keys
from vlm.common.errors import RecipeError
from vlm.common.section import LocatedPath, Section


class Reward(Section):
    name: str
    weight: float = 1.0
    "Share in the sum."
    steps: list[float] = [0.5, 0.7]


class Inner(Section):
    depth: int = 3
    """How deep.

    A second paragraph.
    """
    label: str | None = "inner"


class Foreign(Keys):
    """Stands for a library's config class."""

    library = f"{__name__}.Foreign"
    owned = {"output_dir": "output"}

    lr: float = 0.0
    epochs: int | None = 1


class Recipe(Section):
    output: str
    "Run folder."
    seed: int = 7
    lr: float = 1e-6
    on: bool = False
    mode: Literal["fast", "off", 3] = "fast"
    inner: Inner = Inner(depth=5)
    maybe: Inner | None = None
    names: list[str] = []
    rewards: list[Reward] = [Reward(name="iou", weight=2.0, steps=[0.2, 0.3]), Reward(name="format")]
    table: dict[str, int] = {"a": 1}
    amount: int | str = 0
    extra: Annotated[dict[str, Any], Foreign] = {}
    free: dict[str, Any] = {}
    file: LocatedPath | None = None

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
