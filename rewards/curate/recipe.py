"""What a curation recipe holds (`recipes/curate.yaml`)."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rewards.select.recipe import ClipSection, ScorerSection, need_path
from samples.sections import DataSection
from stage.recipe.sections import notation_of
from vlm.boxes import check_notation
from vlm.common.errors import RecipeError
from vlm.common.section import Folder, Section, Seed
from vlm.sections import AUTO, PictureSection
from vlm.shapes import family_here

RULES = ("share", "count", "threshold")


class KeepSection(Section):
    """What is kept: give one of the three."""

    share: float | None = None
    "The best share of the scored rows, 0 < share ≤ 1; 0.3 where none of the three is given."
    count: int | None = None
    "The best N rows."
    threshold: float | None = None
    "Every row that scores at least this."
    per_source: bool = False
    "Apply share or count to each file by itself, so that the mixture of sources stays as it is."

    @model_validator(mode="before")
    @classmethod
    def _share_by_default(cls, given: Any) -> Any:
        return {"share": 0.3, **given} if isinstance(given, dict) and not given.keys() & set(RULES) else given

    def check(self) -> None:
        given = [name for name in RULES if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise RecipeError(
                f"found {found}; expected one of share, count and threshold, such as `share: 0.3`; the others null"
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise RecipeError(f"share = {self.share}; expected 0 < share ≤ 1 (0.3 keeps 30 percent)")
        if self.count is not None and self.count < 1:
            raise RecipeError(f"count = {self.count}; expected at least 1")


class CurateRecipe(Section):
    """Score the rows of `data.train` and keep the best.

    An interrupted run is continued. Scores are kept in `output` and used again, by `overwrite` too, as long as the data
    and the scorer are the same: trying another `keep` costs no scoring.
    """

    first = (
        "stage output data.train.<n>.path data.train.<n>.format data.train.<n>.images data.on_fault by keep.share "
        "keep.count scorer.path scorer.urls scorer.positions scorer.dtype scorer.batch_size clip.path"
    )
    output: Folder
    "Run folder: the kept rows are in `kept/`, each file under its own name and in its own format."
    data: DataSection
    "The corpus, in `train:`; the other keys as in training."
    stage: Literal["curate"] = "curate"
    "Which launcher the recipe is for."
    by: Literal["score", "clip", "random"] = "score"
    "Who scores; `clip` and `random` are the baselines."
    keep: KeepSection = Field({}, validate_default=True)
    "What is kept."
    scorer: ScorerSection = ScorerSection()
    "The score model of `by: score`."
    clip: ClipSection = ClipSection()
    "The CLIP model of `by: clip`."
    notation: str = AUTO
    "How the boxes of grounding rows are written in the text that is scored; `auto`: as the score model's family does."
    chunk: int = 64
    "Rows handed to the scorer at a time, and recorded together: at most these are scored again after a kill."
    examples: int = 8
    "How many of the best and of the worst rows examples.png shows; 0 for none."
    images: PictureSection = PictureSection()
    "How the corpus's images are opened."
    seed: Seed = 0
    "Seed of `by: random`."
    overwrite: bool = False
    "Replace the selection that an earlier run left in `output` instead of refusing."

    @model_validator(mode="after")
    def _hand_on(self) -> Self:
        for source in (*self.data.train, *self.data.eval):
            source.inherit(self.images)
        return self

    def settle(self, fetch: bool = False) -> list[str]:
        """As `StageRecipe.settle`; it is the score model that reads the boxes."""
        if self.notation != AUTO:
            return []
        named = (self.scorer.path,) if self.by == "score" and self.scorer.path else ()
        family = family_here(named, self.scorer.revision, fetch) if named else None
        found, doubt = notation_of(self.notation, family, fetch, "notation", named)
        self.notation = found
        return doubt

    @property
    def model(self) -> ScorerSection:
        """Where launchers look for what runs on this machine."""
        return self.scorer

    def check(self) -> None:
        if not self.data.train:
            raise RecipeError("data.train is empty; name at least one file, e.g. `train: [{path: captions.json}]`")
        plainly = {"split": None, "tasks": None, "percent": None, "repeat": 1, "ratio": None}
        plainly |= {"classes": None, "notation": None, "tools": True}  # how rows are asked, which are kept as they were
        for number, section in enumerate(self.data.train):
            for name, plain in plainly.items():
                if getattr(section, name) != plain:
                    raise RecipeError(
                        f"data.train.{number}.{name}: curation scores every row once; filter by data.tasks, and mix "
                        "the kept files in the recipe that trains on them"
                    )
        if self.data.drop_blind is not None:
            raise RecipeError("data.drop_blind: curation scores every row; leave them out in the recipe that trains")
        if self.chunk < 1 or self.examples < 0:
            raise RecipeError(f"chunk = {self.chunk} and examples = {self.examples}; expected chunk ≥ 1, examples ≥ 0")
        self.settle()
        if self.notation != AUTO:
            check_notation(self.notation, seen=False)
        need_path(self.by == "score", "scorer.path", self.scorer.path or self.scorer.urls, "by: score")
        need_path(self.by == "clip", "clip.path", self.clip.path, "by: clip")
