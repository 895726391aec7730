"""What the rewards `caption`, `mask` and `union` take on the CPU, with pycocoevalcap's CIDEr-D beside the first.

    python -m benchmarks.data.captioning
    python -m benchmarks.data.captioning --pairs 10077 --repeats 3

Captions have 10 words of 800, five a pair, as LEVIR-CC's. Masks are of three ellipses; a group's first answer pays for
the weights of its truth. Medians of CPU seconds in this process, one thread; smallest and largest in brackets.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.data.detecting import row, timed

GROUP = 8


def captions(pairs: int, repeats: int) -> None:
    from pycocoevalcap.cider.cider import Cider

    from rewards.rules.captions import Caption
    from rewards.rules.frequencies import of_samples, write
    from samples import Sample

    rng = np.random.default_rng(0)
    drawn = np.minimum(rng.zipf(1.3, (pairs, 5, 10)), 800)  # few words are frequent, as in any language
    texts = [[" ".join(f"word{n}" for n in text) for text in pair] for pair in drawn]
    rows = [Sample([f"{n}.png"], [], "caption", references=some) for n, some in enumerate(texts)]
    count = min(pairs, 200)
    said = [texts[n][0].replace("word1 ", "word2 ") for n in range(count) for _ in range(GROUP)]
    columns = {"references": [texts[n] for n in range(count) for _ in range(GROUP)]}
    columns["task"] = ["caption"] * len(said)
    found = of_samples(rows, "made captions")
    counting = timed(min(repeats, 2), lambda: of_samples(rows, "made captions"))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "f.json", found)
        start = timed(min(repeats, 2), lambda: Caption(str(Path(folder) / "f.json")))
        reward = Caption(str(Path(folder) / "f.json"), inside="text", full=1.0)
        megabytes = (Path(folder) / "f.json").stat().st_size / 2**20
    whole = timed(repeats, lambda: reward(completions=said, **columns))
    true = dict(enumerate(columns["references"]))
    theirs = timed(1, lambda: Cider().compute_score(true, {n: [text] for n, text in enumerate(said)}))
    print(row(f"counting {pairs:,} pairs with five captions, full: auto", counting, 1, "ms"))
    print(row(f"reading these counts, {megabytes:.1f} MiB", start, 1, "ms"))
    print(row("reward `caption`, CIDEr-D and BLEU-4", whole, len(said), "ms an answer, five references"))
    print(row("CIDEr-D by pycocoevalcap, frequencies included", theirs, len(said), "ms an answer"))


def masks(side: int, repeats: int) -> None:
    from rewards.rules import masks as rule
    from vlm.masks import runs_of, write_mask

    rng, seen = np.random.default_rng(side), (504, 504)
    y, x = np.mgrid[:side, :side] / side
    true = np.zeros((side, side), bool)
    for cx, cy, rx, ry in rng.uniform((0.2, 0.2, 0.05, 0.05), (0.8, 0.8, 0.2, 0.2), (3, 4)):
        true |= ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
    runs = runs_of(true)
    text = write_mask(runs, "rscovlm", seen)
    columns = {"mask": [runs], "resized": [seen], "form": ["rscovlm"], "task": ["segmentation"]}
    group = {name: value * GROUP for name, value in columns.items()}

    def first() -> None:
        rule._weighed.cache_clear()
        rule.mask(completions=[text], inside="text", **columns)

    print(row(f"reward `mask` of {side}², a group's first answer", timed(repeats, first), 1, "ms"))
    for border in (0.02, 0.0):
        others = timed(
            repeats, lambda border=border: rule.mask(completions=[text] * GROUP, inside="text", border=border, **group)
        )
        print(row(f"reward `mask` of {side}², the others, border {border:g}", others, GROUP, "ms an answer"))


def unions(boxes: int, repeats: int) -> None:
    import rewards
    from vlm.boxes import write_boxes

    rng, size = np.random.default_rng(0), (1024, 1024)
    corner, sides = rng.integers(0, 900, (boxes, 2)), rng.integers(20, 100, (boxes, 2))
    truth = np.hstack((corner, corner + sides)).tolist()
    off = np.hstack((corner + 5, corner + 5 + sides)).tolist()
    reward = rewards.resolve("union", notation="rscovlm", inside="text")
    columns = {"boxes": [truth] * GROUP, "size": [size] * GROUP, "resized": [size] * GROUP}
    said = [write_boxes(off, "rscovlm", size, size)] * GROUP
    print(
        row(
            f"reward `union`, {boxes} boxes",
            timed(repeats, lambda: reward(completions=said, **columns)),
            GROUP,
            "ms an answer, reading included",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6815, help="of the corpus: LEVIR-CC's training pairs")
    parser.add_argument("--sides", type=int, nargs="*", default=[512, 2048, 8192])
    parser.add_argument("--boxes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print("| | | |\n| --- | ---: | --- |")
    captions(given.pairs, given.repeats)
    for side in given.sides:
        masks(side, given.repeats)
    unions(given.boxes, given.repeats)


if __name__ == "__main__":
    main()
