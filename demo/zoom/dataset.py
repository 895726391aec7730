"""Write the zoom demo's yards to disk in published layouts, for the same readers as real data.

    python -m demo.zoom.dataset runs/zoom/data --seed 0

    sft/zoom.json           LRS-VQA-Zoom's rows: a question and the one region to look at, or none
    sft/plain.jsonl         Nadir's JSONL: the same questions with their answers, and no region
    grpo/prompts.jsonl      Nadir's JSONL: small and easy questions, small ones with the `regions` of their evidence
    test/small_test.jsonl   Nadir's JSONL: questions about small things, each mark as often as any other
    test/easy_test.jsonl    Nadir's JSONL: questions that need no closer look
    */images/*.jpg          1,792 × 1,792 pixels, up to two questions each

The regions that SFT teaches are careless, as an annotator's: any side lies up to a pad's width too far out. GRPO is to
find out that a closer look tells more. Splits come from disjoint scene seeds; the test split is the same for every
seed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from demo.dataset import SEED_STRIDE
from demo.zoom.render import render
from demo.zoom.scene import MARKS, SIDE, SPLIT_SEEDS, Box, Pad, Scene, scene
from demo.zoom.tasks import EASY, Item, ask, mark_of
from samples import Sample, write

EACH = 2
"""Questions about one yard, at most."""
EASY_SHARE = {"sft": 0.25, "grpo": 0.2}
"""Share of easy questions in training data."""
LOOSE = 1.0
"""How far out a side of an annotated region may lie, in widths of its pad."""
MARGIN = 8
"""Pixels that the evidence's region has around a truck."""


def region(pad: Pad) -> Box:
    """Where the evidence is: a pad's truck, and a little around it."""
    x1, y1, x2, y2 = pad.truck
    return x1 - MARGIN, y1 - MARGIN, x2 + MARGIN, y2 + MARGIN


def careless(pad: Pad, rng: random.Random) -> Box:
    """A region that holds a pad, its sides too far out, cut to the picture; whole pixels."""
    x1, y1, x2, y2 = pad.box
    a, b, c, d = (round(rng.uniform(0, LOOSE) * (x2 - x1)) for _ in range(4))
    return max(x1 - a, 0), max(y1 - b, 0), min(x2 + c, SIDE), min(y2 + d, SIDE)


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


def chains(folder: Path, first: int, count: int) -> None:
    """Rows of LRS-VQA-Zoom's layout; easy questions have no region."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng, rows = random.Random(first), []
    for one, item in questions(first, count, EASY_SHARE["sft"]):
        save_image(one, folder)
        rows.append(
            {
                "image": f"{one.seed}.jpg",
                "image_ori_width": SIDE,
                "image_ori_height": SIDE,
                "bbox_info": {"crop_hbox": [list(careless(item.pad, rng))] if item.pad else []},
                "question": item.question,
                "answer": item.answer,
            }
        )
    (folder / "zoom.json").write_text(json.dumps(rows, indent=1))


def closed(path: Path, first: int, count: int, easy: float, told: bool = False) -> None:
    """Questions with their truth in columns, as our own JSONL. told: with the answer as a turn, and without regions."""
    (path.parent / "images").mkdir(parents=True, exist_ok=True)

    def rows() -> Iterator[Sample]:
        before = None
        for one, item in questions(first, count, easy):
            before, number = one.seed, int(before == one.seed)
            answer = [{"role": "assistant", "content": item.answer}] if told else []
            yield Sample(
                images=[save_image(one, path.parent)],
                messages=[{"role": "user", "content": item.question}, *answer],
                task="vqa",
                answer=item.answer,
                size=(SIDE, SIDE),
                source=path.stem,
                id=f"{one.seed}-{number}",
                kind=item.kind,
                regions=[list(region(item.pad))] if item.pad and not told else None,
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
    shift = arguments.seed * SEED_STRIDE
    first = SPLIT_SEEDS["sft"] + shift
    chains(arguments.out / "sft", first, arguments.chains)
    closed(arguments.out / "sft/plain.jsonl", first, arguments.chains, EASY_SHARE["sft"], told=True)
    share = EASY_SHARE["grpo"]
    closed(arguments.out / "grpo/prompts.jsonl", SPLIT_SEEDS["grpo"] + shift, arguments.prompts, share)
    closed(arguments.out / "test/small_test.jsonl", SPLIT_SEEDS["test"], arguments.test, 0.0)
    closed(arguments.out / "test/easy_test.jsonl", SPLIT_SEEDS["test"] + SEED_STRIDE, arguments.test // 2, 1.0)


if __name__ == "__main__":
    main()
