"""What a best-of-N recipe holds (`recipes/bon.yaml`), and the sections on scorers that curation shares."""

from __future__ import annotations

from typing import Literal, get_args

from stage.planning import decoding
from stage.planning.decoding import BatchSize
from stage.recipe.asking import AskingRecipe, GenerationSection
from vlm.common.errors import RecipeError
from vlm.common.section import LocatedPath
from vlm.sections import PixelSection, WeightsSection

Selector = Literal["score", "clip", "majority", "random"]
SELECTORS: tuple[Selector, ...] = get_args(Selector)


class ScorerSection(WeightsSection):
    """The learned score model."""

    path: LocatedPath | None = None
    "Checkpoint of a score model (launch/score.py writes one): a folder or a hub id."
    urls: list[str] = []
    "Score services (launch/serve.py) to ask instead of loading a checkpoint here."
    positions: Literal["mrope", "sequential"] | None = None
    "How image positions are counted; null takes what the checkpoint says. The published weights need `sequential`."
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    "Attention kernel."
    images: PixelSection | None = None
    "Pixel limits; null takes the checkpoint's own, which it was trained with."
    batch_size: BatchSize = "auto"
    "Exchanges at a time; `auto`: as many as the memory holds, at most 64."
    share_prefix: bool = True
    "Compute once in a pass what its exchanges about an image have in common; false computes each one in full."

    def check(self) -> None:
        decoding.check(self.batch_size)
        if self.path and self.urls:
            raise RecipeError("path and urls are both given; expected one: a checkpoint, or services that hold it")


class ClipSection(WeightsSection):
    """CLIP-score, the baseline."""

    path: LocatedPath | None = None
    "CLIP checkpoint: a folder or a hub id, such as openai/clip-vit-large-patch14."
    text: Literal["answer", "exchange"] = "answer"
    "Compare the image with the answer alone, or with question and answer."
    dtype: Literal["bfloat16", "float16", "float32"] = "float32"
    "What the weights are loaded as."
    batch_size: int = 64
    "Exchanges at a time."

    def check(self) -> None:
        if self.batch_size < 1:
            raise RecipeError(f"batch_size = {self.batch_size}; expected at least 1")


class SamplingSection(GenerationSection):
    """How the answers to choose from are drawn; the checkpoint's generation_config.json has no say."""

    samples: int = 64
    "Answers per question: the largest N of the curve."
    temperature: float = 0.95
    "Of sampling."
    batch_size: BatchSize = "auto"
    "Completions at a time, of one question or several; `auto`: as many as the memory holds, at most 256."

    def check(self) -> None:
        if self.samples < 1:
            raise RecipeError(f"samples = {self.samples}; expected at least 1")
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise RecipeError(
                f"temperature = {self.temperature} and top_p = {self.top_p}; expected temperature > 0 (greedy answers "
                "are all alike) and 0 < top_p ≤ 1"
            )
        super().check()


class BonRecipe(AskingRecipe):
    """Draw answers to held-out questions (`data.eval`), and let several selectors choose among them.

    An interrupted run is continued. What was drawn and scored is kept in `output` and used again, by `overwrite` too,
    as long as model, data and settings that it depends on are the same.
    """

    first = (
        "stage output model.path data.eval.<n>.path data.eval.<n>.limit selectors scorer.path scorer.positions "
        "clip.path gold completions generation.samples generation.temperature generation.top_p "
        "generation.max_new_tokens generation.batch_size images.min_pixels images.max_pixels model.dtype "
        "model.attention generation.backend endpoint.address endpoint.model endpoint.key endpoint.concurrency "
        "cost.input cost.output cost.max_cost"
    )
    stage: Literal["bon"] = "bon"
    "Which launcher the recipe is for."
    generation: SamplingSection = SamplingSection()
    "How answers are drawn."
    completions: LocatedPath | None = None
    "JSONL of answers drawn elsewhere, rows {source, id, completions}: nothing is generated."
    selectors: list[Selector] = [*SELECTORS]
    "Who chooses; the oracle's bound is always drawn with them."
    scorer: ScorerSection = ScorerSection()
    "The score model of the selector `score`."
    clip: ClipSection = ClipSection()
    "The CLIP model of the selector `clip`."
    subsets: int = 256
    "For `majority`: how many subsets of N represent all of them, where there are more."
    inside: Literal["answer", "text"] = "answer"
    "What is chosen and judged: the inside of the one <answer> … </answer>, or the whole completion."
    gold: str | None = None
    "Judge of rows without a closed answer (captions, open questions): a reward as in `rewards:`, such as my.py:facts."

    def check(self) -> None:
        super().check()
        if not self.selectors or len(set(self.selectors)) < len(self.selectors):
            raise RecipeError(f"selectors = {self.selectors}; expected some of {', '.join(SELECTORS)}, each once")
        if self.subsets < 1:
            raise RecipeError(f"subsets = {self.subsets}; expected at least 1")
        need_path(
            "score" in self.selectors, "scorer.path", self.scorer.path or self.scorer.urls, "the selector `score`"
        )
        need_path("clip" in self.selectors, "clip.path", self.clip.path, "the selector `clip`")
        if self.prompt.style == "direct" and self.inside == "answer":
            raise RecipeError("prompt.style direct asks for no tags; write inside: text, or nothing can be read")


def need_path(asked: bool, key: str, path: object, who: str) -> None:
    """Refuse a recipe that asks for a scorer and names none. Raises: RecipeError."""
    if asked and not path:
        raise RecipeError(f"{key} is empty, and {who} needs a checkpoint; name its folder or hub id, or leave it out")
