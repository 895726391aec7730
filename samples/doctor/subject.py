"""What is examined: the parts of a recipe that matter, of whatever stage, and the room that its rows have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from samples import Faults, Sample
from samples.facts import zoomed
from samples.reading import Check
from samples.rows import Spelled, spelled
from vlm import prompts
from vlm.common.errors import DataError, RecipeError
from vlm.families import Sight
from vlm.families.sight import USUAL
from vlm.pictures.places import TAG, placed
from vlm.sections import PromptSection
from vlm.shapes import sight_of
from vlm.tools.toolbox import zoom_of
from vlm.tools.zoom import Zoom


@dataclass
class Ruler:
    """Measures rows in tokens. Without a tokenizer, `note` says why."""

    prompt: PromptSection
    sight: Sight = USUAL
    answers: bool = False
    "The assistant's turn counts, too (SFT)."
    zoom: Zoom | None = None
    "Of the recipe's tools."
    tokenizer: Any = None
    room: int | None = None
    "Tokens that a row may take; None: no limit is known."
    rule: str = ""
    "Where the limit comes from."
    note: str = ""

    def text_tokens(self, samples: Sequence[Sample]) -> list[int]:
        """Tokens of each row's text, template included, and of its crops; the row's own pictures not."""
        texts: list[str] = []
        visual: list[int] = []
        for sample in samples:
            found = self.spelled(sample) or spelled(sample, self.prompt, self.sight)
            turns = [*found.asked, *found.reply] if self.answers else prompts.asked(sample, self.prompt)
            visual.append(sum(self.sight.tokens(crop) + 2 for crop in found.crops))
            ask = not (self.answers and found.reply)
            texts.append(self.tokenizer.apply_chat_template(_texts(turns), tokenize=False, add_generation_prompt=ask))
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [len(ids) + more for ids, more in zip(encoded, visual, strict=True)]

    def spelled(self, sample: Sample) -> Spelled | None:
        """A row as SFT has it; None where it would refuse the row's zooms."""
        if self.zoom is None and zoomed(sample.messages):
            return None
        try:
            return spelled(sample, self.prompt, self.sight, self.zoom)
        except DataError:
            return None


def _texts(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """A conversation without its pictures."""
    return [{**turn, "content": turn["content"].replace(TAG, "")} for turn in turns] if placed(turns) else turns


class Examined(Protocol):
    """One source: its samples, counted while they are read (`samples.mixture.Source` is one)."""

    section: Any
    faults: Faults
    tasks: list[str]
    "Task of each row that passed."
    read: Counter[str]
    "Good rows by task."

    def __iter__(self) -> Iterator[Sample]: ...


@dataclass
class Subject:
    """A recipe as the doctor sees it."""

    data: Any
    "A `DataSection`, or whatever else `open` knows the sources of."
    seed: int
    ruler: Ruler
    sight: Sight = USUAL
    notes: list[str] = field(default_factory=list)
    open: Callable[[Any, Faults], Examined] | None = None
    "Begins a source of the recipe, faulty rows left out; None: `samples.mixture.Source`, and the mixture is drawn."
    unique: bool = False
    "No two held-out rows may have one name: results are kept by it."
    check: Check | None = None
    "Raises RowFault for samples that the stage refuses."
    others: int = 0
    "Of `data.eval` the last sources that are another recipe's (`--against`): nothing of them is learned."


def subject(recipe: Any) -> Subject:
    """The subject of a recipe of SFT, GRPO, evaluation, best-of-N or curation.

    The tokenizer is loaded where it is at hand; no weights are.
    """
    if recipe.stage == "curate":  # a corpus for a score model: no prompt, no limits
        note = "row lengths are not measured: a curation recipe names no policy"
        return Subject(recipe.data, recipe.seed, Ruler(PromptSection(), note=note), notes=[note])
    sight = sight_of(recipe)
    ruler = Ruler(recipe.prompt, sight, answers=recipe.stage == "sft")
    if ruler.answers:
        ruler.zoom = zoom_of(recipe.tools, sight)
    found = Subject(recipe.data, recipe.seed, ruler, sight, unique=recipe.stage in ("eval", "bon"))
    if recipe.images.random_resize is not None:
        found.notes.append("images.random_resize: tokens are those of images as they are; training draws other sizes")
    try:
        ruler.tokenizer, context = tokenizer_of(recipe)
        ruler.room, ruler.rule = _room(recipe, context)
    except RecipeError as error:
        ruler.note = f"row lengths are not measured: {error}"
        found.notes.append(ruler.note)
    return found


def tokenizer_of(recipe: Any) -> tuple[Any, int | None]:
    """The model's tokenizer, and the longest sequence that its config allows."""
    from vlm.loading import load_processor, raw_config

    model = recipe.model
    processor = load_processor(model.path, recipe.images, model.revision, model.trust_remote_code)
    config = raw_config(model.path, model.revision)
    context = config.get("text_config", config).get("max_position_embeddings")
    processor.tokenizer.chat_template = processor.chat_template  # which a family may have mended
    return processor.tokenizer, context or config.get("max_position_embeddings")


def _room(recipe: Any, context: int | None) -> tuple[int | None, str]:
    """(tokens that a row may take, why): the least of what the stage's options and the model's context leave."""
    limits: list[tuple[int, str]] = []
    kept, why = 0, ""
    if recipe.stage == "sft":
        if (longest := recipe.argument("max_length")) is not None:
            limits.append((longest, "training.max_length"))
    elif recipe.stage == "grpo":
        kept, why = recipe.argument("max_completion_length"), " less training.max_completion_length"
        if recipe.argument("use_vllm") and (longest := recipe.argument("vllm_max_model_length")) is not None:
            limits.append((longest - kept, "training.vllm_max_model_length" + why))
    else:
        kept, why = recipe.generation.max_new_tokens, " less generation.max_new_tokens"
    if context is not None:
        limits.append((context - kept, "the model's context" + why))
    return min(limits, default=(None, "no limit is known"))
