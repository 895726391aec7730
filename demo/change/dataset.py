"""Write the change demo's data to disk: pairs in LEVIR-CC's layout, masks as JSONL, for the same readers as real data.

    python -m demo.change.dataset runs/change/data --seed 0

    LevirCCcaptions.json             five captions of each pair; the splits are sft, grpo and test
    images/SPLIT/{A,B}/N.jpg         the pair, 224 × 224 pixels
    segment/SPLIT.jsonl              a scene, what is to be outlined ("red ship"), and its mask
    segment/{images,masks}/N.{jpg,png}   the scene, and the pixels of the thing: 0, and 255

Splits come from disjoint seeds; the test split is the same for every seed. Truth is exact in all three; the captions
leave facts out, as annotators do.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from demo.change.captions import references
from demo.change.scene import Pair, mask, pair, scene
from demo.dataset import SEED_STRIDE
from demo.world.render import render
from demo.world.scene import SPLIT_SEEDS
from demo.world.tasks import noun

QUALITY = 92
UNCHANGED = 0.32
"""Share of GRPO's pairs in which nothing changed (of LEVIR-CC's, half). The other splits have the world's fifth, and of
so few GRPO unlearns that there are any (LOG.md)."""


def drawn(first: int, count: int, unchanged: float | None = None) -> Iterator[Pair]:
    """The pairs of the seeds from `first` on. unchanged: share in which nothing changed, those beyond it passed over;
    None: as they come."""
    if unchanged is None:
        yield from map(pair, range(first, first + count))
        return
    left = {True: round(count * unchanged), False: count - round(count * unchanged)}
    for one in map(pair, range(first, first + SEED_STRIDE // 2)):
        if left[one.thing is None]:
            left[one.thing is None] -= 1
            yield one
        elif not any(left.values()):
            return


def pairs(folder: Path, split: str, shown: Iterable[Pair]) -> Iterator[dict[str, Any]]:
    """Pairs as rows of LEVIR-CC's file, their pictures written."""
    for side in "AB":
        (folder / f"images/{split}/{side}").mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(shown):
        name, ids = f"{one.before.seed}.jpg", list(range(5 * number, 5 * number + 5))
        for side, seen in (("A", one.before), ("B", one.after)):
            render(seen).save(folder / f"images/{split}/{side}/{name}", quality=QUALITY)
        sentences = [
            {"raw": text, "tokens": text.rstrip(".").replace(":", "").split(), "imgid": number, "sentid": sentid}
            for text, sentid in zip(references(one), ids, strict=True)
        ]
        changed = int(one.thing is not None)
        place = {"imgid": number, "filepath": split, "filename": name, "split": split, "changeflag": changed}
        yield {**place, "sentids": ids, "sentences": sentences}


def segments(folder: Path, split: str, seeds: Iterable[int]) -> None:
    """The scenes of these seeds, of each one thing's mask."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
        for one in map(scene, seeds):
            thing = random.Random(one.seed).choice(one.things)
            render(one).save(folder / f"images/{one.seed}.jpg", quality=QUALITY)
            Image.fromarray(mask(thing)).convert("L").save(folder / f"masks/{one.seed}.png")
            row = {
                "images": [f"images/{one.seed}.jpg"],
                "task": "segmentation",
                "messages": [{"role": "user", "content": noun(thing)}],
                "mask": f"masks/{one.seed}.png",
                "id": str(one.seed),
            }
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="shifts the training scenes; the test set stays")
    parser.add_argument("--sft", type=int, nargs=2, default=(384, 128), help="pairs, and masks, for SFT")
    parser.add_argument("--grpo", type=int, nargs=2, default=(480, 320), help="the same for GRPO")
    parser.add_argument("--test", type=int, nargs=2, default=(300, 300), help="the same, held out")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for split in ("sft", "grpo", "test"):
        first = SPLIT_SEEDS[split] + (0 if split == "test" else arguments.seed * SEED_STRIDE)
        of_pairs, of_scenes = getattr(arguments, split)
        rows += pairs(arguments.out, split, drawn(first, of_pairs, UNCHANGED if split == "grpo" else None))
        # scenes of pairs, and scenes to be outlined, come from different seeds
        first += SEED_STRIDE // 2
        segments(arguments.out / "segment", split, range(first, first + of_scenes))
    (arguments.out / "LevirCCcaptions.json").write_text(json.dumps({"images": rows, "dataset": "LEVIR-CC"}))


if __name__ == "__main__":
    main()
