"""What a recipe for preference data holds (`recipes/prefer.yaml`)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from samples.readers.checks import TASKS
from samples.sections import FileSection, known_tasks
from stage.endpoint.sections import CostSection, EndpointSection
from vlm.boxes import FALLBACK, check_notation
from vlm.common.errors import RecipeError
from vlm.common.section import Folder, LocatedPath, Section, Seed
from vlm.masks import FORMS, check_form
from vlm.sections import PictureSection


class CandidateSource(FileSection):
    """One file of rows with candidates."""

    path: LocatedPath
    "JSONL or a JSON list; what a row holds: `rewards/prefer/rows.py`."
    task: str | None = None
    "Task of every row, whatever the row says."

    def check(self) -> None:
        super().check()
        known_tasks("task", [] if self.task is None else [self.task])


class JudgeSection(EndpointSection):
    """The vision-language model that rates open questions, behind any OpenAI-compatible address."""

    called: ClassVar[str] = "judge"

    rating: Literal["together", "alone"] = "together"
    "All candidates of a row in one request, in shuffled order, or each in a request of its own."


class ClosedSection(Section):
    """Closed questions: candidates are compared with the truth, and nobody is asked."""

    rewards: dict[str, str] = {
        "vqa": "exact_match",
        "classification": "exact_match",
        "choice": "choice",
        "grounding": "iou",
        "detection": "detect",
        "segmentation": "mask",
    }
    "Task → what compares a candidate with the truth: a built-in reward, pkg.module:function, or file.py:function."
    inside: Literal["answer", "text"] = "text"
    "The answer is what is inside the candidate's <answer> … </answer>, or the whole candidate."
    notation: str = FALLBACK
    "How candidates write boxes; nothing in this recipe knows the models that wrote them."
    masks: str = "polygon"
    "How candidates write masks."
    min_gap: float = 0.1
    "Least difference of two candidates' values (such as IoU) for one to be preferred."

    def check(self) -> None:
        for task in self.rewards:
            if task not in TASKS:
                raise RecipeError(f"rewards: found the task {task!r}, expected one of {', '.join(TASKS)}")
        check_notation(self.notation, seen=False)
        check_form(self.masks)
        if FORMS[self.masks].resized:
            raise RecipeError(
                f"masks = {self.masks}, which counts pixels of the picture as a model saw it: none is here"
            )
        if self.min_gap < 0:
            raise RecipeError(f"min_gap = {self.min_gap}; expected at least 0")


class SimilaritySection(Section):
    clip: LocatedPath | None = None
    "CLIP checkpoint (folder or hub id) whose embeddings are compared; null: perceptual hashes, or character n-grams."
    threshold: float | None = None
    "Least cosine similarity of two duplicates (of which duplicates are duplicates too); null: 0.9, not for CLIP."

    def check(self) -> None:
        if self.threshold is None and self.clip is not None:
            raise RecipeError(
                "clip needs a threshold: CLIPs differ in how near they put different images; look at some pairs, and "
                "write e.g. threshold: 0.97"
            )
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise RecipeError(f"threshold = {self.threshold}; expected 0 < threshold ≤ 1")

    @property
    def least(self) -> float:
        """The similarity from which on two are duplicates.

        0.9: of 100 scenes of the demo, copies (half the side, JPEG of quality 80 or 90) had 0.906 or more with their
        originals, different scenes 0.29 at most.
        """
        return 0.9 if self.threshold is None else self.threshold


class DedupSection(Section):
    """Rows left out because an earlier row looks or reads the same."""

    images: SimilaritySection | None = None
    "Compare images; `{}` takes the defaults. Rows about the very same file are not duplicates of each other."
    texts: SimilaritySection | None = None
    "Compare texts: a row's question together with its candidates."


class PreferRecipe(Section):
    """Preference pairs from rows with several candidates.

    What the judge has rated stays in the run folder: the same command continues where it was stopped, asks failed rows
    again, and with another `lists` or `min_gap` makes other pairs of the same ratings without asking anybody.
    """

    first = (
        "stage output data.<n>.path data.<n>.images judge.address judge.model judge.key judge.rating "
        "judge.concurrency judge.max_pixels cost.input cost.output cost.max_cost dedup.texts dedup.images lists "
        "min_gap"
    )
    data: list[CandidateSource]
    "Files of rows with candidates."
    output: Folder
    "Run folder: judged.jsonl, failures.jsonl, preferences.jsonl, report.json."
    stage: Literal["prefer"] = "prefer"
    "Which launcher the recipe is for."
    judge: JudgeSection | None = None
    "Who rates open questions; null where all questions are closed."
    cost: CostSection = CostSection()
    "Prices and limit."
    closed: ClosedSection = ClosedSection()
    "How closed questions are compared with the truth."
    dedup: DedupSection = DedupSection()
    "Duplicates to be left out before anybody is asked."
    lists: Literal["ranked", "pairs", "extremes"] = "ranked"
    "One list a row, best first, with the gap between neighbours; every pair with the gap; or best against worst."
    min_gap: float = 0.4
    "Least difference of two candidates' five-dimension means (1 to 5) for one to be preferred."
    on_fault: Literal["error", "skip"] = "error"
    "A faulty row (missing image, no candidates, …) ends the run, or is left out and counted."
    images: PictureSection = PictureSection()
    "How images are opened."
    seed: Seed = 0
    "Seed of the order in which the judge sees candidates."
    overwrite: bool = False
    "Throw away what an earlier run left in `output`, ratings included."

    @model_validator(mode="after")
    def _hand_on(self) -> Self:
        for source in self.data:
            source.inherit(self.images)
        return self

    def check(self) -> None:
        if not self.data:
            raise RecipeError("data is empty; name at least one file, e.g. `data: [{path: candidates.jsonl}]`")
        if not 0 <= self.min_gap <= 4:
            raise RecipeError(f"min_gap = {self.min_gap}; expected 0 to 4: means are between 1 and 5")
