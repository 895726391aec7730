"""The lists of questions that one evaluation asks: its own, and one for each control, in folders of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.controls.registry import find
from evals.ranks import CONTROLLED
from samples import Sample


@dataclass(frozen=True)
class Listed:
    """Questions that are asked one after another, and where their answers go."""

    name: str
    "The control's; empty for the evaluation's own questions."
    recipe: Any
    "By which they are asked (`EvalRecipe`); its `output` is the list's own folder."
    samples: Sequence[Sample]
    "As the model is shown them."
    truths: Mapping[str, Sample]
    "Name (`source/id`) → the evaluation's own question."
    left_out: Mapping[str, int] = field(default_factory=dict)
    "Why questions of the evaluation are not in this list → how many."

    @property
    def folder(self) -> Path:
        return Path(self.recipe.output)

    @property
    def keys(self) -> list[str]:
        return [key(sample) for sample in self.samples]

    def but(self, have: set[str]) -> list[Sample]:
        """The questions that are not among these."""
        return [sample for sample in self.samples if key(sample) not in have]

    def truth(self, sample: Sample) -> Sample:
        return self.truths[key(sample)]


def key(sample: Sample) -> str:
    return f"{sample.source}/{sample.id}"


def lists(recipe: Any, samples: Sequence[Sample]) -> tuple[list[Listed], dict[str, str]]:
    """(the evaluation's own questions and those of each of its controls; control that cannot be asked → why)."""
    truths = {key(sample): sample for sample in samples}
    found, unasked = [Listed("", recipe, samples, truths)], {}
    for name in recipe.controls:
        asked = find(name).ask(samples, recipe)
        if isinstance(asked, str):
            unasked[name] = asked
            continue
        own = asked.recipe.model_copy(update={"output": str(folder(recipe.output, name))})
        found.append(Listed(name, own, asked.samples, truths, asked.left_out))
    return found, unasked


def folder(output: str | Path, name: str) -> Path:
    """Where a control's answers lie."""
    return Path(output) / CONTROLLED / name
