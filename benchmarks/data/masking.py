"""Masks as text on the CPU: writing, reading, and overlap with the truth, beside the plain way through pixels.

    python -m benchmarks.data.masking
    python -m benchmarks.data.masking --masks 500 --repeats 5

Masks are one blob each. The plain way decodes the truth to pixels by pycocotools, spreads the grid over the picture
(Pillow, NEAREST), and counts by numpy: what a reward would do that knew nothing of runs. Its numbers are compared, and
are equal. Overlaps are of a group of 8 answers to one truth, which is counted once. Medians of CPU seconds in this
process, one thread; smallest and largest in brackets.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.data.detecting import row, timed

GROUP = 8


def blobs(count: int, side: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Ellipses with a wavy border, as run lengths of a picture of side x side."""
    from vlm.masks import rings_to_runs

    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    found = []
    for _ in range(count):
        away = side * rng.uniform(0.05, 0.2) * (1 + 0.15 * np.sin(angles * rng.integers(3, 9) + rng.uniform(0, 6)))
        points = rng.uniform(0.25, 0.75, 2) * side + np.stack((away * np.cos(angles), away * np.sin(angles)), 1)
        found.append(rings_to_runs([points.ravel().tolist()], (side, side)))
    return found


def plainly(grid: np.ndarray, truth: dict[str, Any]) -> tuple[int, int]:
    from PIL import Image
    from pycocotools import mask as coco

    true = coco.decode(truth).astype(bool)
    size = true.shape[::-1]
    said = np.asarray(Image.fromarray(grid.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)) > 0
    return int((said & true).sum()), int((said | true).sum())


def measure(count: int, side: int, forms: list[str], repeats: int) -> None:
    from vlm.masks import read_mask, write_mask
    from vlm.masks.cells import _cells

    rng, size, resized = np.random.default_rng(0), (side, side), (1008, 1008)
    truths = blobs(count, side, rng)
    for form in forms:
        texts = [write_mask(truth, form, resized, "the dam") for truth in truths]
        said = [read_mask(text, form, size, resized, "the dam") for text in texts]
        name = f"{form}, {side} x {side}"

        def write(form: str = form) -> None:
            _cells.cache_clear()
            for truth in truths:
                write_mask(truth, form, resized, "the dam")

        def overlap(said: list[Any] = said) -> None:
            _cells.cache_clear()
            for one, truth in zip(said, truths, strict=True):
                for _ in range(GROUP):
                    one.overlap(truth)

        print(row(f"write, {name}", timed(repeats, write), count, "ms a mask"))
        read = timed(
            repeats, lambda form=form, texts=texts: [read_mask(t, form, size, resized, "the dam") for t in texts]
        )
        print(row(f"read, {name}", read, count, "ms an answer"))
        print(row(f"overlap, {name}", timed(repeats, overlap), count * GROUP, "ms an answer"))
        if said[0].grid is not None:
            few = list(zip(said, truths, strict=True))[: max(1, count // GROUP)]
            plain = timed(min(repeats, 3), lambda few=few: [plainly(one.grid, truth) for one, truth in few])
            assert all(plainly(one.grid, truth) == one.overlap(truth) for one, truth in few)
            print(row(f"the same by pixels, {name}", plain, len(few), "ms an answer"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print("| | | |\n| --- | ---: | --- |")
    measure(given.masks, 800, ["rscovlm", "grid32", "text4seg24", "polygon"], given.repeats)
    measure(max(1, given.masks // 20), 8192, ["rscovlm", "polygon"], given.repeats)


if __name__ == "__main__":
    main()
