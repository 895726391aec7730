"""Workers of a data loader: what they keep, and batches that do not fit into /dev/shm, where they hand them over.

torch 2.13 learns that it is full in a thread of the worker, which prints a traceback and ends; the run then waits for
the batch without end. Containers have 64 MiB of it unless told otherwise. So a worker looks before it hands over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import get_worker_info

from vlm.common.errors import UserError
from vlm.pictures.cache import decoded

PLACE = "/dev/shm"
MIB = 2**20


class Fitting:
    """A data collator around another one: raises UserError in a worker whose batch would not fit."""

    def __init__(self, collator: Any):
        self.collator = collator
        self._begun = False

    def __call__(self, rows: list[Any]) -> Any:
        worker = get_worker_info()
        if worker is not None and not self._begun:
            self._begun = True
            decoded.most //= worker.num_workers  # `images.cache` is for all of them
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the threads have not come along: it would wait for them
        batch = self.collator(rows)
        if worker is not None:
            leaves = tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch)
            check(sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor)), worker.num_workers)
        return batch


def check(size: int, workers: int) -> None:
    """size: bytes of a batch. All workers may be about to hand one over. Raises: UserError."""
    free = shutil.disk_usage(PLACE).free
    if size * workers > free:
        raise UserError(
            f"a batch of {size / MIB:.0f} MiB from each of {workers} data-loader workers does not fit into the "
            f"{free / MIB:.0f} MiB that are free in {PLACE}, through which they hand it over; give the container more "
            "shared memory (docker run --shm-size=8g, or --ipc=host), or write training.dataloader_num_workers: 0, or "
            "lower per_device_train_batch_size or images.max_pixels"
        )
