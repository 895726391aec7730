"""Generated scenes with true and said objects, and AP as public tools compute it, written down as plainly as can be."""

from __future__ import annotations

import numpy as np

from evals.scoring.detecting.pictures import Picture
from vlm.boxes import hull, iou, quad_from_obb, quad_iou

NAMES = ("plane", "ship", "small vehicle", "storage tank")


def scene(rng: np.random.Generator, key: str, upright: bool = False, scored: bool = True, side: float = 400) -> Picture:
    """0 to 8 true objects of four classes, most of them said, some moved far, doubled, renamed, or made up; difficult
    ones among them. Scores have two digits, so that some tie."""
    true, labels = [], []
    for _ in range(rng.integers(0, 9)):
        across = rng.choice([14, 50, 130]) * rng.uniform(0.6, 1.4)
        obb = (*rng.uniform(40, side - 40, 2), across, across * rng.uniform(0.3, 1), rng.uniform(-90, 90))
        true.append([float(x) for x in quad_from_obb(*obb)])
        labels.append(str(rng.choice(NAMES)))
    difficult = [bool(hard) for hard in rng.random(len(true)) < 0.2]
    said, said_labels = [], []
    for quad, label in zip(true, labels, strict=True):
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            across = max(hull(quad)[2] - hull(quad)[0], 4)
            moved = np.array(quad) + np.tile(rng.normal(0, across * rng.choice([0.03, 0.15, 0.6]), 2), 4)
            said.append((moved + rng.normal(0, across * 0.02, 8)).tolist())
            said_labels.append(label if rng.random() < 0.85 else str(rng.choice(NAMES)))
    for _ in range(rng.integers(0, 3)):
        made_up = quad_from_obb(*rng.uniform(0, side, 2), *rng.uniform(5, 140, 2), rng.uniform(-90, 90))
        said.append([float(x) for x in made_up])
        said_labels.append(str(rng.choice(NAMES)))
    order = rng.permutation(len(said))
    said, said_labels = [said[place] for place in order], [said_labels[place] for place in order]
    if upright:
        true, said = [hull(quad) for quad in true], [hull(quad) for quad in said]
    scores = [round(float(score), 2) for score in rng.random(len(said))] if scored else None
    return Picture(key, true, labels, difficult, said, said_labels, scores)


def scenes(seed: int, count: int, **more) -> list[Picture]:
    rng = np.random.default_rng(seed)
    return [scene(rng, f"{number:03d}", **more) for number in range(count)]


def overlap(a, b) -> float:
    return quad_iou(a, b) if len(a) == 8 else iou(a, b)


def devkit_points(pictures: list[Picture], name: str, threshold: float):
    """`voc_eval` of DOTA's devkit for one class, by its own account: the detections of all pictures, the surest first,
    go one after another to the true object that they overlap most."""
    detections = [
        (score, picture, shape)
        for picture in pictures
        for shape, label, score in zip(picture.said, picture.said_labels, picture.scores, strict=True)
        if label == name
    ]
    detections.sort(key=lambda one: -one[0])  # equal scores stay in the order of the file
    positives = sum(
        label == name and not hard
        for picture in pictures
        for label, hard in zip(picture.labels, picture.difficult, strict=True)
    )
    taken, right, wrong, recall, precision = set(), 0, 0, [], []
    for _, picture, shape in detections:
        best, at = -1.0, -1
        for place, (true, label) in enumerate(zip(picture.true, picture.labels, strict=True)):
            if label == name and overlap(shape, true) > best:
                best, at = overlap(shape, true), place
        if best > threshold:
            if not picture.difficult[at]:
                if (picture.key, at) not in taken:
                    taken.add((picture.key, at))
                    right += 1
                else:
                    wrong += 1
        else:
            wrong += 1
        recall.append(right / positives if positives else 0.0)
        precision.append(right / max(right + wrong, np.finfo(np.float64).eps))
    return np.array(recall), np.array(precision), positives


def devkit_ap(recall: np.ndarray, precision: np.ndarray, eleven: bool) -> float:
    """Its `voc_ap`: eleven points, or the area."""
    if eleven:
        found = [max(precision[recall >= t], default=0) for t in np.arange(0.0, 1.1, 0.1)]
        return sum(found) / 11.0
    total, before = 0.0, 0.0
    for place, reached in enumerate(recall):
        total += (reached - before) * max(precision[place:])
        before = reached
    return total
