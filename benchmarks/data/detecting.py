"""Detection's hot paths on the CPU: reading and rewarding answers, AP over a test set, suppression of merged tiles.

    python -m benchmarks.data.detecting
    python -m benchmarks.data.detecting --pictures 2000 --repeats 3

Answers have 50 objects of 15 classes, half of them a few pixels off. Suppression has its plain twin beside it, on as
many objects of one class and scene. Medians of CPU seconds in this process, one thread; smallest and largest in
brackets.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

SIDE, OBJECTS, CLASSES = 1024, 50, 15


def timed(repeats: int, run: Callable[[], object]) -> list[float]:
    """CPU seconds of each repetition, after one that warms up."""
    run()
    found = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return found


def row(name: str, seconds: Sequence[float], each: int, unit: str) -> str:
    numbers = (median(seconds), min(seconds), max(seconds))
    middle, low, high = (f"{1000 * one / each:.3g}" for one in numbers)
    return f"| {name} | {middle} ({low} to {high}) | {unit} |"


def answers(count: int, notation: str, rng: np.random.Generator) -> tuple[list[str], dict[str, list]]:
    """Completions, and the columns of their rows."""
    from vlm.boxes import quad_from_obb, write_detections

    classes = [f"class {chr(97 + n)}" for n in range(CLASSES)]
    said, quads, labels = [], [], []
    for _ in range(count):
        centres, sides = rng.uniform(80, SIDE - 80, (OBJECTS, 2)), rng.uniform(12, 90, (OBJECTS, 2))
        turns = rng.uniform(-90, 90, OBJECTS)
        true = [quad_from_obb(*c, *s, t) for c, s, t in zip(centres, sides, turns, strict=True)]
        off = [quad_from_obb(*(c + 3 * (n % 2)), *s, t) for n, (c, s, t) in enumerate(zip(centres, sides, turns, strict=True))]  # fmt: skip  # noqa: E501
        names = [classes[n] for n in rng.integers(0, CLASSES, OBJECTS)]
        said.append(write_detections(off, names, notation, (SIDE, SIDE), (SIDE, SIDE), classes))
        quads.append(true)
        labels.append(names)
    size = [[SIDE, SIDE]] * count
    columns = {"quads": quads, "labels": labels, "classes": [classes] * count, "size": size, "resized": size}
    return said, columns | {"task": ["detection"] * count}


def reading(count: int, repeats: int) -> None:
    import rewards
    from vlm.boxes import read_detections

    for notation in ("rscovlm_quad", "rscovlm_quad_json"):
        said, columns = answers(count, notation, np.random.default_rng(0))
        given = (notation, (SIDE, SIDE), (SIDE, SIDE), columns["classes"][0])
        judge = rewards.resolve("detect", notation=notation, shape="quad", inside="text")
        read = timed(repeats, lambda said=said, given=given: [read_detections(text, *given) for text in said])
        whole = timed(repeats, lambda said=said, columns=columns, judge=judge: judge([], said, **columns))
        print(row(f"reading, {notation}", read, count, "ms an answer of 50 objects"))
        print(row(f"reward `detect`, {notation}", whole, count, "ms an answer, reading included"))


def scoring(pictures: int, repeats: int) -> None:
    from evals.predictions import Prediction
    from evals.scoring.detecting.score import Detection
    from evals.scoring.reading import Reading

    said, columns = answers(pictures, "rscovlm_quad", np.random.default_rng(1))
    names = ("quads", "labels", "classes")
    rows = [
        Prediction(
            str(n), "x", "detection", text, size=(SIDE, SIDE), resized=(SIDE, SIDE),
            **{name: columns[name][n] for name in names},
        )
        for n, text in enumerate(said)
    ]  # fmt: skip
    detection, how = Detection(), Reading("rscovlm_quad", "text")
    whole = timed(repeats, lambda: detection(rows, how))
    print(row("all metrics, without intervals", whole, pictures, "ms a picture of 50 objects"))
    found = detection(rows, how)
    began = time.process_time()
    assert found.intervals["detection/ap_nc@0.5-0.95"][0] > 0
    print(f"| 500 resamples of AP_nc at 10 thresholds, {pictures} pictures | {time.process_time() - began:.1f} | s |")


def suppression(count: int, repeats: int) -> None:
    from evals.merging.suppression import suppressed, suppressed_one_by_one

    _, columns = answers(count // OBJECTS, "rscovlm_quad", np.random.default_rng(2))
    shift = np.random.default_rng(3).uniform(0, 20 * SIDE, (count // OBJECTS, 2))
    quads = [
        [value + x if n % 2 == 0 else value + y for n, value in enumerate(quad)]
        for (x, y), some in zip(shift, columns["quads"], strict=True)
        for quad in some
    ]
    fast = timed(repeats, lambda: suppressed(quads))
    plain = timed(1, lambda: suppressed_one_by_one(quads))
    assert suppressed(quads) == suppressed_one_by_one(quads)
    print(row(f"suppression of {count} objects", fast, 1, f"ms; one by one {1000 * plain[0]:.3g}, the same that stay"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=256)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--objects", type=int, default=2000, help="of one class and scene, to be suppressed")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print("| | | |\n| --- | ---: | --- |")
    reading(given.answers, given.repeats)
    scoring(given.pictures, given.repeats)
    suppression(given.objects, given.repeats)


if __name__ == "__main__":
    main()
