"""Write the detection demo's scenes to disk in DOTA's layout, for the same reader as real data.

    python -m demo.detect.dataset runs/detect/data --seed 0

    {sft,grpo,test}/images/N.jpg      224 × 224 pixels
    {sft,grpo,test}/labelTxt/N.txt    "x1 y1 … x4 y4 class difficult" for each thing, in pixels; headers alone for none

The corners are those of upright boxes, as in DOTA's own horizontal labels. Splits come from disjoint scene seeds; the
test split is the same for every seed. Truth is exact in all three: what SFT teaches, GRPO rewards and the test asks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demo.dataset import SEED_STRIDE
from demo.detect.scene import scene
from demo.world.render import render
from demo.world.scene import SPLIT_SEEDS, Scene
from vlm.boxes import corners

HEADERS = "imagesource:nadir\ngsd:0.5\n"


def labels(one: Scene) -> str:
    """A scene as a label file of DOTA's, in random order as annotators leave it: that in which things were placed."""
    lines = (" ".join(f"{v:.1f}" for v in corners(list(thing.box))) + f" {thing.name} 0\n" for thing in one.things)
    return HEADERS + "".join(lines)


def written(folder: Path, first: int, count: int) -> None:
    """The scenes of `count` seeds, from `first` on."""
    for name in ("images", "labelTxt"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for one in map(scene, range(first, first + count)):
        render(one).save(folder / f"images/{one.seed}.jpg", quality=92)
        (folder / f"labelTxt/{one.seed}.txt").write_text(labels(one))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="shifts the training scenes; the test set stays")
    parser.add_argument("--sft", type=int, default=256, help="pictures for SFT")
    parser.add_argument("--grpo", type=int, default=800, help="pictures for GRPO")
    parser.add_argument("--test", type=int, default=400, help="held-out pictures")
    arguments = parser.parse_args()
    for split in ("sft", "grpo", "test"):
        shift = 0 if split == "test" else arguments.seed * SEED_STRIDE
        written(arguments.out / split, SPLIT_SEEDS[split] + shift, getattr(arguments, split))


if __name__ == "__main__":
    main()
