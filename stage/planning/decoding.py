"""How many rows are decoded at a time: as many as fit the memory, by the arithmetic of `stage.planning.memory`.

    GPU    weights + cache + prefill + pictures + sampling + OVERHEAD ≤ SHARE of the card, less what others hold of it
    CPU    cache + prefill + pictures + sampling ≤ CPU_ROOM: its free memory says little, as others use it, too

and on both at most MOST rows, whose pictures take at most PICTURES of the host's memory. Every row is planned with the
longest prompt of the data, pictures as large as they can be, and all its new tokens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from samples import Sample
from stage.parallel.agreement import gather
from stage.parallel.team import device
from stage.planning import memory
from stage.planning.estimate import DTYPE_BYTES
from stage.planning.gpus import parse_gpus
from stage.planning.job import Job, prompts_of
from stage.planning.lengths import Lengths
from stage.planning.memory import GIB, OVERHEAD
from stage.recipe.sections import ToolKeys
from vlm.common.errors import RecipeError
from vlm.common.processes import processes
from vlm.families import UnknownSizes
from vlm.shapes import Shape, shape, sight_of
from vlm.tools.toolbox import Toolbox

logger = logging.getLogger(__name__)

BatchSize = int | Literal["auto"]
SHARE = 0.9
"""Of a card's memory; the rest is for what the arithmetic leaves out, and for fragments as the cache grows."""
CPU_ROOM = 4 * GIB
PICTURES = 4 * GIB
MOST = 256
"""Rows: with more, most wait for the longest, and a kill loses more answers."""
VLLM = 256
"""Questions that are handed to vLLM or to a server at a time, which batch them by themselves."""


def check(size: BatchSize) -> None:
    """Raises: RecipeError."""
    if size != "auto" and size < 1:
        raise RecipeError(f"batch_size = {size}; expected at least 1, or auto for as many as the memory holds")


@dataclass(frozen=True)
class Decoding:
    """What decoding takes, in bytes. A prompt is prefilled once for its rows of a batch."""

    shape: Shape
    setup: memory.Setup
    prompt_tokens: int
    """Text of the longest prompt."""
    visual_tokens: int
    """Of a prompt, with all that tools may show behind it."""
    new_tokens: int
    group: int = 1
    """Rows of a prompt: N of best-of-N."""

    @property
    def weights(self) -> int:
        return self.setup.weight_bytes * self.shape.total

    def parts(self, rows: int) -> dict[str, int]:
        """Bytes on the device beside the weights; together their worst moment, which is a little less."""
        b, sizes, prompts = self.setup.weight_bytes, self.shape, prompts_of(rows, self.group)
        length, patches = self.prompt_tokens + self.visual_tokens, memory.tower_places(sizes, self.visual_tokens)
        parts = memory.rollout(sizes, self.setup, rows, length, self.new_tokens, prefilled=prompts)
        parts.pop("gathered weights")
        parts["KV cache"] += memory.kv_cache(sizes, b, prompts, length) if self.group > 1 else 0
        vision = prompts * patches * b * (3 * sizes.vision_intermediate + 4 * sizes.width)
        if self.setup.attention == "eager":
            seen = min(patches, sizes.unit or patches)
            scored = sizes.heads * length**2, sizes.vision_heads * patches * seen
            parts["prefill"] += prompts * scored[0] * memory.score_bytes(b)
            vision += prompts * scored[1] * memory.score_bytes(b)
        parts["prefill"] = max(parts["prefill"], vision)
        return parts | {"pictures": prompts * self.pixels}

    @property
    def pixels(self) -> int:
        """Bytes of a prompt's pictures as the model takes them, in float32."""
        sizes = self.shape
        return 4 * self.visual_tokens * sizes.merge**2 * sizes.channels * sizes.temporal * sizes.patch**2

    def peak(self, rows: int) -> int:
        return self.weights + sum(self.parts(rows).values()) + OVERHEAD

    def most(self, room: int) -> int:
        """Rows whose `parts` fit `room` bytes, at least 1; whole prompts where one or more fit, else equal parts of one
        (but for rounding)."""
        # the host holds pixels twice, as they come from each picture and put together
        pictures = max(1, PICTURES // max(1, 2 * self.pixels)) * self.group
        fitting = (n for n in range(min(MOST, pictures), 1, -1) if sum(self.parts(n).values()) <= room)
        most = next(fitting, 1)
        return most // self.group * self.group if most >= self.group else math.ceil(self.group / self.loops(most))

    def loops(self, size: int) -> int:
        """Batches over which the rows of one prompt are spread."""
        return math.ceil(self.group / size)

    def of_card(self, gib: float) -> int:
        """Rows for an empty card with that much usable memory."""
        return self.most(int(SHARE * gib * GIB) - OVERHEAD - self.weights)


def of_recipe(recipe: Any, lengths: Lengths, unread: bool = False, group: int = 1) -> tuple[Decoding, str]:
    """(the arithmetic of a recipe that asks questions, what it says of their lengths). lengths: has seen them.

    Raises: RecipeError where the checkpoint's sizes are not known.
    """
    sizes = shape(recipe.model)
    measured, remark = lengths.measure(unread)
    attention = recipe.model.attention
    if attention == "auto":
        attention = "sdpa" if recipe.model.dtype == "float32" else "flash_attention_2"
    setup = memory.Setup(weight_bytes=DTYPE_BYTES[recipe.model.dtype], attention=attention)
    sight = sight_of(recipe)
    pictures, toolbox = measured.get("images_per_sample", 1), None
    largest = sight.among(pictures).bounds()[1]
    if isinstance(recipe, ToolKeys):
        toolbox = Toolbox.of(recipe.tools, recipe.turns, sight)
    added = 0 if toolbox is None else toolbox.most_tokens(sight)
    found = Decoding(
        sizes,
        setup,
        measured.get("prompt_tokens", Job.prompt_tokens),
        pictures * largest + added,
        recipe.generation.max_new_tokens,
        group,
    )
    return found, remark


def batch_size(
    recipe: Any, samples: Iterable[Sample], group: int = 1, before: int | None = None, loaded: bool = False
) -> int:
    """How many rows a run decodes at a time: what the recipe says, or what an earlier part of the run took (`before`),
    or as many as fit, the same in every process. Collective. loaded: the weights are on the device already.
    """
    stated: BatchSize = recipe.generation.batch_size
    if stated != "auto":
        return stated
    if before is not None:
        return before
    if recipe.generation.backend != "hf":
        return VLLM
    lengths = Lengths(recipe)
    for sample in samples:
        lengths.see(sample)
    try:
        need, _ = of_recipe(recipe, lengths, group=group)
    except UnknownSizes as error:
        logger.warning("generation.batch_size: auto takes 1 row at a time, as memory is not planned: %s", error)
        return 1
    size = min(gather(need.most(room(0 if loaded else need.weights))))
    logger.info("generation.batch_size: auto takes %d rows at a time", size)
    return size


def room(weights: int) -> int:
    """Bytes that this process may take beside the weights that it will load."""
    import torch

    place = device()
    if place == "cpu":
        return CPU_ROOM
    free, total = torch.cuda.mem_get_info(place)
    unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
    return int(free + unused - (1 - SHARE) * total) - OVERHEAD - weights


def said(recipe: Any, lengths: Lengths, questions: int, unread: bool, group: int = 1) -> Iterator[str]:
    """Lines of a dry run: how many rows at a time, what memory they take, and whether that fits the target.

    questions: how many are asked. unread: some rows of the data are not here.
    """
    stated: BatchSize = recipe.generation.batch_size
    key = f"generation.batch_size: {stated}"
    if recipe.generation.backend == "vllm":
        yield f"{VLLM if stated == 'auto' else stated} rows at a time are handed to vLLM, which plans its memory"
        return
    try:
        need, remark = of_recipe(recipe, lengths, unread, group)
    except RecipeError as error:
        yield f"note: {key}: batches are not planned: {error}"
        return
    yield remark
    fleet = parse_gpus(recipe.gpus) if recipe.gpus else None
    if fleet is None:
        cpu = need.most(CPU_ROOM)
        yield f"name the target (gpus=8xA100-80G) for the batches and memory of a GPU; on a CPU auto is {cpu} rows"
        if stated == "auto":
            return
    size = need.of_card(fleet.gib) if stated == "auto" and fleet else int(stated)
    count = fleet.count if fleet else processes()
    batches = math.ceil(math.ceil(questions / count) * group / size)
    each = f" in each of {count} processes" if count > 1 else ""
    yield f"{size} row{'s' * (size > 1)} at a time ({key}): {batches} batch{'es' * (batches != 1)}{each}"
    if group > 1:
        loops = need.loops(size)
        several = f", {size // group} questions at a time" if size >= 2 * group else ""
        yield f"{group} answers to a question in {loops} loop{'s' * (loops > 1)}{several}"
    parts = {"weights": need.weights, **need.parts(size), "CUDA, fragmentation": OVERHEAD}
    named = ", ".join(f"{name} {value / GIB:.2f}" for name, value in parts.items())
    yield f"GiB of a GPU: {named}; peak {need.peak(size) / GIB:.1f}"
    if fleet is not None:
        fits = need.peak(size) <= fleet.gib * GIB
        advice = "" if fits else "; lower generation.batch_size, images.max_pixels or generation.max_new_tokens"
        yield f"{'fits' if fits else 'does not fit'}: the {fleet.gib:.1f} GiB of {fleet}{advice}"
