"""Figures that papers report, to stand beside ours: marked as published, never resampled, each with its source.

A figure stands under the metric that counts as its paper does. Where none does, `note` says what differs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One published number."""

    benchmark: str
    metric: str
    model: str
    value: float
    "As a share."
    source: str
    note: str = ""


SCORERS = "ScoreRS, arXiv 2503.00743"
RSCOVLM = "RSCoVLM"
# Of the ScoreRS paper's RL comparison: VG-DIOR acc@0.5, LHRS-Bench, in percent.
_SCORERS = {
    "Qwen2VL-7B-RS (base)": (58.34, 67.08),
    "Zero without ScoreRS": (58.66, 66.05),
    "Zero": (59.64, 67.21),
    "SFT": (59.21, 66.34),
    "R1 without ScoreRS": (62.47, 65.71),
    "R1": (64.52, 69.13),
    "DPO-26K": (59.71, 67.19),
    "PPO, raw score": (57.10, 66.04),
}
_UNSAID = "its authors' claim; which of XLRS-Bench's means it is (lite: macro, full: micro) was not to be found"
_SOURCES = (
    "taken as the mean over FAIR, Bridge and STAR, WordNet synonyms as right, which its code does not print: that has "
    "each source's share of questions (as here), each source's mean of types (mean_of_sources_and_kinds) and, as "
    "average, the mean of all types (mean_of_kinds)"
)
FIGURES: tuple[Figure, ...] = (
    *(
        Figure(benchmark, metric, model, values[place] / 100, SCORERS)
        for place, (benchmark, metric) in enumerate(
            (("vg-dior", "grounding/acc@0.5"), ("lhrs-bench", "choice/accuracy"))
        )
        for model, values in _SCORERS.items()
    ),
    Figure("dior-rsvg", "grounding/acc@0.5:rscovlm", "RSCoVLM", 0.8455, RSCOVLM),
    Figure("lrs-vqa", "vqa/mean_of_sources:wordnet", "RSCoVLM", 0.3385, RSCOVLM, _SOURCES),
    Figure("lrs-vqa", "vqa/mean_of_sources:wordnet", "RSCoVLM with zoom", 0.4571, RSCOVLM, _SOURCES),
    Figure(
        "xlrs-bench",
        "choice/mean_of_kinds:xlrs_bench",
        "GeoEyes",
        0.5423,
        "arXiv 2602.14201",
        _UNSAID + "; others list it with 42.34",
    ),
    Figure(
        "xlrs-bench",
        "choice/mean_of_kinds:xlrs_bench",
        "text-only cold start, then RLVR",
        0.6040,
        "arXiv 2602.14225",
        _UNSAID,
    ),
)


def figures(benchmark: str) -> list[Figure]:
    """The published figures of a benchmark, in the order of their papers' tables."""
    return [figure for figure in FIGURES if figure.benchmark == benchmark]
