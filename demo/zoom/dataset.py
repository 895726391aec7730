"""Write the zoom demo's yards to disk as Nadir's own JSONL, for the same readers as real data.

    python -m demo.zoom.dataset runs/zoom/data --seed 0

    sft/chains.jsonl        a question, where its pad is with the one region to look at, the answer
    sft/plain.jsonl         the same questions with their answers alone
    grpo/prompts.jsonl      small and easy questions, small ones with the `regions` of their evidence
    test/small_test.jsonl   questions about small things, each mark as often as any other
    test/easy_test.jsonl    questions that need no closer look
    */images/*.jpg          1,792 × 1,792 pixels, up to two questions each

The regions that SFT teaches are careless, as an annotator's: any side lies up to 0.7 of a pad's width too far out.
GRPO is to find out that a closer look tells more. Splits come from disjoint scene seeds; the test split is the same for
every seed.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from demo.dataset import SEED_STRIDE
from demo.zoom.corpus import careless, place
from demo.zoom.render import render
from demo.zoom.scene import MARKS, SIDE, SPLIT_SEEDS, Scene, scene
from demo.zoom.tasks import EASY, Item, ask, mark_of
from samples import Sample, write

Turns = list[dict[str, Any]]
EACH = 2
"""Questions about one yard, at most."""
EASY_SHARE = {"sft": 0.25, "grpo": 0.2}
"""Share of easy questions in training data."""


def questions(first: int, count: int, easy: float) -> Iterator[tuple[Scene, Item]]:
    """`count` questions, from scene seed `first` on; of those about small things each mark is as frequent.

    easy: share of easy questions; 1 for these alone, 0 for none.
    """
    rng = random.Random(first)
    marks = cycle(rng.sample(MARKS, len(MARKS)))
    wanted, seed, made, small = next(marks), first, 0, rng.random() >= easy
    while made < count:
        one, left = scene(seed), EACH
        seed += 1
        for pad in rng.sample(one.pads, len(one.pads)):
            if made == count or not left:
                break
            if not small:
                item = ask(one, rng.choice(EASY), rng)
            elif pad.mark == wanted:
                item, wanted = mark_of(pad), next(marks)
            else:
                continue
            made, left, small = made + 1, left - 1, rng.random() >= easy
            yield one, item


def save_image(one: Scene, folder: Path) -> str:
    """Write the yard as JPEG where it is not yet; returns its path."""
    path = folder / "images" / f"{one.seed}.jpg"
    if not path.exists():
        render(one).save(path, quality=90)
    return str(path.resolve())


def asked(item: Item, rng: random.Random) -> Turns:
    """A question whose truth stands in columns."""
    return []


def answered(item: Item, rng: random.Random) -> Turns:
    return [{"role": "assistant", "content": item.answer}]


def chained(item: Item, rng: random.Random) -> Turns:
    """A small question's pad is named, with its column and row, and looked at; the region is careless."""
    if item.pad is None:
        return answered(item, rng)
    look = {"role": "assistant", "content": place(item.pad), "zoom": list(careless(item.pad, rng))}
    return [look, *answered(item, rng)]


def questioned(path: Path, first: int, count: int, easy: float, reply: Callable[..., Turns] = asked) -> None:
    """Write questions and their pictures. reply: the turns behind each; where there are none, the evidence's region."""
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    rng = random.Random(first)

    def rows() -> Iterator[Sample]:
        before = None
        for one, item in questions(first, count, easy):
            before, number = one.seed, int(before == one.seed)
            turns = reply(item, rng)
            yield Sample(
                images=[save_image(one, path.parent)],
                messages=[{"role": "user", "content": item.question}, *turns],
                task="vqa",
                answer=item.answer,
                size=(SIDE, SIDE),
                source=path.stem,
                id=f"{one.seed}-{number}",
                kind=item.kind,
                regions=[list(item.pad.truck)] if item.pad and not turns else None,
            )

    write(path, rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="shifts the training scenes; the test set stays")
    parser.add_argument("--chains", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=800)
    parser.add_argument(
        "--test", type=int, default=400, help="held-out questions about small things; half as many easy"
    )
    arguments = parser.parse_args()
    cold, prompts = (SPLIT_SEEDS[split] + arguments.seed * SEED_STRIDE for split in ("sft", "grpo"))
    for name, reply in (("chains", chained), ("plain", answered)):
        questioned(arguments.out / f"sft/{name}.jsonl", cold, arguments.chains, EASY_SHARE["sft"], reply)
    questioned(arguments.out / "grpo/prompts.jsonl", prompts, arguments.prompts, EASY_SHARE["grpo"])
    for name, first, count, easy in (
        ("small", SPLIT_SEEDS["test"], arguments.test, 0.0),
        ("easy", SPLIT_SEEDS["test"] + SEED_STRIDE, arguments.test // 2, 1.0),
    ):
        questioned(arguments.out / f"test/{name}_test.jsonl", first, count, easy)


if __name__ == "__main__":
    main()
