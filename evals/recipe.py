"""What an evaluation recipe holds (`recipes/eval.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vlm.errors import RecipeError
from vlm.recipe import StageRecipe


@dataclass
class GenerationSection:
    """How answers are generated; the default is greedy."""

    batch_size: int = 16
    "Questions at a time."
    max_new_tokens: int = 1024
    "Longest completion."
    temperature: float = 0.0
    "0 is greedy; above it completions are sampled."
    top_p: float = 1.0
    "Nucleus of sampling."

    def check(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise RecipeError(
                f"batch_size = {self.batch_size} and max_new_tokens = {self.max_new_tokens}; both must be at least 1"
            )
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise RecipeError(
                f"temperature = {self.temperature} and top_p = {self.top_p}; expected temperature ≥ 0, 0 < top_p ≤ 1"
            )


@dataclass
class EvalRecipe(StageRecipe):
    """Generate answers to held-out questions (`data.eval`) and score them.

    An interrupted evaluation is continued from what it wrote; a finished one is refused without `overwrite`.
    """

    stage: Literal["eval"] = "eval"
    "Which launcher the recipe is for."
    generation: GenerationSection = field(default_factory=GenerationSection)
    "How answers are generated."
    inside: Literal["answer", "text"] = "answer"
    "Read the answer inside the one <answer> … </answer>, or take the whole completion (base models asked directly)."
    gold: str | None = None
    "Judge of rows without a closed answer (open_ended, caption): a reward as in `rewards:`, such as my.py:facts."
    pictures: int = 12
    "How many held-out scenes the picture grid shows; 0 for none."

    def check(self) -> None:
        if not self.data.eval:
            raise RecipeError("data.eval is empty; name at least one file, e.g. `eval: [{path: test.json}]`")
        if self.prompt.style == "direct" and self.inside == "answer":
            raise RecipeError(
                "prompt.style direct asks for no tags, but inside: answer reads only what stands between them; "
                "write inside: text"
            )
