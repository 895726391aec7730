"""What every backend does: answer rows of questions, each of which may be drawn several times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from samples import Sample
from stage.parallel.journal import fingerprint
from stage.recipe.asking import AskingRecipe

Row = tuple[Sample, int]
"""A question and the number of the draw, from 0: what is drawn depends on both and on the recipe's seed."""


Recipe = TypeVar("Recipe", bound=AskingRecipe)


class Answering:
    """Who answers the questions of a recipe."""

    @property
    def loaded(self) -> bool:
        """Whether the weights are on the device, or need not be."""
        return False

    def draw(
        self, recipe: AskingRecipe, rows: Sequence[Row], halved: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Row, str]]:
        """Each row with its completion, in any order. recipe: with a number as batch_size. halved: is told of each
        smaller number of rows, where memory runs out."""
        raise NotImplementedError

    def answer(
        self, recipe: AskingRecipe, samples: Sequence[Sample], halved: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Sample, str]]:
        """The same with one draw a question."""
        return ((sample, text) for (sample, _), text in self.draw(recipe, [(one, 0) for one in samples], halved))


def row_seed(seed: int, sample: Sample, number: int, turn: int = 0) -> list[int]:
    """Of a row's own random numbers, as numpy takes it: others in each of the model's turns, counted from 0."""
    return [int(fingerprint(seed, sample.source, sample.id), 16), number, *([turn] if turn else [])]


def seed_of(seed: int, sample: Sample, number: int, turn: int = 0) -> int:
    """The same in 31 bits, as servers take it."""
    return int(fingerprint(*row_seed(seed, sample, number, turn)), 16) % 2**31


def sized(recipe: Recipe, size: int) -> Recipe:
    """The recipe with this many rows at a time."""
    return recipe.model_copy(update={"generation": recipe.generation.model_copy(update={"batch_size": size})})
