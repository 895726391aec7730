"""Preference pairs about captions in the five dimensions of the ScoreRS paper, made by spoiling true captions.

    python -m demo.preferences runs/demo/preferences --train 18000 --test 1000

    {train,test}.jsonl   rows of `rewards.score.training.preferences`: images, question, ranked (best first), dimensions
    {train,test}/images/*.jpg

What each dimension spoils. Only an eye on the image tells the first two; the texts alone tell the others.

    relevance      a colour, class or place is wrong, or a thing is told that is not there in place of one that is
    completeness   things are left out
    specificity    "an object" in place of what it is
    richness       neither where things are nor what they stand on
    clarity        words in disorder or said twice, or a thing told twice

In training there are also captions with things added that are not there. They count in no dimension: beside a
stranger's image all that is told is wrong, and the shorter caption would be the better one without a look.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from demo.dataset import SEED_STRIDE, save_image
from demo.world.captions import QUESTION, Facts, caption, truth
from demo.world.scene import PLACES, Scene, scene
from demo.world.shapes import CLASSES, COLORS

FIRST = {"train": 400_000_000, "test": 500_000_000}
"""First scene seed of the two files; no other split of the demo reaches them."""
MIX = {"relevance": 0.3, "completeness": 0.27, "specificity": 0.05, "richness": 0.05, "clarity": 0.11}
"""Share of each dimension among the training pairs, the rest has things added; the test has as many of each."""
FLAWED = 0.3
"""Share of pairs whose better caption is not quite true either: most captions of a policy are not."""

Clauses = list[Facts]


def _other(values: Sequence[str], known: str | None, rng: random.Random) -> str:
    return rng.choice([value for value in values if value != known])


def falsify(clauses: Clauses, rng: random.Random) -> Clauses:
    """One attribute of one clause is wrong."""
    at = rng.randrange(len(clauses))
    clause, what = clauses[at], rng.choice(("color", "name", "place"))
    values = {"color": COLORS, "name": CLASSES, "place": PLACES}[what]
    changed = replace(clause, **{what: _other(values, getattr(clause, what), rng)})
    return [*clauses[:at], changed, *clauses[at + 1 :]]


def _invented(clauses: Clauses, rng: random.Random) -> Facts:
    """Nothing that is there, or the double of a thing that is at another place."""
    if rng.random() < 0.5:
        told = rng.choice(clauses)
        return replace(told, place=_other(PLACES, told.place, rng))
    return Facts(rng.choice(CLASSES), rng.choice(COLORS), rng.choice(("water", "land")), rng.choice(PLACES))


def invent(clauses: Clauses, rng: random.Random) -> Clauses:
    """One thing more, which is not there."""
    return _with(clauses, _invented(clauses, rng), rng)


def exchange(clauses: Clauses, rng: random.Random) -> Clauses:
    """One thing that is not there in place of one that is."""
    at = rng.randrange(len(clauses))
    return [*clauses[:at], _invented(clauses, rng), *clauses[at + 1 :]]


def repeat(clauses: Clauses, rng: random.Random) -> Clauses:
    """One to three clauses more, each told already."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        clauses = _with(clauses, rng.choice(clauses), rng)
    return clauses


def _with(clauses: Clauses, more: Facts, rng: random.Random) -> Clauses:
    at = rng.randint(0, len(clauses))
    return [*clauses[:at], more, *clauses[at:]]


def _relevance(clauses: Clauses, rng: random.Random) -> str:
    spoiled = clauses
    for _ in range(rng.choice((1, 1, 2, 3))):
        spoiled = exchange(spoiled, rng) if rng.random() < 0.4 else falsify(spoiled, rng)
    return caption(spoiled)


def _added(clauses: Clauses, rng: random.Random) -> str:
    spoiled = clauses
    for _ in range(rng.choice((1, 1, 2, 3))):
        spoiled = invent(spoiled, rng)
    return caption(spoiled)


def _completeness(clauses: Clauses, rng: random.Random) -> str | None:
    if len(clauses) < 2:
        return None
    kept = set(rng.sample(range(len(clauses)), rng.randint(1, len(clauses) - 1)))
    return caption([clause for at, clause in enumerate(clauses) if at in kept])


def _specificity(clauses: Clauses, rng: random.Random) -> str:
    at = rng.randrange(len(clauses))
    everywhere = rng.random() < 0.5
    vague = [replace(c, name=None, color=None) if everywhere or i == at else c for i, c in enumerate(clauses)]
    return caption(vague)


def _richness(clauses: Clauses, rng: random.Random) -> str:
    return caption([replace(clause, surface=None, place=None) for clause in clauses])


def _clarity(clauses: Clauses, rng: random.Random) -> str:
    how, words = rng.random(), caption(clauses).removesuffix(".").split()
    if how < 0.4:
        return caption(repeat(clauses, rng))
    if how < 0.7:
        at = rng.randrange(len(words) - 3)
        part = words[at : at + 4]
        jumbled = next(p for p in iter(lambda: rng.sample(part, 4), None) if p != part)
        return " ".join([*words[:at], *jumbled, *words[at + 4 :]]) + "."
    twice = {rng.randrange(len(words)) for _ in range(3)}
    return " ".join(word for at, word in enumerate(words) for _ in range(2 if at in twice else 1)) + "."


ADDED = "added"
SPOIL: dict[str, Callable[[Clauses, random.Random], str | None]] = {
    ADDED: _added,
    "relevance": _relevance,
    "completeness": _completeness,
    "specificity": _specificity,
    "richness": _richness,
    "clarity": _clarity,
}


def pair(full: Scene, dimension: str, rng: random.Random) -> list[str] | None:
    """Two captions, the better one first, that differ in a dimension; None where the scene admits none."""
    clauses = truth(full)
    if rng.random() < FLAWED:
        clauses = invent(clauses, rng) if rng.random() < 0.3 else falsify(clauses, rng)
    better, worse = caption(clauses), SPOIL[dimension](clauses, rng)
    return None if worse is None or worse == better else [better, worse]


def rows(folder: Path, first: int, count: int, mix: dict[str, float] = MIX) -> Iterator[dict]:
    """`count` records on scenes of their own, images written below `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng, seed, made = random.Random(first), first, 0
    while made < count:
        one = scene(seed)
        dimension = rng.choices([*mix, ADDED], [*mix.values(), max(0.0, 1 - sum(mix.values()))])[0]
        ranked = pair(one, dimension, rng)
        seed += 1
        if ranked is None:
            continue
        made += 1
        save_image(one, folder)
        yield {
            "images": [f"{folder.name}/images/{one.seed}.jpg"],
            "question": QUESTION,
            "ranked": ranked,
            "dimensions": [] if dimension == ADDED else [dimension],
            "id": str(one.seed),
        }


def write(out: Path, split: str, first: int, count: int, mix: dict[str, float] = MIX) -> None:
    """`<out>/<split>.jsonl` and its images."""
    with (out / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for row in rows(out / split, first, count, mix):
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="shifts the training scenes; the test pairs stay")
    parser.add_argument("--train", type=int, default=18000)
    parser.add_argument("--test", type=int, default=1000)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out, "train", FIRST["train"] + arguments.seed * SEED_STRIDE, arguments.train)
    write(arguments.out, "test", FIRST["test"], arguments.test, dict.fromkeys(MIX, 1.0))


if __name__ == "__main__":
    main()
