"""Questions that benchmarks put together from the rows that are read."""

from __future__ import annotations

import dataclasses

from evals.scoring.detection import labels
from samples import Sample


def every_class(samples: list[Sample]) -> list[Sample]:
    """DOTA's rows, one for each class of a picture, as one question a picture about all classes of the data.

    Asking only for the classes that are there would tell the model what to find. The true classes stand in `answer`,
    one a line, in the order of `quads`; difficult objects, the last of their row as its `kind` says, are marked.
    """
    names = sorted({_class(sample) for sample in samples})
    spoken = ", ".join(name.replace("-", " ").replace("_", " ") for name in names)
    pictures: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        pictures.setdefault((sample.source, *map(str, sample.images)), []).append(sample)
    out = []
    for rows in pictures.values():
        quads, classes, difficult = [], [], []
        for row in rows:
            hard = _difficult(row)
            quads += row.quads or []
            classes += [_class(row)] * len(row.quads or [])
            difficult += [number >= len(row.quads or []) - hard for number in range(len(row.quads or []))]
        first = rows[0]
        out.append(
            dataclasses.replace(
                first,
                id=first.id.rpartition("/")[0] or first.id,
                messages=[{"role": "user", "content": f"find the {spoken}."}],
                answer=labels(classes, difficult),
                quads=quads,
                boxes=[box for row in rows for box in row.boxes or []],
                kind=None,
            )
        )
    return out


def _class(sample: Sample) -> str:
    return (sample.kind or "").split(",")[0]


def _difficult(sample: Sample) -> int:
    parts = (sample.kind or "").split(",")[1:]
    return sum(int(part.removeprefix("difficult:")) for part in parts if part.startswith("difficult:"))
