"""Where a detector's scores are cut off, so that it stands beside a model that scores nothing (AP_nc of RSCoVLM).

The detector keeps what it scores above θ, and then every score is 1. θ is that of THRESHOLDS with the greatest AP_nc50;
of equal ones the lowest. Chosen on the data that is scored, it makes AP_nc the best that can be had there: optimistic.

So does playground/comparison_detector/eval_mmrotate_detector_mapnc.py of VisionXLab/RSCoVLM at 24e53cf, with all scores
in the order of the file; its README has θ chosen on DOTA's trainval. An earlier script
(playground/eval_mmrotate_detector_mapnc.py of VisionXLab/mllm-mmrotate at 7d6a1b8) tries nine θ, 0.1 to 0.7, and takes
the `max` of the dictionary {θ: AP}: the greatest θ, whatever its AP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evals.scoring.detecting.pictures import Picture, Pool
from evals.scoring.detecting.ties import Tied
from evals.scoring.detecting.voc import hits

THRESHOLDS = tuple(number / 20 for number in range(20))


@dataclass(frozen=True)
class Cut:
    """A threshold, and how it was chosen."""

    theta: float
    tried: dict[float, float]
    "θ → AP_nc50 on the data that it was chosen on."


def choose(found: Pool) -> Cut:
    """θ with the greatest AP_nc50 (mean over the random orders)."""
    tried = {theta: _ap(found, theta) for theta in THRESHOLDS}
    return Cut(max(tried, key=lambda theta: tried[theta]), tried)


def _ap(found: Pool, theta: float) -> float:
    kept = [hits(found, label, (0.5,), among=found.score > theta) for label in found.classes]
    return float(np.mean(Tied(kept).drawn)) if kept else 0.0


def cut(pictures: Sequence[Picture], theta: float) -> list[Picture]:
    """The same with what is scored above θ alone, and no scores."""
    out = []
    for one in pictures:
        kept = [place for place, score in enumerate(one.scores or ()) if score > theta]
        said = [one.said[place] for place in kept]
        out.append(replace(one, said=said, said_labels=[one.said_labels[place] for place in kept], scores=None))
    return out
