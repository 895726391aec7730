"""What recipes of every stage hold; a stage's own recipe (`rl/recipe.py` …) adds keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from samples.mixture.marks import prompt_key
from samples.sections import DataSection
from stage.recipe.annotations import members
from stage.recipe.arguments import Keys
from stage.recipe.together import check_together
from stage.tracking.section import TrackingSection
from vlm.boxes import FALLBACK
from vlm.common.errors import RecipeError
from vlm.common.section import Folder, Section, Seed
from vlm.families import Family
from vlm.sections import AUTO, ImageSection, ModelSection, PromptSection, ToolSection, TurnSection
from vlm.shapes import absent, family_here
from vlm.tools.toolbox import instruction


def _whole(value: object) -> object:
    """True and 1.0 equal 1, so pydantic takes them for it in a Literal."""
    if type(value) is not int:
        raise ValueError("expected a whole number")
    return value


class ShardingSection(Section):
    """DeepSpeed ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054)."""

    zero: Annotated[Literal[0, 1, 2, 3], BeforeValidator(_whole)] = 0
    "What is split over the GPUs: 0 nothing, 1 optimiser state, 2 also gradients, 3 also weights."
    offload: bool = False
    "Keep optimiser state (with zero 3 also weights) in the host's memory: less GPU memory, slower."

    def check(self) -> None:
        if self.offload and self.zero == 0:
            raise RecipeError("offload needs DeepSpeed; write zero: 2 or zero: 3, or offload: false")


class GuardSection(Section):
    """Steps whose loss or gradient is NaN or infinite (`stage.guards.finite`)."""

    skip: int = 5
    "Such a step changes no weight; the run ends when more than N come one after another. 0: at the first."
    dumps: int = 3
    "Dump the first N of them (`stage.replay.dumps`), to be computed again by `launch/replay.py`."

    def check(self) -> None:
        if self.skip < 0 or self.dumps < 0:
            raise RecipeError(f"skip = {self.skip}, dumps = {self.dumps}; expected numbers of steps, 0 or more")


class WatchdogSection(Section):
    """Reports when a run no longer moves, and where it hangs (`stage.guards.watchdog`)."""

    minutes: float = 30.0
    "Report a process without progress for so long: longer than any rollout or save, shorter than training.ddp_timeout."
    abort: bool = False
    "Then end the process too (exit code 75), so that a scheduler can start the run again with `resume: auto`."

    def check(self) -> None:
        if not self.minutes > 0:
            raise RecipeError(f"minutes = {self.minutes}; expected more than 0, or `watchdog: null` for none")


class DumpSection(Section):
    """Steps whose inputs and random states are kept for `launch/replay.py` to compute again (`stage.replay.dumps`)."""

    steps: list[int] = []
    "These steps; the first is 1."
    every: int | None = None
    "And every N steps."
    weights: bool = False
    "With the weights before the step, for steps that do not follow upon a checkpoint."

    def check(self) -> None:
        if any(step < 1 for step in self.steps) or (self.every is not None and self.every < 1):
            raise RecipeError(f"steps = {self.steps}, every = {self.every}; steps are counted from 1")

    def due(self, step: int) -> bool:
        return step in self.steps or bool(self.every and step % self.every == 0)


class ToolKeys(Section):
    """Of a recipe whose model may call tools while it answers (`vlm.tools`)."""

    tools: list[ToolSection] = []
    "What the model may call: `zoom`, or functions of yours."
    turns: TurnSection = TurnSection()
    "How conversations with tools go."

    @property
    def zooms(self) -> bool:
        """Whether the zoom is among the tools."""
        return any(one.use == "zoom" for one in self.tools)


class StageRecipe(Section):
    """What a recipe of any stage holds."""

    model: ModelSection
    "The model to train or to ask; in GRPO with `training.beta` above 0 its starting point is the reference model too."
    output: Folder
    "Run folder: the resolved recipe, metrics, pictures; a trained model is in `final/`."
    images: ImageSection = ImageSection()
    "Pixel limits, the same in every stage."
    prompt: PromptSection = PromptSection()
    "How questions are asked."
    data: DataSection = DataSection()
    "Where rows come from: `train:` is trained on, `eval:` is held out."
    seed: Seed = 0
    "Seed of data order, sampling and adapters."
    overwrite: bool = False
    "Replace what an earlier run left in `output` instead of refusing."

    @model_validator(mode="after")
    def _hand_on(self) -> Self:
        for source in (*self.data.train, *self.data.eval):
            source.inherit(self.images)
        if isinstance(self.data, DataSection):  # a score model's is another, whose rows nobody is asked
            self.data.asked_by(prompt_key(self.prompt))
        self.settle()
        if isinstance(self, ToolKeys) and self.tools:
            self.prompt = self.prompt.told(instruction(self.tools, self.turns), self.turns.ask)
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """What the model is called."""
        return (self.model.path,)

    def settle(self, fetch: bool = False) -> list[str]:
        """Put the family's own in the place of what the recipe leaves to it: the notation of boxes, LoRA's linears.

        It stays open where nothing here tells the family. fetch: then look on the hub, and for want of anything take
        `FALLBACK`. Returns what to say of that.
        """
        lora = self.model.lora
        left = self.prompt.notation == AUTO or (lora is not None and lora.target_modules is None)
        family = family_here(self.named, self.model.revision, fetch and left) if left or fetch else None
        if family is not None and lora is not None and lora.target_modules is None:
            chosen = lora.model_copy(update={"target_modules": list(family.linears)})
            self.model = self.model.model_copy(update={"lora": chosen})
        notation, doubt = notation_of(self.prompt.notation, family, fetch, "prompt.notation", self.named)
        self.prompt = self.prompt.model_copy(update={"notation": notation})
        return doubt


def notation_of(
    stated: str, family: Family | None, last: bool, key: str, named: Sequence[str]
) -> tuple[str, list[str]]:
    """(the notation in place of `auto`, what to say of it). last: take `FALLBACK` where there is no family."""
    found = stated if stated != AUTO else family.notation if family else FALLBACK if last else AUTO
    known = family.units if family else stated != AUTO
    if not last or known or found != FALLBACK or any(map(absent, named)):
        return found, []
    who = " or ".join(named) or "the one who writes or reads them"
    return found, [f"{key}: nothing here tells how {who} writes boxes; {found} is taken; state {key} if it is not"]


class TrainingRecipe(StageRecipe):
    """What a recipe of any training stage adds."""

    sharding: ShardingSection = ShardingSection()
    "DeepSpeed ZeRO."
    tracking: TrackingSection = TrackingSection()
    "Dashboards."
    resume: Folder | None = None
    "`auto`: resume from the last complete checkpoint in `output`, if there is one; or the folder of a checkpoint."
    accept_changes: list[Literal["data", "pictures", "rewards", "model"]] = []
    "A resume takes changed rows, picture files, reward code and score models, or base weights, and records them."
    guards: GuardSection = GuardSection()
    "Steps that are not finite."
    watchdog: WatchdogSection | None = WatchdogSection()
    "Reports processes that hang; null for none."
    dump: DumpSection = DumpSection()
    "Steps to be kept for `launch/replay.py`."
    gpus: str | None = None
    "Target of `--dry-run`, e.g. 8xA100-80G."
    training: Annotated[dict[str, Any], Keys] = {}
    "The trainer's own arguments, key by key."

    @classmethod
    def arguments(cls) -> type[Keys]:
        """The model of `training:`."""
        (keys,) = members(cls.model_fields["training"])
        return keys

    def argument(self, key: str) -> Any:
        """A value of `training:`; where the recipe gives none, the run's default."""
        return self.training.get(key, self.arguments().model_fields[key].default)

    def check(self) -> None:
        check_together(self)


NEUTRAL = (
    "output", "overwrite", "resume", "accept_changes", "accept_changes.*", "gpus", "images.limit", "images.cache",
    "data.cache",
    "tracking", "tracking.*", "check_sharing", "dump", "dump.*",
    "guards", "guards.*", "watchdog", "watchdog.*", "rewards.*.timeout", "rewards.*.slow", "rewards.*.retries",
    "rewards.*.max_failures", "rewards.*.failure_window",
    "training.logging_*", "training.log_*", "training.num_completions_to_print", "training.save_*",
    "training.dataloader_num_workers", "training.dataloader_prefetch_factor", "training.dataloader_pin_memory",
    "training.dataloader_persistent_workers", "training.torch_empty_cache_steps", "training.ddp_timeout",
    "training.skip_memory_metrics",
)  # fmt: skip
"""Keys (patterns) of a training recipe that change no result: a resume may change them, and runs that differ in nothing
else are the same."""
