"""Worker processes of the data loader, where the recipe does not say how many (`training.dataloader_num_workers`).

SFT and the score model's training decode, resize and tokenise in the loader, 0.1 to 0.2 s for a picture of 1024², and a
GPU would wait for it. GRPO's loader only decodes the pictures of the next prompts, next to a rollout of minutes: it
stays without. So does a CPU that trains: it has no core to spare.

What is learned does not depend on them: rows come in the order of the sampler, which is drawn in the training process,
as are all random numbers, and what a resume skips is counted by trained steps, not by what workers have prepared.

No torch here: `--dry-run` shows it.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from vlm.common.console import say
from vlm.common.processes import local_processes

KEY = "dataloader_num_workers"
MOST = 4
"""More than a GPU needs, unless pictures are much larger than what a model sees of them."""
AHEAD = 3
"""Batches of a worker that lie in shared memory: two that wait, as torch prefetches them, and one that is in use."""
PLACE = "/dev/shm"
BYTES = 24
"""Of a batch for each pixel of a picture: three colours in float32, twice, because a patch has two frames."""
MIB = 2**20


def settled(recipe: Any, accelerator: bool) -> dict[str, int]:
    """The key for the training arguments; none where the recipe has it. Says why there are fewer than could be.

    accelerator: whether one trains.
    """
    if KEY in recipe.training or recipe.stage == "grpo" or not accelerator:
        return {}
    count, why = of_machine(recipe, local_processes())
    if why:
        say(f"data loader: {count} workers a process: {why}")
    return {KEY: count}


def of_machine(recipe: Any, processes: int) -> tuple[int, str]:
    """(workers for each of so many processes of this machine; what keeps them from being more, or "")."""
    spare = len(os.sched_getaffinity(0)) // processes - 1
    batch = recipe.argument("per_device_train_batch_size") * recipe.images.max_pixels * BYTES
    free = shutil.disk_usage(PLACE).free if os.path.isdir(PLACE) else 0
    room = free // (processes * batch * AHEAD)
    count = max(0, min(MOST, spare, room))
    if count == min(MOST, max(0, spare)):
        return count, "" if count else f"{spare + 1} cores for each of {processes} processes leave none for them"
    return count, (
        f"batches of up to {batch / MIB:.0f} MiB, {AHEAD} of each worker in {processes} processes, are more than the "
        f"{free / MIB:,.0f} MiB that are free in {PLACE}; give the container more shared memory (docker run "
        f"--shm-size=8g, or --ipc=host), or the training process prepares the pictures"
    )


def planned(recipe: Any) -> str:
    """For a dry run: how many each process has."""
    if KEY in recipe.training:
        return f"{recipe.training[KEY]}"
    return "0" if recipe.stage == "grpo" else f"up to {MOST} with a GPU, by the cores and {PLACE} of its machine"
