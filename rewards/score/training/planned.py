"""`--dry-run` of a score-model recipe: `stage.planning.estimate` for a model without LM head that reads whole records.

A sample is a record, and its candidates stand in one forward pass: two exchanges or more a record. Memory follows
`stage.planning.memory`; what differs: no loss over the vocabulary, and where the head alone trains, nothing is kept
for a backward pass. The vision tower is planned for every exchange, though candidates share their pictures: a little
too much.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.score.model.layout import check_family
from rewards.score.placement import Loaded, Served
from rewards.score.sharded import Sharded
from rewards.score.training.preferences import Check, Preference, of_source, say_unread
from rewards.score.training.recipe import PreferenceSource, ScoreRecipe
from rewards.score.training.trainable import is_score_model
from samples import Faults
from samples.mixture.drawing import DryFaults
from stage.planning import memory
from stage.planning.control import ControlTokens, tokens_of
from stage.planning.estimate import DTYPE_BYTES, memory_setups, widest
from stage.planning.gpus import parse_gpus
from stage.planning.job import Job, batches, check_full_batch, common
from stage.planning.lengths import Lengths
from stage.planning.plan import Plan
from stage.planning.storage import storage
from stage.recipe import config
from vlm import families
from vlm.adapters import PARTS
from vlm.common.errors import RecipeError
from vlm.families import known
from vlm.loading import at_hand
from vlm.sections import ModelSection
from vlm.shapes import Shape, shape, sight

if TYPE_CHECKING:
    from rewards.score.reward.score import Score

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Survey:
    """What the data holds; of files that are not here, what the recipe lets expect."""

    records: int = 0
    candidates: int = 2
    "The most that a record has."
    images: int = 0
    "The most that a record has."
    tokens: dict[str, int] = dataclasses.field(default_factory=dict)
    "Fields of a `Job`: the longest texts, where they were measured."
    remarks: tuple[str, ...] = ()
    "What the plan says of them."


def survey(
    sources: Sequence[PreferenceSource],
    on_fault: str = "skip",
    check: Check | None = None,
    lengths: Lengths | None = None,
) -> Survey:
    """Count a recipe's training records; a file that is not here counts with its `limit`, as pairs.

    on_fault: the recipe's; under "error" a faulty row ends it as it ends the run, unless only its image is missing.
    check: as in `read`. lengths: measures what is asked, and the candidates.
    Raises: RecipeError where neither file nor limit says; DataError as `read`.
    """
    found, unread = Survey(), False
    for source in sources:
        if Path(source.path).exists():
            faults = DryFaults() if on_fault == "error" else Faults()
            rows = of_source(source, "skip", faults, verify_images=False, check=check)
            for record in islice(rows, source.limit):
                found.records += 1
                found.candidates = max(found.candidates, len(record.ranked))
                found.images = max(found.images, len(record.images))
                for text in record.ranked if lengths is not None else ():
                    lengths.note(record.asked, [{"role": "assistant", "content": text}], len(record.images))
            say_unread(source, faults)
        elif source.limit is not None:
            logger.warning("%s is not here; planning with its limit of %d pairs", source.path, source.limit)
            found.records += source.limit
            found.images, unread = max(found.images, int(not source.text_only)), True
        else:
            raise RecipeError(f"data.train: {source.path} is not here and has no `limit`; state one to plan with")
    if lengths is not None:
        found.tokens, remark = lengths.measure(unread)
        found.tokens.pop("images_per_sample", None)  # it does not know of `text_only`
        found.remarks = (remark,)
    return found


def text_check(recipe: ScoreRecipe, fetch: bool = False) -> Check:
    """Refuses records whose texts spell out control tokens of the model, or whose pictures have no room in the budget
    of a row (`stage.planning.control`)."""
    return TextCheck(tokens_of(recipe.model, None, fetch).beside(recipe))


@dataclasses.dataclass(frozen=True)
class TextCheck:
    tokens: ControlTokens

    @property
    def identity(self) -> str:
        return self.tokens.identity

    def __call__(self, record: Preference) -> None:
        self.tokens.fits(record.images)
        asked = (("question", turn["content"]) for turn in record.asked)
        self.tokens.refuse([*asked, *(("ranked", text) for text in record.ranked)])


def reached(section: ModelSection) -> ModelSection:
    """The section; of a checkpoint that is not here, as an earlier stage's `final/`, the size that its path names."""
    if Path(section.path).exists():
        return section
    return section.model_copy(update={"path": known(section.path) or section.path})


def check(recipe: ScoreRecipe) -> None:
    """Raises: RecipeError for a model of a family that cannot carry a head."""
    check_family(reached(recipe.model).path, recipe.model.revision)


def scorer_shape(recipe: ScoreRecipe, section: ModelSection) -> Shape:
    """Shape of the score model: the head, counted with the language model, in place of the LM head."""
    lora = section.lora is not None
    sizes = shape(reached(section).model_copy(update={"freeze": recipe.frozen if lora else []}))
    parameters = dict(sizes.parameters)
    parameters["language_model"] += sizes.hidden - (0 if sizes.tied else sizes.vocabulary * sizes.hidden)
    trained = sizes.trainable if lora else {part: 0 if part in recipe.frozen else parameters[part] for part in PARTS}
    if lora or "language_model" in recipe.frozen:
        trained = trained | {"language_model": trained["language_model"] + sizes.hidden}
    return dataclasses.replace(sizes, parameters=parameters, trainable=trained, head_trainable=False)


def plan(recipe: ScoreRecipe, data: Survey | None = None) -> Plan:
    """The plan of a recipe; data: what `survey` has found, where it has looked already.

    Raises RecipeError for data that is not here, impossible batches, LoRA, or checkpoints."""
    check(recipe)
    data = data or survey(recipe.data.train, recipe.data.on_fault, text_check(recipe), Lengths(recipe, answers=True))
    check_full_batch(recipe, data.records)
    job = Job(stage="sft", samples=data.records, images_per_sample=data.images, **data.tokens, **common(recipe))
    fleet = parse_gpus(job.gpus) if job.gpus else None
    processes = fleet.count if fleet else job.processes or 1
    sizes = scorer_shape(recipe, job.model)
    sees = sight(job.model, job.images)
    limits = sees.among(data.images).bounds()
    visual, rows = data.images * limits[1], job.per_device_batch * data.candidates
    widths = {"rows": rows, "text_tokens": job.prompt_tokens + job.completion_tokens, "visual_tokens": visual}
    setups = memory_setups(job, processes)
    chosen, batch = setups[recipe.sharding.zero], batches(job, processes)
    updates = {stage: _update(sizes, setup, **widths) for stage, setup in setups.items()}
    return Plan(
        job=job,
        shape=sizes,
        fleet=fleet,
        batch=batch,
        sees=sees.text(),
        visual_limits=limits,
        visual={},
        visual_planned=visual,
        phases={"update": updates[recipe.sharding.zero]},
        host=memory.host(sizes, chosen, begun=_begun(recipe.model)),
        storage=storage(job, sizes, chosen, batch, merged=True),
        by_zero={stage: sum(parts.values()) + memory.OVERHEAD for stage, parts in updates.items()},
        notes=(*_notes(recipe, sizes, data, rows), *([] if head_only(sizes) else [widest(sizes, chosen, **widths)])),
    )


def _begun(section: ModelSection) -> bool:
    """Whether the checkpoint is a model without a head; unknown, and so no, where its config.json is not here."""
    here = at_hand(section.path, "config.json", section.revision) is not None
    return here and not is_score_model(section.path, section.revision)


def head_only(sizes: Shape) -> bool:
    """Whether nothing below the head is trained, so that nothing goes back through a layer."""
    return sizes.total_trainable == sizes.hidden


def _update(sizes: Shape, setup: memory.Setup, **widths: int) -> dict[str, int]:
    held = memory.states(sizes, setup)
    return {
        "weights": held.weights,
        "optimiser states": held.optimiser,
        "gradients": held.gradients,
        "communication buffers": held.buffers,
        "activations": 0 if head_only(sizes) else memory.activations(sizes, setup, **widths),
        "working set": memory.working_set(sizes, setup, **widths),
    }


def _notes(recipe: ScoreRecipe, sizes: Shape, data: Survey, rows: int):
    yield f"architecture: {sizes.source}"
    trained = "every part" if not recipe.frozen else ", ".join(recipe.train)
    yield f"trained: {trained}{' (by adapters, and the head)' if recipe.model.lora is not None else ''}"
    yield f"a sample is a record of up to {data.candidates} candidates: {rows} exchanges a GPU in one forward pass"
    yield from data.remarks
    yield f"a record has {f'up to {data.images} images' if data.images else 'no image'}"
    if recipe.model.attention == "auto":
        yield "attention: auto is planned as flash_attention_2; the run falls back to sdpa without it"


def resident(scores: Sequence[Score], policy: ModelSection, processes: int = 1) -> tuple[int, list[str]]:
    """(bytes, remarks) of the score models that rewards load into the training processes, on each of their GPUs.

    Weights only: a batch of scores needs little beside a training step. Of a sharded model each GPU holds its part; the
    layers that it puts together at a time are no more than the policy's, which is idle then. A checkpoint that cannot
    be reached, and whose name does not say its size, is planned as large as the policy, and a remark says so.
    """
    total, remarks = 0, []
    for scorer in (score.scorer for score in scores):
        if isinstance(scorer, Served):
            remarks.append("the score model runs elsewhere (urls); its memory is not counted")
        if not isinstance(scorer, Loaded):
            continue
        path = scorer.path if Path(scorer.path).exists() else families.known(scorer.path) or scorer.path
        asked = {"path": path, "revision": scorer.options.get("revision")}
        section = config.build(asked, ModelSection, where=f"score model {scorer.path}")
        try:
            sizes = shape(section)
        except RecipeError:
            sizes = shape(policy.model_copy(update={"freeze": [], "lora": None}))
            remarks.append(f"score model {scorer.path}: not here; planned as large as the policy")
        count = sizes.total + sizes.hidden - (0 if sizes.tied else sizes.vocabulary * sizes.hidden)
        held = count * DTYPE_BYTES[scorer.options.get("dtype", "bfloat16")]
        if isinstance(scorer, Sharded):
            held = math.ceil(held / processes)
            remarks.append(f"score model {scorer.path}: sharded over {processes} process{'es' * (processes > 1)}")
        total += held
    return total, remarks
