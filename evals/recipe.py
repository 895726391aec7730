"""What an evaluation recipe holds (`recipes/eval.yaml`)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from evals import controls
from evals.benchmarks import find
from samples import Sample
from stage.recipe.asking import AskingRecipe
from stage.recipe.sections import ToolKeys
from vlm.common.errors import RecipeError, UserError
from vlm.sections import AUTO


class EvalRecipe(ToolKeys, AskingRecipe):
    """Generate answers to held-out questions (`data.eval`) and score them.

    An interrupted evaluation is continued from what it wrote; a finished one is refused without `overwrite`.
    """

    first = (
        "stage output model.path data.eval.<n>.path data.eval.<n>.format data.eval.<n>.limit "
        "generation.max_new_tokens generation.batch_size gold prompt.style prompt.notation images.min_pixels "
        "images.max_pixels model.dtype model.attention generation.backend endpoint.address endpoint.model endpoint.key "
        "endpoint.concurrency cost.input cost.output cost.max_cost"
    )
    stage: Literal["eval"] = "eval"
    "Which launcher the recipe is for."
    inside: Literal["answer", "text"] = "answer"
    "Read the answer inside the one <answer> … </answer>, or take the whole completion (base models asked directly)."
    gold: str | None = None
    "Judge of rows without a closed answer (open_ended, caption): a reward as in `rewards:`, such as my.py:facts."
    benchmark: str | None = None
    "Score as this benchmark does (`launch/eval.py --list`)."
    controls: list[str] = [AUTO]
    """Ask every question again for comparison: `blind` without its pictures, `shuffled` with another question's,
    `swapped` with its own in reversed order, where it has several; with the zoom also `no_zoom`, `true_region`,
    `centre` and `random`. `auto`: the first two of these; without it none."""
    limit: int | None = None
    "Ask only the first N questions."
    pictures: int = 12
    "How many held-out scenes the picture grid shows; 0 for none."

    @model_validator(mode="after")
    def _chosen(self) -> Self:
        if AUTO in self.controls:
            named = [name for name in self.controls if name != AUTO]
            self.controls = [*(name for name in controls.zooms.DEFAULT if self.zooms and name not in named), *named]
        return self

    def tooled(self, sample: Sample) -> bool:
        return not self.zooms or self.benchmark is None or find(self.benchmark).zooms(sample)

    def check(self) -> None:
        super().check()
        if self.benchmark is not None:
            try:
                find(self.benchmark)
            except UserError as error:
                raise RecipeError(f"benchmark: {error}") from error
        for name in self.controls:
            if name == AUTO:
                continue
            try:
                controls.find(name)
            except UserError as error:
                raise RecipeError(f"controls: {error}") from error
        if len(set(self.controls)) < len(self.controls):
            raise RecipeError(f"controls = {self.controls}; expected each once")
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"limit = {self.limit}; expected at least 1, or null for all questions")
        if self.prompt.style == "direct" and self.inside == "answer":
            raise RecipeError(
                "prompt.style direct asks for no tags, but inside: answer reads only what is between them; "
                "write inside: text"
            )
