"""Out of memory: which changes to this recipe would help most, computed by its plan (`stage.planning`).

    @advised(planner)
    def train(recipe): …

A change is a key of the recipe with another value. Its saving is how much lower the planned peak of one GPU is with it,
all else as it was; the three largest are named, and the peak with all three. The plan is of shapes and formulas: it
ranks changes, and is no measurement of what this process held.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from stage.guards import broken_gpu
from stage.guards.progress import here
from stage.planning.job import launched
from stage.planning.memory import GIB
from stage.planning.plan import Outline, Plan
from stage.recipe import config
from vlm.common.errors import RecipeError, UserError

MIB = 1024**2
NAMED = 3
SMALLEST_IMAGE = 448 * 448
"""Pixels: below 256 visual tokens details of aerial images are lost, so that is no advice."""
SHORTEST = 128
"""Tokens of a completion, likewise."""

Planner = Callable[[Any], Callable[[Any], Outline]]
"""recipe → (changed recipe → its plan). The first call may read data, the second is made many times."""


class OutOfMemory(UserError):
    """The GPU's or the machine's memory is full; the message says what would help."""


def is_out_of_memory(error: BaseException) -> bool:
    """torch's on a GPU has a class of its own; the CPU allocator's is a RuntimeError that names it."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def advised(planner: Planner) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a stage's `train(recipe, …)`, which then raises OutOfMemory with advice, and BrokenGPU."""

    def decorate(train: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(train)
        def advised_train(recipe: Any, *positional: Any, **named: Any) -> Any:
            try:
                return train(recipe, *positional, **named)
            except RuntimeError as error:
                broken_gpu.check(error)
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory(message(recipe, planner, error)) from error

        return advised_train

    return decorate


def message(recipe: Any, planner: Planner, error: BaseException) -> str:
    """What happened where, and the changes that help most."""
    said = str(error).strip().splitlines()[0].removeprefix("CUDA out of memory. ").rstrip(".")
    where = f"in {here.broken}, step {here.step}" if here.step else "before the first step"
    head = f"out of memory {where}: {said[:300]}."
    tail = "The run folder stays as it was: after the change, the same command with overwrite=true, or without it "
    tail += "in another output. A checkpoint can be resumed (resume=auto) only where the recipe is the same"
    try:
        plan = planner(recipe)
        base = plan(launched(recipe))
        if not isinstance(base, Plan):
            return f"{head} No plan could be made ({base.unplanned}). {tail}"
        found = savings(recipe, plan, base)
    except UserError as fault:  # data or checkpoint cannot be read again: no reason to hide the error
        return f"{head} No plan could be made ({fault}). {tail}"
    if not found:
        return f"{head} No change of the recipe would lower the planned peak of {_size(base.peak)} a GPU. {tail}"
    lines = [f"{head} What would help most, by the plan of this recipe:"]
    lines += [f"  {' '.join(changes)}    saves {_size(saved)}" for saved, changes in found]
    together = _peak(plan, recipe, [change for _, changes in found for change in changes])
    if together is not None and len(found) > 1:
        planned = f"{_size(base.peak)} planned at the peak of a GPU ({base.peak_phase})"
        lines.append(f"  all of them: {_size(together)} instead of {planned}")
    return "\n".join([*lines, tail])


def savings(recipe: Any, plan: Callable[[Any], Outline], base: Plan) -> list[tuple[int, list[str]]]:
    """(bytes saved, overrides) of the changes that save most, at most NAMED; each alone."""
    found = []
    for changes in candidates(recipe, base):
        peak = _peak(plan, recipe, changes)
        if peak is not None and peak < base.peak:
            found.append((base.peak - peak, changes))
    found.sort(key=lambda saved: -saved[0])
    kept: list[tuple[int, list[str]]] = []
    for saved, changes in found:  # of several ZeRO stages the one that saves most
        keys = {change.partition("=")[0] for change in changes}
        if not any(keys & {change.partition("=")[0] for change in others} for _, others in kept):
            kept.append((saved, changes))
    return kept[:NAMED]


def candidates(recipe: Any, base: Plan) -> Iterator[list[str]]:
    """Changes that could help, as overrides of the command line; those that change least in the results first."""
    model, sharding = recipe.model, recipe.sharding
    if not base.job.checkpointing:
        yield ["training.gradient_checkpointing=true"]
    if model.attention == "eager":
        yield ["model.attention=sdpa"]
    rows, accumulation = base.job.per_device_batch, base.job.accumulation
    for factor in (2, 4):
        if rows % factor == 0:
            yield [
                f"training.per_device_train_batch_size={rows // factor}",
                f"training.gradient_accumulation_steps={accumulation * factor}",
            ]
    for stage in (1, 2, 3):
        if stage > sharding.zero and base.batch.processes > 1:
            yield [f"sharding.zero={stage}"]
    if sharding.zero and not sharding.offload:
        yield ["sharding.offload=true"]
    if model.dtype == "float32":
        yield ["model.dtype=bfloat16"]
    drawn = recipe.images.random_resize
    half = max(recipe.images.max_pixels // 2, recipe.images.min_pixels, SMALLEST_IMAGE)
    if half < recipe.images.max_pixels and drawn is None:
        yield [f"images.max_pixels={half}"]
    length = recipe.argument("max_completion_length") // 2 if base.job.stage == "grpo" else 0
    if length >= SHORTEST:
        yield [f"training.max_completion_length={length}"]
    if model.lora is None:
        yield ["model.lora={}"]
    elif model.quantization is None:
        yield ["model.quantization=nf4"]


def _peak(plan: Callable[[Any], Outline], recipe: Any, changes: list[str]) -> int | None:
    """Planned bytes at the peak with these changes; None where the recipe does not allow them."""
    try:
        changed = config.build(config.to_dict(recipe), type(recipe), changes)
        made = plan(launched(changed))
        return made.peak if isinstance(made, Plan) else None
    except RecipeError:
        return None


def _size(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / MIB:.1f} MiB"
