"""What a detector found in a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evals.scoring.detecting.pictures import Picture
from evals.scoring.detectors.truth import Truth


@dataclass(frozen=True)
class Found:
    """Objects with their scores, in the order of the file."""

    shapes: list[list[float]] = field(default_factory=list)
    "Quadrilaterals or boxes in pixels of the original image, as the truth has them."
    labels: list[str] = field(default_factory=list)
    "In words."
    scores: list[float] = field(default_factory=list)
    "0 to 1."

    def add(self, shape: Sequence[float], label: str, score: float) -> None:
        self.shapes.append(list(shape))
        self.labels.append(label)
        self.scores.append(score)


def pictures(truth: Truth, found: Mapping[str, Found]) -> list[Picture]:
    """Truth and findings side by side, in the order of the truth."""
    return [
        Picture(
            key=name,
            true=one.shapes,
            labels=one.labels,
            difficult=one.difficult,
            said=found[name].shapes,
            said_labels=found[name].labels,
            scores=found[name].scores,
            areas=one.areas,
        )
        for name, one in truth.pictures.items()
    ]
