"""The findings and the verdict."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from samples import Faults
from samples.doctor.leaks import CERTAIN, Leak
from samples.doctor.rows import AGAIN, MUTE, UNSHOWN, UNTAGGED, Findings
from samples.mixture import Mixture

LISTED = 1000
"""Leaks that the JSON report names; all are counted."""


@dataclass(slots=True)
class SourceCounts:
    """Where the rows of one source went: rows = fit + unfit + other_tasks + faulty + left_out."""

    role: str
    path: str
    rows: int = 0
    "Rows of the file, up to the recipe's limit."
    examined: int = 0
    "Good rows of the wanted tasks."
    unfit: int = 0
    "Of these, rows that show a picture which cannot be decoded or shown, or that have nothing for SFT to learn."
    other_tasks: int = 0
    "Good rows that the recipe's task filters leave out."
    faults: Faults = field(default_factory=Faults)
    "Rows that the reader refuses, and those that ask nothing."
    broken: str = ""
    "Why the file could not be read to its end, or gave no row."
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    "Task → question type → rows."

    @property
    def fit(self) -> int:
        return self.examined - self.unfit

    def to_dict(self) -> dict[str, Any]:
        faults = {k: {"count": n, "first": self.faults.examples[k]} for k, n in self.faults.kinds.most_common()}
        counts = {name: getattr(self, name) for name in ("rows", "fit", "unfit", "other_tasks")}
        known = {"role": self.role, "path": self.path, **counts, "faulty": self.faults.skipped}
        known |= {"left_out": self.faults.left_out.total(), "left_out_kinds": dict(self.faults.left_out)}
        objects = {k: {"count": n, "first": self.faults.examples[k]} for k, n in self.faults.objects.most_common()}
        known |= {"boxes_cut": self.faults.cut, "objects_left_out": objects, "other_suffixes": self.faults.swapped}
        known |= {"frame": str(self.faults.frames) or None}
        return known | {"faults": faults, "broken": self.broken or None, "tasks": self.kinds}


@dataclass(slots=True)
class Report:
    """What was found. Arrays are over pictures, rows or boxes; they are summarised in `to_dict`, drawn in the PNG."""

    notes: list[str] = field(default_factory=list)
    sources: list[SourceCounts] = field(default_factory=list)
    mixtures: list[Mixture] = field(default_factory=list)
    mixture_faults: list[str] = field(default_factory=list)
    pictures: int = 0
    unfit: Findings = field(default_factory=Findings)
    "Pictures that cannot be decoded or shown."
    turned: Findings = field(default_factory=Findings)
    "Pictures that EXIF turns, and whose boxes fit both ways while their rows state no size."
    unfit_rows: int = 0
    "Rows that show one of them."
    replies: Findings = field(default_factory=Findings)
    "What is wrong with what SFT would learn."
    namesakes: int = 0
    "Held-out rows that are called as another one, where results are kept by name."
    repeated: Findings = field(default_factory=Findings)
    "Rows that ask again what another row asks about the same pictures."
    tones: Findings = field(default_factory=Findings)
    "Pictures with nothing to see (`samples.doctor.brightness`)."
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    visual_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0))
    answer_words: np.ndarray = field(default_factory=lambda: np.zeros(0))
    box_sides: np.ndarray = field(default_factory=lambda: np.zeros(0))
    zoom_sides: np.ndarray = field(default_factory=lambda: np.zeros(0))
    boxes: Findings = field(default_factory=Findings)
    masks: Findings = field(default_factory=Findings)
    mask_sides: np.ndarray = field(default_factory=lambda: np.zeros(0))
    mask_ious: np.ndarray = field(default_factory=lambda: np.zeros(0))
    "Of masks with their own texts."
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0))
    "Tokens of each row, pictures included; empty where they could not be measured."
    room: int | None = None
    rule: str = ""
    long: Findings = field(default_factory=Findings)
    leaks: list[Leak] = field(default_factory=list)

    @property
    def leaked(self) -> Counter[str]:
        """Pictures of the evaluation by kind of leak."""
        return Counter(leak.kind for leak in self.leaks)

    @property
    def faults(self) -> list[str]:
        """What makes the data unfit, a sentence each."""
        found = [f"{s.path}: {s.broken}" for s in self.sources if s.broken]
        if rows := sum(s.faults.skipped for s in self.sources):
            found.append(f"{rows:,} faulty rows (each in faults.jsonl)")
        for kind, count in self.unfit.counts.items():
            found.append(f"{count:,} pictures: {kind} ({self.unfit_rows:,} rows show such a picture)")
        if count := self.replies.counts[MUTE]:
            found.append(f"{count:,} rows are {MUTE}: supervised training refuses them")
        if count := self.replies.counts[UNSHOWN]:
            found.append(f"{count:,} rows are {UNSHOWN}")
        found += self.mixture_faults
        if self.namesakes:
            found.append(f"{self.namesakes:,} held-out rows are called as another one; give each source a `name:`")
        for kind in CERTAIN:
            if count := self.leaked[kind]:
                found.append(f"contamination: {count:,} pictures of the evaluation are in training, too: {kind}")
        return found

    @property
    def warnings(self) -> list[str]:
        """What a person should look at."""
        found = []
        if count := self.leaked["alike"]:
            found.append(f"{count:,} pictures of the evaluation look like one of training: look at the pairs")
        found += [f"{s.path}: {s.faults.frames}" for s in self.sources if str(s.faults.frames) and not s.broken]
        found += [f"{count:,} pictures are {kind}" for kind, count in self.turned.counts.items()]
        found += [f"{count:,} pictures: {kind}" for kind, count in self.tones.counts.most_common()]
        found += [f"{count:,} rows are {kind}" for kind, count in self.long.counts.items()]
        if count := self.replies.counts[UNTAGGED]:
            rows = sum(source.examined for source in self.sources)
            found.append(
                f"{count:,} of {rows:,} rows ({count / rows:.0%}) are {UNTAGGED}: prompt.style r1 asks for them"
            )
        if count := self.repeated.counts[AGAIN]:
            found.append(f"{count:,} rows are {AGAIN} (same pictures, same text)")
        found += [f"{count:,} boxes: {kind}" for kind, count in self.boxes.counts.most_common()]
        found += [f"{count:,} masks: {kind}" for kind, count in self.masks.counts.most_common()]
        return found

    def fit(self, strict: bool = False) -> bool:
        """The verdict; strict: warnings count as faults."""
        return not self.faults and not (strict and self.warnings)

    def to_dict(self) -> dict[str, Any]:
        """For report.json."""
        sizes = [{"size": list(size), "pictures": count} for size, count in self.sizes.most_common(50)]
        return {
            "fit": self.fit(),
            "faults": self.faults,
            "warnings": self.warnings,
            "notes": self.notes,
            "sources": [source.to_dict() for source in self.sources],
            "mixture": {mixture.role: mixture.to_dict() for mixture in self.mixtures},
            "pictures": {
                "different": self.pictures,
                "unfit": self.unfit.to_dict(),
                "turned": self.turned.to_dict(),
                "odd": self.tones.to_dict(),
                "sizes": sizes,
                "visual_tokens": summary(self.visual_tokens),
            },
            "answers": {"words": summary(self.answer_words)},
            "boxes": {"count": len(self.box_sides), "odd": self.boxes.to_dict(), "side": summary(self.box_sides)},
            "masks": {
                "count": len(self.mask_sides),
                "odd": self.masks.to_dict(),
                "side": summary(self.mask_sides),
                "iou_as_text": summary(self.mask_ious),
            },
            "zooms": {"count": len(self.zoom_sides), "side": summary(self.zoom_sides)},
            "replies": self.replies.to_dict(),
            "repeated": self.repeated.to_dict(),
            "lengths": {
                "tokens": summary(self.lengths),
                "room": self.room,
                "rule": self.rule,
                "too_long": self.long.to_dict(),
            },
            "contamination": {
                "pictures": dict(self.leaked),
                "pairs": [leak.to_dict() for leak in self.leaks[:LISTED]],
            },
        }


def summary(values: np.ndarray) -> dict[str, float] | None:
    """Least, median, 95th percentile and greatest; None of nothing."""
    if not len(values):
        return None
    least, middle, high, most = np.percentile(values, [0, 50, 95, 100]).tolist()
    return {"count": len(values), "min": least, "median": middle, "p95": high, "max": most}
