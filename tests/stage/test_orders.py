"""Orders without lists: the same rows in the same places as upstream's samplers, which they replace."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from trl.trainer.utils import RepeatSampler

from stage.trainer.orders import PIECE, FlatOrder, FlatRandom, FlatRepeat, FlatSeedable, sampler_of


def generator(seed=3):
    found = torch.Generator()
    found.manual_seed(seed)
    return found


@pytest.mark.parametrize("count", [1, 7, PIECE + 3])
def test_random_orders_and_the_state_behind_them_are_torchs(count):
    ours, theirs = (kind(range(count), generator=generator()) for kind in (FlatRandom, RandomSampler))
    for _ in range(3):
        assert list(ours) == list(theirs)
    assert torch.equal(ours.generator.get_state(), theirs.generator.get_state())
    orders = []
    for kind in (FlatRandom, RandomSampler):
        torch.manual_seed(5)
        orders.append((list(kind(range(count))), torch.rand(1)))
    assert orders[0] == orders[1]


def test_seeded_orders_are_accelerates():
    ours, theirs = (kind(range(50), data_seed=9) for kind in (FlatSeedable, SeedableRandomSampler))
    for epoch in (0, 1, 5):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert list(ours) == list(theirs)
    assert ours.epoch == theirs.epoch == 6


@pytest.mark.parametrize("shuffle", [True, False])
def test_repeated_orders_are_trls(shuffle):
    given = {"mini_repeat_count": 2, "batch_size": 3, "repeat_count": 2, "shuffle": shuffle, "seed": 4}
    ours, theirs = (kind(range(11), **given) for kind in (FlatRepeat, RepeatSampler))
    for _ in range(2):
        assert list(ours) == list(theirs)
    assert len(ours) == len(theirs)


class Plain:
    def __init__(self, kind, **given):
        self.kind, self.given = kind, given

    def get_train_dataloader(self):
        rows = range(23)
        return Accelerator(cpu=True).prepare(DataLoader(rows, batch_size=4, sampler=self.kind(rows, **self.given)))


class Flat(FlatOrder, Plain):
    pass


@pytest.mark.parametrize(
    ("kind", "flat", "given"),
    [
        (RandomSampler, {FlatRandom, FlatSeedable}, {}),
        (RepeatSampler, {FlatRepeat}, {"mini_repeat_count": 2, "batch_size": 2, "seed": 1}),
        (SequentialSampler, {SequentialSampler}, {}),
    ],
)
def test_a_prepared_loader_gives_the_same_batches(kind, flat, given):
    batches = []
    for trainer in (Plain(kind, **given), Flat(kind, **given)):
        torch.manual_seed(11)
        loader = trainer.get_train_dataloader()
        batches.append([[batch.tolist() for batch in loader] for _ in range(2)])
    assert batches[0] == batches[1]
    assert type(sampler_of(loader)) in flat
