"""Which rows of a batch share a prompt and which pictures they show; a generation batch shuffled and cut by prompt."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from vlm.prefix import media
from vlm.prefix.pictures import Contents, ImageMemo
from vlm.prefix.rollout import first_places, row_numbers

TILES = "num_tiles"
"""TRL's count of tiles per row, which `Rows` has as its own count of units."""


class Rows(list):
    """Pictures per row, as TRL's `num_images`, and with it what travels with the rows where TRL does not slice them.

    prompts: which unique prompt each row has. pictures: which of the stored units (`vlm.prefix.media`: pictures, or
    tiles of them) the prompt of each row shows, in order; of one that several rows show, `pixel_values` holds one.
    crops: likewise of its completion. tools: where in its completion tools speak, begin and end of each turn: such
    tokens are given, not learned. shares: each row's part in its prompt and in its units, so that over the rows of a
    generation batch they add up to the unique ones.
    """

    def __init__(
        self,
        prompts: Sequence[int],
        pictures: Sequence[Sequence[int]],
        shares: Sequence[tuple[float, float]] | None = None,
        crops: Sequence[Sequence[int]] | None = None,
        tools: Sequence[Sequence[tuple[int, int]]] | None = None,
    ):
        self.crops = [list(shown) for shown in crops or [[]] * len(prompts)]
        self.tools = [[(begin, end) for begin, end in spans] for spans in tools or [[]] * len(prompts)]
        super().__init__(len(a) + len(b) for a, b in zip(pictures, self.crops, strict=True))
        self.prompts, self.pictures = list(prompts), [list(shown) for shown in pictures]
        askers, viewers = Counter(self.prompts), Counter(n for shown in self.pictures for n in shown)
        self.shares = list(shares or ()) or [
            (1 / askers[prompt], sum(1 / viewers[n] for n in shown) + len(own))
            for prompt, shown, own in zip(self.prompts, self.pictures, self.crops, strict=True)
        ]

    @property
    def shown(self) -> list[list[int]]:
        """The units of each row in order, its prompt's and its completion's."""
        return [[*first, *then] for first, then in zip(self.pictures, self.crops, strict=True)]

    def learned(self, width: int) -> torch.Tensor:
        """(rows, width) bool: the places of completions at which no tool speaks."""
        found = torch.ones(len(self), width, dtype=torch.bool)
        for row, spans in zip(found, self.tools, strict=True):
            for begin, end in spans:
                row[begin:end] = False
        return found

    def plain(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {name: getattr(self, name) for name in ("prompts", "pictures", "shares", "crops", "tools")}

    def select(self, index: Sequence[int]) -> tuple[Rows, list[int]]:
        """The rows of these numbers, and the numbers of the stored pictures that they show."""
        shown = self.shown
        stored = list(dict.fromkeys(n for row in index for n in shown[row]))
        place = {n: i for i, n in enumerate(stored)}
        pictures, crops = ([[place[n] for n in kept[row]] for row in index] for kept in (self.pictures, self.crops))
        prompts, shares, tools = ([kept[row] for row in index] for kept in (self.prompts, self.shares, self.tools))
        return Rows(prompts, pictures, shares, crops, tools), stored


def take(batch: dict[str, Any], index: Sequence[int]) -> dict[str, Any]:
    """The rows of these numbers of a generation batch, with the pictures that they show."""
    rows, stored = batch["num_images"].select(index)
    part: dict[str, Any] = {}
    for name, value in batch.items():
        if name in (*media.NAMES, TILES):
            continue
        if isinstance(value, torch.Tensor) and value.ndim:
            part[name] = value[torch.as_tensor(index, device=value.device)]
        else:
            part[name] = [value[n] for n in index] if isinstance(value, list) else value
    return {**part, **media.choose(media.of(batch), stored), "num_images": rows}


def split(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """Shuffle a generation batch by prompt and cut it into equal micro-batches, so that groups stay whole.

    One permutation of the rows is drawn, as in TRL, so that the random numbers that follow are TRL's; prompts come in
    the order in which their first row does. A group is cut only where the micro-batch is no multiple of it.
    """
    prompts = batch["num_images"].prompts
    turn: dict[int, int] = {}
    for row in torch.randperm(len(prompts)).tolist():
        turn.setdefault(prompts[row], len(turn))
    order = sorted(range(len(prompts)), key=lambda row: turn[prompts[row]])
    size = len(order) // parts
    return [take(batch, order[start : start + size]) for start in range(0, size * parts, size)]


@dataclasses.dataclass
class Generation:
    """What is known while one generation batch is made: the prompts of its rows, and the pictures prepared for it."""

    prompts: list[int]
    memo: ImageMemo
    added: Sequence[Sequence[media.Media]] | None = None
    "Pictures that tools have put into each row's completion, once it is there."
    tools: Sequence[Sequence[tuple[int, int]]] | None = None
    "Where in each row's completion tools speak."

    def rows(self, counts: Sequence[int] | None, fields: dict[str, Any]) -> tuple[Rows, dict[str, torch.Tensor]]:
        """The rows of the batch, and the stored pictures, each once.

        counts: pictures per row; fields: what the processor made of all pictures of all rows, `pixel_values` without
        repetitions, `image_grid_thw` (pictures, 3) with them.
        """
        stored = {name: torch.as_tensor(value) for name, value in media.of(fields).items()}
        shown: list[list[int]] = [[] for _ in self.prompts]
        if stored:
            if media.GRID in stored:
                stored[media.GRID] = stored[media.GRID][first_places(self.memo.order)]
            numbers = iter(self.memo.order)
            shown = [[unit for _ in range(count) for unit in self.memo.units[next(numbers)]] for count in counts]
        crops, stored = self._with_added(stored)
        return Rows(self.prompts, shown, crops=crops, tools=self.tools), stored

    def _with_added(self, stored: dict[str, torch.Tensor]) -> tuple[list[list[int]] | None, dict[str, torch.Tensor]]:
        """(numbers of the units that each completion shows, the stored ones with them behind)."""
        if not self.added or not any(self.added):
            return None, stored
        start, parts, crops = len(media.rows(stored)), [stored] if stored else [], []
        for turns in self.added:
            numbers = []
            for one in turns:
                count = len(media.rows(one))
                numbers += range(start, start + count)
                start += count
                parts.append(one)
            crops.append(numbers)
        device = next(iter(parts[0].values())).device
        names = media.of(parts[0])
        return crops, {name: torch.cat([part[name].to(device) for part in parts]) for name in names}

    def of_prompts(
        self, images: Sequence[Sequence[Any] | None] | None, fields: dict[str, Any], every: bool = False
    ) -> dict[str, Any]:
        """A processor's fields for all rows, with the pictures of the unique prompts only; or of every row, repeated.

        images: of each row.
        """
        if not media.of(fields):
            return fields
        rows, stored = self.rows([len(shown or ()) for shown in images], fields)
        asked = range(len(rows)) if every else first_places(self.prompts)
        return fields | media.choose(stored, [n for row in asked for n in rows.pictures[row]])

    def unique(self) -> tuple[list[int], int]:
        """The first row of each prompt, and the units of the different pictures, once the processor has run."""
        return first_places(self.prompts), sum(map(len, self.memo.units))


def prompts_of(inputs: Sequence[dict[str, Any]], contents: Contents) -> list[int]:
    """Rows of the data set numbered by prompt: the same question about the same pictures. Answers do not count."""
    return row_numbers([tuple(contents.key(row.get(name)) for name in ("prompt", "images", "image")) for row in inputs])
