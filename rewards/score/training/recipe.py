"""What a recipe for training the score model holds (`recipes/score/stage1.yaml`)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from samples.readers.tables import HUB
from samples.sections import FileSection, Role
from stage.recipe.arguments import arguments
from stage.recipe.sections import TrainingRecipe
from vlm.adapters import PARTS
from vlm.boxes import FALLBACK
from vlm.common.errors import RecipeError
from vlm.common.section import LocatedPath, Section
from vlm.sections import PromptSection

HEAD = "head"
Part = Literal["head", "vision_tower", "merger", "language_model"]

ARGUMENTS = arguments(
    "RewardConfig",
    {
        "train_sampling_strategy": "data.shuffle",
        "max_length": "nothing (an exchange is never cut: its end is what is read)",
        "disable_dropout": "nothing (the models have none)",
        "activation_offloading": "nothing (use gradient_checkpointing)",
        "dataset_num_proc": "nothing (rows are encoded as they are read)",
        "chat_template_path": "nothing (the checkpoint's own template is used)",
        "eos_token": "nothing (the checkpoint's own is used)",
        "pad_token": "nothing (the checkpoint's own is used)",
        "pad_to_multiple_of": "nothing (a batch is padded to its longest exchange)",
    },
)


class PreferenceSource(FileSection):
    """One file of preferences; its layout is detected from its content (`rewards.score.training.preferences`)."""

    unit: ClassVar[str] = "records"
    expected: ClassVar[str] = "a file of preferences"

    images: LocatedPath | None = None
    "Folder that image names start from, or that holds a folder of images named as the file; else, the file's own."
    text_only: bool = False
    "Score without pictures, also rows that name one; otherwise a picture that is not there is a fault."
    limit: int | None = None
    "Use only the first N records."

    def check(self) -> None:
        super().check()
        if self.path.startswith(HUB):
            name = self.path.removeprefix(HUB)
            raise RecipeError(
                f"path = {self.path!r}: preferences are read from files; `hf download {name} --repo-type dataset "
                "--local-dir FOLDER`, and name its parquet or JSONL file"
            )


class PreferenceData(Section):
    train: list[PreferenceSource] = []
    "What is trained on, one after another before shuffling."
    eval: list[PreferenceSource] = []
    "Held-out preferences, measured at the end and by `training.eval_strategy`."
    on_fault: Literal["error", "skip"] = "error"
    "A faulty row (missing image, no rejected text, …) ends the run, or is left out and counted."
    shuffle: bool = True
    "Shuffle the training records, by the recipe's seed."
    cache: LocatedPath | None = None
    "Folder in which checked records are kept for later starts; null: NADIR_CACHE, else `~/.cache/nadir`."

    def sources(self, role: Role) -> list[PreferenceSource]:
        return self.train if role == "train" else self.eval


class ScoreRecipe(TrainingRecipe):
    """A score model from preferences: Bradley-Terry, -log σ(s⁺ - s⁻ - margin), mean over a record's pairs.

    `model.path` is a score model (an earlier stage's `final/`, a published ScoreRS) or a plain Qwen2-VL, Qwen2.5-VL or
    Qwen3-VL, which gets a fresh head.
    """

    first = (
        "stage output model.path data.train.<n>.path data.eval.<n>.path train positions training.learning_rate "
        "training.per_device_train_batch_size training.gradient_accumulation_steps training.num_train_epochs "
        "training.max_steps training.lr_scheduler_type training.warmup_steps training.gradient_checkpointing "
        "training.logging_steps training.save_strategy training.eval_strategy images.min_pixels images.max_pixels "
        "model.dtype model.attention model.lora sharding.zero tracking.report_to gpus"
    )
    stage: Literal["score"] = "score"
    "Which launcher the recipe is for."
    data: PreferenceData = PreferenceData()
    "Preferences: `train:` is trained on, `eval:` is held out."
    train: Literal["full"] | list[Part] = "full"
    "Parts that are trained, or `full` for all of them. With `model.lora`, the head and adapters in the other parts."
    positions: Literal["mrope", "sequential"] | None = None
    "Rotary positions; null: what the checkpoint says, `mrope` for a fresh head. Published weights saw `sequential`."
    training: Annotated[dict[str, Any], ARGUMENTS] = {}
    "TRL's RewardConfig, key by key (learning_rate, center_rewards_coefficient, eval_strategy, …)."

    def settle(self, fetch: bool = False) -> list[str]:
        """No notation: `prompt` is not read."""
        self.prompt = PromptSection(notation=FALLBACK)
        return super().settle(fetch)

    @property
    def frozen(self) -> list[str]:
        """The parts of the backbone (`vlm.adapters.PARTS`) that are not trained."""
        return [] if self.train == "full" else [part for part in PARTS if part not in self.train]

    def check(self) -> None:
        """Refuse, before any weight loads, what would be ignored or cannot be trained."""
        if not self.data.train:
            raise RecipeError("data.train is empty; name at least one file, e.g. `train: [{path: preferences.jsonl}]`")
        if not self.train:
            raise RecipeError("train is empty, so nothing would be trained; write `train: [head]` or `train: full`")
        if self.train != "full" and HEAD not in self.train:
            raise RecipeError(f"train is {self.train}; without the head it cannot learn what a score is: add `head`")
        if self.model.freeze:
            raise RecipeError(f"model.freeze is {self.model.freeze}; here `train` names the parts that are trained")
        if self.model.liger:
            raise RecipeError("model.liger: Liger's kernels are for the language-model head; write `liger: false`")
        if self.prompt not in (
            PromptSection(),
            PromptSection(notation=FALLBACK),
        ):  # older saved recipes have the latter
            raise RecipeError(
                "prompt is not read here: a question is scored as the preferences state it; leave it out, or take a "
                "base's back by `prompt: null`"
            )
        if self.images.random_resize is not None:
            raise RecipeError("images.random_resize is for the rows of SFT and GRPO; write `random_resize: null`")
        super().check()
        self._check_lora()

    def _check_lora(self) -> None:
        if self.model.lora is None:
            return
        if set(self.frozen) == set(PARTS):
            raise RecipeError(f"train is {self.train}, so model.lora has nothing to adapt; leave lora out")
        if "language_model" in self.frozen and self.model.lora.language:
            raise RecipeError(
                f"model.lora would train {self.model.lora.language} in the language model, which `train` does not "
                "name; add language_model, or name other layers in model.lora.target_modules"
            )
