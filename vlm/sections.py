"""The sections that recipes of every stage share; a stage's recipe (`rl/recipe.py` …) adds keys of its own.

Each `check()` refuses what cannot work before any weights load, and says what to write instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from samples import FORMATS, TASKS, mixture
from stage.guards.sections import GuardSection, WatchdogSection
from stage.replay.dump_section import DumpSection
from stage.tracking.section import TrackingSection
from vlm.boxes import check_notation
from vlm.common.errors import RecipeError
from vlm.prompts import check_wording

LANGUAGE_MODEL_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PIXELS_PER_TOKEN = 28 * 28
"""Qwen2-VL and Qwen2.5-VL: patches of 14×14 pixels, merged 2×2 into one visual token."""


@dataclass
class LoraSection:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) instead of training every weight."""

    r: int = 64
    "Rank of the adapters."
    alpha: int = 128
    "The adapters' output is scaled by alpha / r."
    dropout: float = 0.05
    "Dropout on the adapters' input, 0 ≤ dropout < 1."
    target_modules: list[str] = field(default_factory=LANGUAGE_MODEL_LINEARS.copy)
    "Names of the linear layers that get an adapter; the default is every linear of the language model."

    def check(self) -> None:
        if self.r < 1 or self.alpha < 1:
            raise RecipeError(f"r = {self.r} and alpha = {self.alpha}; both must be at least 1")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout = {self.dropout}; expected 0 ≤ dropout < 1")
        if not self.target_modules:
            raise RecipeError("target_modules is empty; name layers, or write `lora: null` to train without adapters")


@dataclass
class ModelSection:
    path: str = field(metadata={"path": True})
    "Checkpoint of a Qwen2-VL or Qwen2.5-VL: a folder or a hub id."
    revision: str | None = None
    "Branch, tag or commit on the hub."
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    "What the weights are loaded as."
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    "Attention kernel; `auto` is FlashAttention-2 where it can run and SDPA elsewhere."
    freeze: list[Literal["vision_tower", "merger", "language_model"]] = field(default_factory=list)
    "Parts that are not trained; the merger is what projects visual features into the language model."
    lora: LoraSection | None = None
    "Train adapters instead of the weights; `lora: {}` takes the defaults below."
    liger: bool = False
    "Use Liger's fused kernels (extra `gpu`)."
    trust_remote_code: bool = False
    "Run code that comes with the checkpoint."

    def check(self) -> None:
        if not self.path:
            raise RecipeError("path is empty; expected a checkpoint's folder or hub id")
        if self.attention == "flash_attention_2" and self.dtype == "float32":
            raise RecipeError(
                "attention flash_attention_2 cannot run in dtype float32; write dtype: bfloat16, or attention: sdpa"
            )
        if self.lora is None and set(self.freeze) == {"vision_tower", "merger", "language_model"}:
            raise RecipeError("freeze names all three parts, so nothing would be trained; leave one out or add `lora`")
        adapted = set(self.lora.target_modules) & set(LANGUAGE_MODEL_LINEARS) if self.lora else set()
        if "language_model" in self.freeze and adapted:
            raise RecipeError(
                f"freeze names language_model, but lora would train {', '.join(sorted(adapted))} in it; with "
                "lora the weights themselves are frozen already: drop language_model from freeze, or change "
                "lora.target_modules"
            )


@dataclass
class ResizeSection:
    """Training rows reach the model at sizes drawn anew in each pass (RSCoVLM); see `vlm.pictures.resizing`."""

    min_pixels: int = 224 * 224
    "The smallest."
    max_pixels: int = 1008 * 1008
    "The largest."

    def check(self) -> None:
        if not PIXELS_PER_TOKEN <= self.min_pixels < self.max_pixels:
            raise RecipeError(
                f"min_pixels = {self.min_pixels}, max_pixels = {self.max_pixels}; "
                f"expected {PIXELS_PER_TOKEN} ≤ min_pixels < max_pixels (pixels in all, not per side)"
            )


@dataclass
class ImageSection:
    """How large images reach the model; the same in every stage, or a model is tested at a size it never saw.

    One visual token covers 28×28 pixels, so the defaults are 334 to 1337 tokens per image.
    """

    min_pixels: int = 262144
    "Smaller images are enlarged to this many pixels (512²)."
    max_pixels: int = 1048576
    "Larger images are reduced to this many pixels (1024²)."
    random_resize: ResizeSection | None = None
    "SFT and GRPO: draw the size of training images, within the limits above; `random_resize: {}` takes RSCoVLM's."

    def check(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            found = f"min_pixels = {self.min_pixels}, max_pixels = {self.max_pixels}"
            raise RecipeError(f"{found}; expected 0 < min_pixels ≤ max_pixels (pixels in all, not per side)")
        if self.max_pixels < PIXELS_PER_TOKEN:
            raise RecipeError(
                f"max_pixels = {self.max_pixels} is less than one visual token's {PIXELS_PER_TOKEN} pixels "
                "(28×28); it counts the pixels of the whole image, not of a side"
            )
        drawn = self.random_resize
        if drawn is not None and not self.min_pixels <= drawn.min_pixels < drawn.max_pixels <= self.max_pixels:
            raise RecipeError(
                f"random_resize draws {drawn.min_pixels} to {drawn.max_pixels} pixels, beyond min_pixels = "
                f"{self.min_pixels} and max_pixels = {self.max_pixels}, which would undo it; widen these, or narrow it"
            )


@dataclass
class PromptSection:
    style: Literal["r1", "direct"] = "r1"
    "`r1` asks for <think> … </think><answer> … </answer>; `direct` for the bare answer."
    system: str | None = None
    "System prompt instead of the style's own."
    wording: dict[str, str] = field(default_factory=dict)
    "Task → template with {question}, and {options} for choices; tasks not named keep the built-in wording."
    notation: str = "qwen2_vl"
    "How boxes are written in text; a checkpoint knows the one it was trained with."

    def check(self) -> None:
        check_wording(self.wording)
        check_notation(self.notation)


@dataclass
class SourceSection:
    """One data file or folder, and which of its rows are used how often (`samples.mixture`)."""

    path: str = field(metadata={"path": True})
    "A file, a published folder, or a dataset of the hub: hub:OWNER/NAME."
    split: str | None = None
    "Which part of a folder or a hub dataset."
    images: str | None = field(default=None, metadata={"path": True})
    "Folder that the rows' image paths start from; without it, what the file's format prescribes."
    outside: bool = False
    "Rows may name images outside that folder (absolute paths, `..`); our own JSONL may name absolute ones anyhow."
    format: str | None = None
    "Format of the file; without it, told by its contents."
    task: str | None = None
    "Task of every row that does not name one."
    tasks: list[str] | None = None
    "Use only rows of these tasks."
    limit: int | None = None
    "Use only the first so many rows (of those tasks)."
    percent: float | None = None
    "Of these, use so many percent, drawn by the recipe's seed; a larger percentage keeps what a smaller one drew."
    repeat: int = 1
    "Use each of these rows so many times."
    ratio: float | None = None
    "Instead of percent and repeat: this source's part of `data.rows`, in proportion to the other sources' ratios."

    def check(self) -> None:
        if not self.path:
            raise RecipeError("path is empty; expected a data file")
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"limit = {self.limit}; expected at least 1, or null for all rows")
        if self.percent is not None and not 0 < self.percent <= 100:
            raise RecipeError(f"percent = {self.percent}; expected 0 < percent ≤ 100 (30 keeps 30 of 100 rows)")
        if self.repeat < 1:
            raise RecipeError(f"repeat = {self.repeat}; expected at least 1 (to use fewer rows: percent)")
        if self.ratio is not None:
            if not 0 < self.ratio < float("inf"):
                raise RecipeError(f"ratio = {self.ratio}; expected a positive number")
            if self.percent is not None or self.repeat != 1:
                raise RecipeError("ratio says how many rows are used, and so do percent and repeat; keep one of them")
        if self.format is not None and self.format not in FORMATS:
            raise RecipeError(f"format = {self.format!r}; known formats: {', '.join(FORMATS)}")
        _known_tasks("task", [] if self.task is None else [self.task])
        _some_tasks(self.tasks)


@dataclass
class DataSection:
    train: list[SourceSection] = field(default_factory=list)
    "What is trained on, one after another before shuffling."
    eval: list[SourceSection] = field(default_factory=list)
    "Held-out data."
    on_fault: Literal["error", "skip"] = "error"
    "A faulty row (missing image, inverted box, …) ends the run, or is left out and counted."
    tasks: list[str] | None = None
    "Use only rows of these tasks."
    rows: int | None = None
    "Training rows in all, where the sources state `ratio`."
    shuffle: bool = True
    "Shuffle the training rows, by the recipe's seed."

    def check(self) -> None:
        _some_tasks(self.tasks)
        mixture.check(self)


@dataclass
class ShardingSection:
    """DeepSpeed ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054)."""

    zero: Literal[0, 1, 2, 3] = 0
    "What is split over the GPUs: 0 nothing, 1 optimiser state, 2 also gradients, 3 also weights."
    offload: bool = False
    "Keep optimiser state (with zero 3 also weights) in the host's memory: less GPU memory, slower."

    def check(self) -> None:
        if self.offload and self.zero == 0:
            raise RecipeError("offload needs DeepSpeed; write zero: 2 or zero: 3, or offload: false")


@dataclass
class StageRecipe:
    """What a recipe of any stage holds."""

    model: ModelSection
    "The model to train or to ask; in GRPO with `training.beta` above 0 its starting point is the reference model too."
    output: str
    "Run folder: the resolved recipe, metrics, pictures; a trained model lies in `final/`."
    images: ImageSection = field(default_factory=ImageSection)
    "Pixel limits, the same in every stage."
    prompt: PromptSection = field(default_factory=PromptSection)
    "How questions are asked."
    data: DataSection = field(default_factory=DataSection)
    "Where rows come from: `train:` is learnt from, `eval:` is held out."
    seed: int = 0
    "Seed of data order, sampling and adapters."
    overwrite: bool = False
    "Replace what an earlier run left in `output` instead of refusing."


@dataclass
class TrainingRecipe(StageRecipe):
    """What a recipe of any training stage adds."""

    sharding: ShardingSection = field(default_factory=ShardingSection)
    "DeepSpeed ZeRO."
    tracking: TrackingSection = field(default_factory=TrackingSection)
    "Dashboards."
    resume: str | None = None
    "`auto`: go on from the last whole checkpoint in `output`, if there is one; or the folder of a checkpoint."
    guards: GuardSection = field(default_factory=GuardSection)
    "Steps that are not finite."
    watchdog: WatchdogSection | None = field(default_factory=WatchdogSection)
    "Tells who stands still; null for none."
    dump: DumpSection = field(default_factory=DumpSection)
    "Steps to be kept for `launch/replay.py`."
    gpus: str | None = None
    "Target of `--dry-run`, e.g. 8xA100-80G."


def _some_tasks(tasks: list[str] | None) -> None:
    if tasks is not None and not tasks:
        raise RecipeError("tasks is empty, which would leave no rows; write null for all tasks")
    _known_tasks("tasks", tasks or [])


def _known_tasks(key: str, tasks: list[str]) -> None:
    for task in tasks:
        if task not in TASKS:
            raise RecipeError(f"{key}: found {task!r}, expected one of {', '.join(TASKS)}")
