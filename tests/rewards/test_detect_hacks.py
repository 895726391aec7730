"""Strategies that know more than they say: none may earn more from `detect` than an honest answer that is half right.

In each scene, not on average. `python -m tests.rewards.test_detect_hacks` prints means, maxima and wins (LOG.md).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

import rewards
from vlm.boxes import corners

SIDE = 800
NAMES = ["plane", "ship", "harbor", "bridge", "roundabout", "helicopter", "windmill", "stadium"]
Object = tuple[list[int], str]


@dataclass
class Scene:
    objects: list[Object]
    "1 to 40: boxes in whole pixels, from 6 to 300 a side, and their classes."
    difficult: list[bool]
    classes: list[str]
    "2 to 8 are asked for; some have no object."

    @property
    def counted(self) -> list[Object]:
        return [one for one, hard in zip(self.objects, self.difficult, strict=True) if not hard]

    @property
    def commonest(self) -> str:
        return Counter(label for _, label in self.objects).most_common(1)[0][0]


def scene(seed: int) -> Scene:
    draw = random.Random(seed)
    classes = sorted(draw.sample(NAMES, draw.randint(2, 8)))
    usual = 6 * 50 ** draw.random()  # pictures have objects of a usual size
    objects = []
    for _ in range(draw.randint(1, 40)):
        width, height = (round(min(300, max(6, usual * 2 ** draw.uniform(-1, 1)))) for _ in range(2))
        x, y = draw.randint(0, SIDE - width), draw.randint(0, SIDE - height)
        objects.append(([x, y, x + width, y + height], draw.choice(classes)))
    share = draw.choice([0.0, 0.2])
    return Scene(objects, [draw.random() < share for _ in objects[1:]] + [False], classes)


# Answers: what an honest model that is half right says, and what one that plays says.


def half_said(some: Scene) -> Iterator[Object]:
    """⌈n/2⌉ objects exactly, the others not at all."""
    yield from some.counted[: (len(some.counted) + 1) // 2]


def half_named(some: Scene) -> Iterator[Object]:
    """All boxes, and ⌈n/2⌉ of them by their classes."""
    right = (len(some.counted) + 1) // 2
    for number, (box, label) in enumerate(some.counted):
        yield box, label if number < right else another(some, label)


def another(some: Scene, label: str) -> str:
    return some.classes[some.classes.index(label) - 1]


def all_classes(some: Scene) -> Iterator[Object]:
    yield from ((box, name) for box, _ in some.objects for name in some.classes)


def two_classes(some: Scene) -> Iterator[Object]:
    yield from (one for box, label in some.objects for one in ((box, label), (box, another(some, label))))


def twice(some: Scene) -> Iterator[Object]:
    yield from some.objects * 2


def nearly_twice(some: Scene) -> Iterator[Object]:
    """Once a pixel off, that it may not look the same."""
    for box, label in some.objects:
        yield box, label
        yield [box[0], box[1], box[2] - 1, box[3]], label


def half_twice(some: Scene) -> Iterator[Object]:
    yield from [*half_said(some)] * 2


def grid(cells: int, everything: bool = False) -> Callable[[Scene], Iterator[Object]]:
    """cells × cells, all of the commonest class, which it knows, or each in every class."""

    def boxes(some: Scene) -> Iterator[Object]:
        step = SIDE // cells
        for x in range(0, SIDE, step):
            for y in range(0, SIDE, step):
                for name in some.classes if everything else [some.commonest]:
                    yield [x, y, x + step, y + step], name

    return boxes


HONEST = {"half said": half_said, "half named": half_named}
PLAYED = {
    "each box in all classes": all_classes,
    "each box in two classes": two_classes,
    "each box twice": twice,
    "each box nearly twice": nearly_twice,
    "one huge box": grid(1),
    "one huge box in all classes": grid(1, True),
    "grid 2 × 2": grid(2),
    "grid 2 × 2 in all classes": grid(2, True),
    "grid 5 × 5": grid(5),
    "grid 5 × 5 in all classes": grid(5, True),
    "grid 16 × 16": grid(16),
}
ALSO = {"half of the boxes twice": half_twice}
"""Reported alone: it is 1/2, and more where objects of a class overlap each other, whose copies hit neighbours."""
ANSWERS = HONEST | PLAYED | ALSO


def written(objects: Iterator[Object], shape: str) -> str:
    shapes = ((box if shape == "box" else corners(box), label) for box, label in objects)
    return "\n".join(f"{','.join(map(str, numbers))} {label}" for numbers, label in shapes)


def earned(scenes: range, shape: str = "box", **options: float) -> dict[str, list[float]]:
    """Strategy → its reward in each scene."""
    notation = "rscovlm" if shape == "box" else "rscovlm_quad"
    reward = rewards.resolve("detect", notation=notation, shape=shape, inside="text", **options)
    found = defaultdict(list)
    for seed in scenes:
        some, count = scene(seed), len(ANSWERS)
        row = {"labels": [label for _, label in some.objects], "difficult": some.difficult, "classes": some.classes}
        row |= {"boxes": [box for box, _ in some.objects], "size": (SIDE, SIDE), "resized": (SIDE, SIDE)}
        row["quads"] = [corners(box) for box in row["boxes"]]
        said = [written(play(some), shape) for play in ANSWERS.values()]
        values = reward(completions=said, **{name: [value] * count for name, value in row.items()})
        for name, value in zip(ANSWERS, values, strict=True):
            found[name].append(value)
    return found


def wins(found: dict[str, list[float]], play: str, honest: str) -> list[int]:
    """Scenes in which a strategy earns more, by more than rounding."""
    pairs = enumerate(zip(found[play], found[honest], strict=True))
    return [number for number, (value, other) in pairs if value > other + 1e-9]


@pytest.mark.parametrize(
    ("scenes", "options"),
    [
        (range(1000), {}),
        (range(1000, 1100), {"floor": 0.0}),
        (range(1100, 1200), {"distance": 0.1}),
        (range(1200, 1300), {"floor": 0.5, "full": 0.5}),
        (range(1300, 1350), {"shape": "quad", "distance": 0.1}),
    ],
)
def test_nothing_that_is_played_earns_more_than_half_an_answer(scenes, options):
    """By the docstring of `detect`: half said earns 2k / (k + n) ≥ 2/3, half named k / n ≥ 1/2; what is played twice,
    or in several classes, 1/2 at most."""
    found = earned(scenes, **options)
    assert min(found["half said"]) >= 2 / 3 - 1e-9 and min(found["half named"]) >= 1 / 2 - 1e-9
    for play in PLAYED:
        for honest in HONEST:
            assert wins(found, play, honest) == [], (play, honest)


def test_asked_for_one_class_it_is_no_trick_to_say_it():
    """Where "each box in all classes" is the right answer, it earns all."""
    one = Scene([([10, 10, 50, 50], "ship"), ([90, 90, 99, 99], "ship")], [False, False], ["ship"])
    assert [*all_classes(one)] == one.objects


def _report() -> None:
    for options in ({}, {"distance": 0.1}):
        found = earned(range(1000), **options)
        print(f"\n{options or 'defaults'}: | answer | mean | max | more than half said | than half named |")
        for play, values in found.items():
            won = [len(wins(found, play, honest)) for honest in HONEST]
            print(f"| {play} | {sum(values) / len(values):.3f} | {max(values):.3f} | {won[0]} | {won[1]} |")


if __name__ == "__main__":
    _report()
