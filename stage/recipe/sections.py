"""What recipes of every stage hold; a stage's own recipe (`rl/recipe.py` …) adds keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from samples.sections import DataSection
from stage.guards.sections import GuardSection, WatchdogSection
from stage.replay.dump_section import DumpSection
from stage.tracking.section import TrackingSection
from vlm.common.errors import RecipeError
from vlm.sections import ImageSection, ModelSection, PromptSection


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
