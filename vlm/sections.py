"""The recipe's sections about the model, its pictures and its prompts.

Each `check()` refuses what cannot work before any weights load, and says what to write instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import PrivateAttr

from vlm.boxes import check_notation
from vlm.common.errors import RecipeError
from vlm.common.section import LocatedPath, Section
from vlm.families import ALL
from vlm.masks import DEFAULT_FORM, check_form
from vlm.pictures.places import TAG
from vlm.prompts import check_wording

AUTO = "auto"
"""For a box notation: the one of the model's family."""


class LoraSection(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) instead of training every weight."""

    r: int = 64
    "Rank of the adapters."
    alpha: int = 128
    "The adapters' output is scaled by alpha / r."
    dropout: float = 0.05
    "Dropout on the adapters' input, 0 ≤ dropout < 1."
    target_modules: list[str] | None = None
    "Names of the linear layers that get an adapter; null: the language model's, as the model's family names them."

    def check(self) -> None:
        if self.r < 1 or self.alpha < 1:
            raise RecipeError(f"r = {self.r} and alpha = {self.alpha}; both must be at least 1")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout = {self.dropout}; expected 0 ≤ dropout < 1")
        if self.target_modules == []:
            raise RecipeError("target_modules is empty; name layers, or write `lora: null` to train without adapters")

    @property
    def language(self) -> str:
        """In words, what of it lies in the language model; "" for nothing."""
        if self.target_modules is None:
            return "every linear layer"
        return ", ".join(sorted({*self.target_modules} & {name for family in ALL for name in family.linears}))


class WeightsSection(Section):
    """Weights of any model, and what they are loaded as."""

    revision: str | None = None
    "Branch, tag or commit on the hub."
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    "What the weights are loaded as."


class CheckpointSection(WeightsSection):
    """A checkpoint of a vision-language model that is loaded here."""

    path: LocatedPath
    "Checkpoint of a vision-language model: a folder or a hub id; `docs/models.md` lists families."
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    "Attention kernel; `auto` is FlashAttention-2 where it can run and SDPA elsewhere."

    def check(self) -> None:
        if not self.path:
            raise RecipeError("path is empty; expected a checkpoint's folder or hub id")
        if self.attention == "flash_attention_2" and self.dtype == "float32":
            raise RecipeError(
                "attention flash_attention_2 cannot run in dtype float32; write dtype: bfloat16, or attention: sdpa"
            )


class ModelSection(CheckpointSection):
    freeze: list[Literal["vision_tower", "merger", "language_model"]] = []
    "Parts that are not trained; the merger is what projects visual features into the language model."
    lora: LoraSection | None = None
    "Train adapters instead of the weights; `lora: {}` takes the defaults below."
    quantization: Literal["nf4"] | None = None
    "With `lora`: hold the language model's linear layers in 4 bits (QLoRA, by bitsandbytes); `dtype` is computed in."
    liger: bool = False
    "Use Liger's fused kernels (extra `gpu`)."
    trust_remote_code: bool = False
    "Run code that comes with the checkpoint."

    def check(self) -> None:
        super().check()
        if self.lora is None and set(self.freeze) == {"vision_tower", "merger", "language_model"}:
            raise RecipeError("freeze names all three parts, so nothing would be trained; leave one out or add `lora`")
        if self.quantization is not None and self.lora is None:
            raise RecipeError(
                f"quantization {self.quantization} without lora: weights in 4 bits cannot be trained; add "
                "`lora: {}`, or write `quantization: null`"
            )
        if "language_model" in self.freeze and self.lora is not None and self.lora.language:
            raise RecipeError(
                f"freeze names language_model, but lora would train {self.lora.language} in it; with "
                "lora the weights themselves are frozen already: drop language_model from freeze, or change "
                "lora.target_modules"
            )


class ResizeSection(Section):
    """Training rows reach the model at sizes drawn again in each pass (RSCoVLM); see `vlm.pictures.resizing`."""

    min_pixels: int = 224 * 224
    "The smallest."
    max_pixels: int = 1008 * 1008
    "The largest."

    def check(self) -> None:
        if not 0 < self.min_pixels < self.max_pixels:
            raise RecipeError(
                f"min_pixels = {self.min_pixels}, max_pixels = {self.max_pixels}; "
                "expected 0 < min_pixels < max_pixels (pixels in all, not per side)"
            )


class StretchSection(Section):
    """How stored values become brightness: what lies outside the two ends is clipped, the result rounded to 8 bits."""

    percentile: list[float] | None = None
    "Black and white are these percentiles (0 to 100) of each band's valid values in the picture, such as [2, 98]."
    range: list[float] | None = None
    "Black and white are these stored values, the same in every picture and band, such as [0, 3000]."

    def check(self) -> None:
        given = [name for name in ("percentile", "range") if getattr(self, name) is not None]
        if len(given) != 1:
            raise RecipeError(
                f"found {' and '.join(given) or 'neither'}; expected one of percentile: [2, 98] and range: [0, 3000]"
            )
        ends = getattr(self, given[0])
        if len(ends) != 2 or not all(map(math.isfinite, ends)) or not ends[0] < ends[1]:
            raise RecipeError(f"{given[0]} = {ends}; expected two numbers, black below white")
        if self.percentile is not None and not 0 <= ends[0] < ends[1] <= 100:
            raise RecipeError(f"percentile = {ends}; expected percentages from 0 to 100")


class RasterSection(Section):
    """Which bands of a raster are shown, and how their values become brightness; see `vlm.pictures.rasters`."""

    bands: list[int] | None = None
    "Bands that are shown as red, green and blue, or one as grey; counted from 1. Null: all of a file of one or three."
    stretch: StretchSection | None = None
    "How values become brightness; null only for 8-bit rasters, whose values are it."
    nodata: float | None = None
    "This value means nothing was measured, and is shown black; null: what the file says. NaN always means it."
    alpha: int | None = None
    "Band that says how opaque a pixel is; the picture is laid over black. Null: what looks like alpha."

    def check(self) -> None:
        if self.bands is not None and (len(self.bands) not in (1, 3) or min(self.bands) < 1):
            raise RecipeError(f"bands = {self.bands}; expected three, such as [4, 3, 2], or one; the first band is 1")
        if self.nodata is not None and not math.isfinite(self.nodata):
            raise RecipeError(f"nodata = {self.nodata}; expected a number (NaN and infinities always count as nodata)")
        if self.alpha is not None and (self.alpha < 1 or self.alpha in (self.bands or [])):
            raise RecipeError(f"alpha = {self.alpha}; expected the number of a band, from 1, that is not shown")

    @property
    def text(self) -> str:
        """What is stated, as one line of JSON: equal settings, equal texts."""
        return json.dumps(self.model_dump(exclude_none=True), sort_keys=True, separators=(",", ":"))


class PictureSection(Section):
    """How image files are opened."""

    raster: RasterSection | None = None
    "How rasters are read: more than 8 bits, other bands than red, green, blue; a source's own `raster:` goes before."
    limit: int = 89478485
    "Largest image, in pixels (width × height); the default is Pillow's bound on files that unpack to fill the memory."
    cache: int = 512
    "MiB of decoded pictures that each process keeps, because a group shows the same one; its workers share them out."

    def check(self) -> None:
        if self.limit < 1 or self.cache < 0:
            raise RecipeError(f"limit = {self.limit}, cache = {self.cache}; expected limit ≥ 1 and cache ≥ 0")


class PixelSection(Section):
    """How large images reach a model; `--dry-run` says what its family makes of it.

    Where a visual token covers 28×28 pixels, the defaults are 334 to 1337 tokens per image; where 32×32, 256 to 1024.
    """

    min_pixels: int = 262144
    "Smaller images are enlarged to this many pixels (512²)."
    max_pixels: int = 1048576
    "Larger images are reduced to this many pixels (1024²)."

    def check(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            found = f"min_pixels = {self.min_pixels}, max_pixels = {self.max_pixels}"
            raise RecipeError(f"{found}; expected 0 < min_pixels ≤ max_pixels (pixels in all, not per side)")


class ImageSection(PictureSection, PixelSection):
    """How images are opened, and how large they reach the model; the same in every stage, or a model is tested at a
    size it never saw.

    Where a visual token covers 28×28 pixels, the defaults are 334 to 1337 tokens per image; where 32×32, 256 to 1024.
    """

    row_pixels: int | None = None
    "All images of a row together get at most so many pixels, each an equal part; null: each its own `max_pixels`."
    random_resize: ResizeSection | None = None
    "SFT and GRPO: draw the size of training images, within the limits above; `random_resize: {}` takes RSCoVLM's."

    def check(self) -> None:
        PixelSection.check(self)
        PictureSection.check(self)
        if self.row_pixels is not None and self.row_pixels < self.min_pixels:
            raise RecipeError(
                f"row_pixels = {self.row_pixels}, min_pixels = {self.min_pixels}; expected row_pixels ≥ min_pixels, "
                "and n times as many for n images a row"
            )
        drawn = self.random_resize
        if drawn is not None and not self.min_pixels <= drawn.min_pixels < drawn.max_pixels <= self.max_pixels:
            raise RecipeError(
                f"random_resize draws {drawn.min_pixels} to {drawn.max_pixels} pixels, beyond min_pixels = "
                f"{self.min_pixels} and max_pixels = {self.max_pixels}, which would undo it; widen these, or narrow it"
            )


class DetectionSection(Section):
    """How detection is asked for (`vlm.boxes.asking`); drawn by the row, the same whenever it is read."""

    paraphrased: float = 0.0
    "Share of rows that get one of RSCoVLM's paraphrases instead of the main wording (it trains with 0.5)."
    open: float = 0.0
    "Share of rows that ask for all objects instead of the listed classes; their answers name objects by synonyms."

    def check(self) -> None:
        for name in ("paraphrased", "open"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} = {getattr(self, name)}; expected a share from 0 to 1")


class PromptSection(Section):
    style: Literal["r1", "direct"] = "r1"
    "`r1` asks for <think> … </think><answer> … </answer>; `direct` for the bare answer."
    system: str | None = None
    "System prompt instead of the style's own."
    wording: dict[str, str] = {}
    "Task → template with {question}, and {options} or {lines} for choices; tasks not named keep the built-in wording."
    notation: str = AUTO
    "How boxes are written in text; `auto`: as the model's family does. A checkpoint knows the one it was trained with."
    detection: DetectionSection = DetectionSection()
    "How rows of the task detection are worded."
    masks: str = DEFAULT_FORM
    "How masks are written in text (`vlm.masks`), for rows of the task segmentation."
    pictures: Literal["dated", "several", "never"] = "dated"
    "Which rows name their pictures, `Picture 1, 2019-04: <image>`: with dates; all with several pictures, too; none."
    _tools: str = PrivateAttr("")
    _ask: str = PrivateAttr("")

    @property
    def tools(self) -> str:
        """What the system prompt says of tools, by the recipe's `tools` and `turns`; "" for none."""
        return self._tools

    @property
    def ask(self) -> str:
        """A line behind the question, by `turns.ask`."""
        return self._ask

    def told(self, tools: str, ask: str) -> PromptSection:
        """The same with what is said of tools."""
        copy = self.model_copy()
        copy._tools, copy._ask = tools, ask
        return copy

    def check(self) -> None:
        check_wording(self.wording)
        if self.system is not None and TAG in self.system:
            raise RecipeError(f"system: found {TAG} in {self.system!r}; pictures stand in questions, as the data say")
        if self.notation != AUTO:
            check_notation(self.notation)
        check_form(self.masks)


class ToolSection(Section):
    """A tool that the model may call while it answers."""

    use: str
    "`zoom`, `pkg.module:function` or `path/file.py:function`."
    options: dict[str, Any] = {}
    "Keyword options of the tool; of `zoom`: max_pixels (of a crop as the model sees it), least (a region's side)."


class TurnSection(Section):
    """Conversations with tools (`tools:`)."""

    limit: int = 1
    "Calls that are answered in one completion; one that calls once more is over the limit, and is not learned from."
    timeout: float | None = 30.0
    "Seconds that a tool may take; the row then goes on without its answer. Null for no limit."
    system: str | None = None
    "What the system prompt says of the tools; null: their signatures, and how a call is written."
    ask: str = ""
    "A line behind the question, such as: Zoom in before you answer."
    _openings: Mapping[Any, Sequence[float]] = PrivateAttr({})

    @property
    def openings(self) -> Mapping[Any, Sequence[float]]:
        """Calls that are put into the model's mouth, for controls: a question → the region that its first call names,
        in pixels of the original first picture."""
        return self._openings

    def opened(self, openings: Mapping[Any, Sequence[float]]) -> TurnSection:
        """The same with these first calls."""
        copy = self.model_copy()
        copy._openings = openings
        return copy

    def check(self) -> None:
        if self.limit < 1:
            raise RecipeError(f"limit = {self.limit}; expected at least 1, or no tools")
        if self.timeout is not None and not self.timeout > 0:
            raise RecipeError(f"timeout = {self.timeout}; expected seconds above 0, or null for no limit")
        for name in ("system", "ask"):
            if TAG in (getattr(self, name) or ""):
                raise RecipeError(f"{name}: found {TAG}; pictures stand in questions, as the data say")
