"""The order of the rows without a Python integer for each: 4,000,000 of them in a list take 160 MB in every process.

`torch.randperm(…).tolist()` stands in torch's, accelerate's and TRL's samplers. Here the same permutation, of the same
generator, stays a tensor (8 bytes a row), and becomes integers in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from trl.trainer.utils import RepeatSampler

PIECE = 4096


class FlatRandom(RandomSampler):
    """torch's, without replacement. Overridden: `__iter__`."""

    def __iter__(self) -> Iterator[int]:
        count, generator = len(self.data_source), self.generator
        if self.replacement or self.num_samples != count:
            yield from super().__iter__()
            return
        if generator is None:
            generator = torch.Generator()
            generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
        for piece in torch.randperm(count, generator=generator).split(PIECE):
            yield from piece.tolist()
        torch.randperm(count, generator=generator)  # upstream draws the next one for the none that are left over


class FlatSeedable(SeedableRandomSampler, FlatRandom):
    """accelerate's, whose `__iter__` sets the epoch's seed and then asks the next class."""


class FlatRepeat(RepeatSampler):
    """TRL's. Overridden: `__iter__`."""

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.num_samples, generator=self.generator) if self.shuffle else None
        for start in range(0, self.num_samples - self.batch_size + 1, self.batch_size):
            end = start + self.batch_size
            chunk = range(start, end) if order is None else order[start:end].tolist()
            for _ in range(self.repeat_count):
                for index in chunk:
                    for _ in range(self.mini_repeat_count):
                        yield index


FLAT: dict[type, type] = {RandomSampler: FlatRandom, SeedableRandomSampler: FlatSeedable, RepeatSampler: FlatRepeat}


def sampler_of(loader: DataLoader) -> Any:
    """The sampler of rows behind accelerate's wrappers; None of a stream, or of a sampler of whole batches."""
    batches = loader.batch_sampler
    while batches is not None and "batch_sampler" in vars(batches):  # a process's share, and what is skipped
        batches = batches.batch_sampler
    return batches.sampler if isinstance(batches, BatchSampler) else None


class FlatOrder:
    """Stands before a transformers Trainer among the bases. Overridden: `get_train_dataloader`."""

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()  # type: ignore[misc]  # of the Trainer that stands behind
        sampler = sampler_of(loader)
        if (flat := FLAT.get(type(sampler))) is not None:
            made: Any = object.__new__(flat)
            vars(made).update(vars(sampler))  # the same generator, too
            loader.set_sampler(made)
        return loader
