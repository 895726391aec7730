"""Exchanges that begin alike in one packed row (`vlm.prefix`): what they share goes through the language model once.

What is shared is found among the tokens, never assumed from the texts: the tokenizer may join an answer's first
characters with what stands before them, and a chat template may put anything anywhere. Equal exchanges share all.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlm.prefix import Packed, enable, obstacle, pack, rope_positions

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Stem:
    """Rows of a batch with the beginning that they share, and how they continue."""

    rows: list[int]
    prefix: Tensor
    "(P,) ids."
    segments: list[Tensor]
    "Ids, 1-D; different from each other, none empty."
    ends: list[int]
    "Of each row its segment's number; -1 where the row is the prefix itself."

    @property
    def tokens(self) -> int:
        return len(self.prefix) + sum(map(len, self.segments))

    @property
    def last(self) -> list[int]:
        """Of each row the place of its last token, counted from the first one of the prefix."""
        places, end = {-1: len(self.prefix) - 1}, len(self.prefix)
        for number, segment in enumerate(self.segments):
            end += len(segment)
            places[number] = end - 1
        return [places[number] for number in self.ends]


@dataclass(slots=True)
class Shared:
    """A packed row of B exchanges, without positions, on the CPU."""

    stems: list[Stem]
    rows: int
    "B."

    @property
    def shown(self) -> list[int]:
        """Of each prefix a row whose pictures it shows."""
        return [stem.rows[0] for stem in self.stems]

    @property
    def kept(self) -> Tensor:
        """(B,) number of each exchange's last token in the row; equal exchanges have the same one."""
        kept, start = torch.zeros(self.rows, dtype=torch.long), 0
        for stem in self.stems:
            kept[stem.rows] = torch.tensor(stem.last) + start
            start += stem.tokens
        return kept


def share(ids: Sequence[Tensor], pictures: Sequence[Hashable], heads: Sequence[Hashable], image_token: int) -> Shared:
    """Pack B rows (ids, 1-D, none empty) with as few tokens as one prefix for each picture, or one for each question,
    allows.

    Args:
        pictures: what the rows show; only rows with equal ones can share.
        heads: what stands before the last turn; only a hint which rows have more in common than their pictures.
    """
    stems = []
    for rows in _alike(range(len(ids)), pictures):
        by_picture = [_stem(rows, ids)]
        by_head = [_stem(some, ids) for some in _alike(rows, heads)]
        alone = [_stem([row], ids) for row in rows]
        # a segment is text alone: nothing is shared by what would put a picture into one
        fit = [found for found in (by_picture, by_head, alone) if not _cut(found, image_token)]
        stems += min(fit, key=lambda found: sum(stem.tokens for stem in found))
    return Shared(stems, len(ids))


def _cut(stems: Iterable[Stem], image_token: int) -> bool:
    """Whether pictures stand behind what is shared."""
    return any((segment == image_token).any() for stem in stems for segment in stem.segments)


def _alike(rows: Iterable[int], names: Sequence[Hashable]) -> list[list[int]]:
    """Rows of equal names together, in the order of their first ones."""
    groups: dict[Hashable, list[int]] = {}
    for row in rows:
        groups.setdefault(names[row], []).append(row)
    return list(groups.values())


def _stem(rows: list[int], ids: Sequence[Tensor]) -> Stem:
    shortest = min(len(ids[row]) for row in rows)
    starts = torch.stack([ids[row][:shortest] for row in rows])
    common = int((starts == starts[0]).all(0).long().cumprod(0).sum())
    numbers: dict[tuple[int, ...], int] = {}
    ends = []
    for row in rows:
        rest = tuple(ids[row][common:].tolist())
        ends.append(numbers.setdefault(rest, len(numbers)) if rest else -1)
    return Stem(rows, starts[0, :common], [torch.tensor(rest) for rest in numbers], ends)


def packed(model: nn.Module, shared: Shared, pictures: Sequence[int], grids: Tensor | None) -> Packed:
    """The row as the model takes it, with positions as `ScoreModel.position_ids` gives each exchange.

    Args:
        pictures: how many each prefix shows.
        grids: (pictures, 3) in patches, prefix by prefix; None without pictures.
    """
    prefixes, positions = [stem.prefix for stem in shared.stems], None
    if model.config.positions == "mrope" and grids is not None:
        positions = rope_positions(model, prefixes, grids.split(list(pictures)))
    return pack(prefixes, [stem.segments for stem in shared.stems], positions, shared.kept, model.device)


def sharing(model: nn.Module, wanted: bool) -> bool:
    """Whether the model takes packed rows; where they are wanted and it can, it does from now on."""
    if not wanted:
        return False
    if fault := obstacle(model):
        _tell(fault)
        return False
    enable(model)
    return True


@functools.cache
def _tell(fault: str) -> None:
    """Once in a process."""
    logger.warning("score model: each exchange is computed on its own, with its prompt (share_prefix): %s", fault)
