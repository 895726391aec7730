"""The numbers of benchmarks about several dates, as their projects count them.

Spelt        TEOChat's accuracy (ermongroup/TEOChat, videollava/eval/classification.py at 569ce63): equal in lower case
             without punctuation; of some question types also where truth and answer share a word of a list. By type.
             (Its script leaves out a type of which nothing is right; here that is 0.)
UnionF1      its boxes (videollava/eval/detection.py): F1 and IoU of the pixels that any box covers, of all questions
             together, on 256 x 256 pixels, drawn by Pillow with outline. Truth is the polygon where the data has it.
AreaF1       its classes of regions: F1 of each class where every question weighs as many pixels as its polygon has,
             then the mean of the classes, weighted by their share of true pixels (QFabric) or its inverse (damage of
             xBD). `:teochat`: an answer that names none of the classes misses nothing, as its script has it (it adds an
             empty mask to what was missed). Ours counts it as missed.
Paraphrases  GEOBench-VLM: the mean over items of each one's share of paraphrases that are answered right.
Changed      captions of change (Chen-Yang-Liu/Change-Agent, Multi_change/test.py at 17c44cb): all metrics of captions
             over all pairs, over those that changed and over those that did not, each with document frequencies of its
             own; and how many of either are told to be so, by the five sentences for "no change" that its script knows.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evals.predictions import Prediction
from evals.scoring.captions import Captions
from evals.scoring.reading import Reading, truth
from evals.scoring.report import Scores
from evals.scoring.scores import class_key
from samples import kinds_of
from samples.readers.temporal import footprints
from vlm import answers, masks
from vlm.common.bootstrap import Statistic, mean_of, means, ratio

DAMAGE = ("no damage", "minor damage", "major damage", "destroyed")
DEVELOPMENT = ("residential", "commercial", "industrial", "road", "demolition", "mega projects")
STATUS = (
    "prior construction", "greenland", "land cleared", "excavation", "materials dumped", "construction started",
    "construction midway", "construction done", "operational",
)  # fmt: skip
"""Classes of xBD's damage and of QFabric's developments and their status, as TEOChat's evaluator lists them."""
PLACES = (
    "yes", "no", "top left", "top center", "top right", "center left", "center", "center right", "bottom left",
    "bottom center", "bottom right",
)  # fmt: skip
"""Words that make xBD's questions right where truth and answer both hold one."""
UNCHANGED = (
    "the scene is the same as before", "there is no difference", "the two scenes seem identical",
    "no change has occurred", "almost nothing has changed",
)  # fmt: skip
_PUNCTUATION = str.maketrans("", "", string.punctuation)
FRAME = f"on {footprints.SIDE} x {footprints.SIDE} pixels, drawn by Pillow with outline (TEOChat)"


def clean(said: str) -> str:
    """Lower case without punctuation, as TEOChat compares texts; outer blanks go, too."""
    return said.lower().translate(_PUNCTUATION).strip()


@dataclass(frozen=True)
class Spelt:
    """Accuracy by `clean` texts: over all questions of each task, and by type."""

    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    "Question type → words of which truth and answer may share one."
    tasks: tuple[str, ...] = ("vqa", "classification")

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores()
        said = f"equal in lower case without punctuation (TEOChat); empty = wrong; {reading.convention}"
        if self.words:
            said = f"of {', '.join(self.words)} also where both hold one of {', '.join(*self.words.values())}; {said}"
        for task in self.tasks:
            found: dict[str, float] = {}
            groups: dict[str, dict[str, float]] = {}
            for one in predictions:
                if one.task == task:
                    found[one.key] = float(self._right(one, reading))
                    for kind in kinds_of(one.kind):
                        groups.setdefault(kind, {})[one.key] = found[one.key]
            if found:
                out.add(f"{task}/accuracy:teochat", means([found]), said)
            for kind, group in sorted(groups.items()):
                out.add(f"{task}/accuracy:teochat[{kind}]", means([group]), said)
        return out

    def _right(self, one: Prediction, reading: Reading) -> bool:
        text, true = clean(reading.text(one)), clean(truth(one, "answer", "accuracy is scored by"))
        words = [word for kind in kinds_of(one.kind) for word in self.words.get(kind, ())]
        return text != "" and (text == true or any(word in text and word in true for word in words))


@dataclass(frozen=True)
class UnionF1:
    """F1 and IoU of what boxes cover together, over all questions, and by type."""

    not_computed: Mapping[str, str] = field(default_factory=dict)
    "What the project reports and is not computed here, with the reason."
    tasks: tuple[str, ...] = ("grounding",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out, drawn = Scores(missing=dict(self.not_computed)), sum(one.mask is not None for one in predictions)
        found = {one.key: _covered(one, reading) for one in predictions}
        kinds: dict[str, list[str]] = {}
        for one in predictions:
            for kind in kinds_of(one.kind):
                kinds.setdefault(kind, []).append(one.key)
        by = (
            "the polygons"
            if drawn == len(found)
            else "the true boxes"
            if not drawn
            else f"{drawn} polygons, else boxes"
        )
        behind = (
            f"of the pixels that any box covers, all questions together, {FRAME}; true are {by}; an answer that cannot "
            f"be read covers nothing; questions whose truth has no box are not among them; {reading.convention}"
        )
        parts = {"": list(found)} | {f"[{kind}]": keys for kind, keys in sorted(kinds.items())}
        for name, said, pick in (
            ("f1", "F1", lambda both, true, said: (2 * both, true + said)),
            ("iou", "IoU", lambda both, true, said: (both, true + said - both)),
        ):
            for part, keys in parts.items():
                out.add(f"grounding/union_{name}{part}", ratio({k: pick(*found[k]) for k in keys}), f"{said} {behind}")
        return out


def _covered(one: Prediction, reading: Reading) -> tuple[int, int, int]:
    """Pixels of both masks, of the true one, and of what is said, on 256 x 256."""
    width, height = truth(one, "size", "boxes are drawn by")
    if one.mask is not None:
        true = framed(masks.pixels_of(one.mask))
    else:
        true = footprints.drawn(footprints.corners(box, width, height) for box in truth(one, "boxes", "are drawn"))
    said = reading.said(one)
    shapes = [] if said is None else [footprints.corners(box, width, height) for box in said.boxes]
    stated = footprints.drawn(shapes)
    return int((true & stated).sum()), int(true.sum()), int(stated.sum())


def framed(pixels: np.ndarray) -> np.ndarray:
    """A mask at 256 x 256: each pixel is that of the original in which its centre lies."""
    rows, columns = (((np.arange(footprints.SIDE) + 0.5) * side / footprints.SIDE).astype(int) for side in pixels.shape)
    return np.asarray(pixels[np.ix_(rows, columns)])


@dataclass(frozen=True)
class AreaF1:
    """F1 of classes by the pixels of each question's region, for question types whose classes are stated."""

    classes: Mapping[str, tuple[str, ...]]
    "Question type → its classes."
    inverse: bool = False
    "Rare classes weigh more: the mean is weighted by the inverse of a class's share of true pixels."
    left_out: tuple[str, ...] = ()
    "True classes that do not count."
    tasks: tuple[str, ...] = ("classification",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores()
        skipped = {class_key(name) for name in self.left_out}
        for kind, names in self.classes.items():
            chosen = [one for one in predictions if kind in kinds_of(one.kind)]
            chosen = [one for one in chosen if class_key(truth(one, "answer", "classes are scored by")) not in skipped]
            if not chosen:
                continue
            name = f"classification/weighted_f1[{kind}]"
            if bare := [one.id for one in chosen if one.mask is None]:
                why = (
                    f"{len(bare)} of {len(chosen)} questions, such as {bare[0]!r}, have no polygon, by which they weigh"
                )
                out.missing |= dict.fromkeys((name, f"{name}:teochat"), why)
                continue
            self._add(out, name, chosen, names, reading)
        return out

    def _add(
        self, out: Scores, name: str, chosen: Sequence[Prediction], names: Sequence[str], reading: Reading
    ) -> None:
        keys = {class_key(one): number for number, one in enumerate(names)}
        areas = np.array([framed(masks.pixels_of(one.mask or {})).sum() for one in chosen], dtype=float)  # (N,)
        true = np.array([keys.get(class_key(one.answer or ""), -1) for one in chosen])
        said = np.array([keys.get(class_key(reading.text(one)), -1) for one in chosen])
        if (true < 0).any():
            odd = next(one.answer for one, number in zip(chosen, true, strict=True) if number < 0)
            out.missing[name] = f"the true class {odd!r} is none of {', '.join(names)}"
            return
        one_hot = np.eye(len(names) + 1)  # the last column: no class
        truly, stated = areas[:, None] * one_hot[true][:, :-1], areas[:, None] * one_hot[said][:, :-1]  # (N, C)
        right = truly * (true == said)[:, None]
        weight = "inverse of its share" if self.inverse else "share"
        for how, missable in (("", np.ones(len(chosen))), (":teochat", (said >= 0).astype(float))):
            no_class = "misses nothing (TEOChat)" if how else "is missed"
            convention = (
                f"F1 of {', '.join(names)} by pixels of each question's polygon at 256 x 256, mean weighted by the "
                f"{weight} of true pixels; an answer that is no class {no_class}; names without case, blanks and "
                f"hyphens; {reading.convention}"
            )
            counted = truly * missable[:, None]
            statistic = Statistic([one.key for one in chosen], self._of(right, stated, counted, truly))
            out.add(f"{name}{how}", statistic, convention)

    def _of(
        self, right: np.ndarray, stated: np.ndarray, counted: np.ndarray, truly: np.ndarray
    ) -> Callable[[np.ndarray], np.ndarray]:
        """right, stated, counted (that can be missed), truly: pixels by question and class (N, C)."""

        def of(drawn: np.ndarray) -> np.ndarray:
            tp, wanted, there, share = (drawn @ part for part in (right, stated, counted, truly))  # (R, C)
            f1 = np.where(wanted + there > 0, 2 * tp / np.maximum(wanted + there, 1e-12), 0.0)
            weights = share / np.maximum(share.sum(1, keepdims=True), 1e-12)
            if self.inverse:
                weights = np.where(weights > 0, 1 / np.maximum(weights, 1e-12), 0.0)
            total = weights.sum(1)
            return np.where(total > 0, (f1 * weights).sum(1) / np.maximum(total, 1e-12), np.nan)

        return of


@dataclass(frozen=True)
class Paraphrases:
    """Multiple choice asked in several words: items, not questions, count alike. An id is ITEM/NUMBER."""

    tasks: tuple[str, ...] = ("choice",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores()
        items: dict[str, list[Prediction]] = {}
        for one in predictions:
            items.setdefault(f"{one.source}/{one.id.rpartition('/')[0]}", []).append(one)
        for how, right, said in (
            ("paraphrases", _chosen, "the answer names exactly the right option, by letter or text"),
            ("geobench_vlm", _led, "the answer begins with the right letter, as its script for Temporal reads them"),
        ):
            values = {one.key: float(right(one, reading)) for one in predictions}
            shares = {
                one.key: (values[one.key] / len(asked), 1 / len(asked)) for asked in items.values() for one in asked
            }
            convention = (
                f"{said}; mean over {len(items)} items of each one's share of paraphrases; {reading.convention}"
            )
            out.add(f"choice/accuracy:{how}", ratio(shares), convention)
            kinds: dict[str, dict[str, tuple[float, float]]] = {}
            for one in predictions:
                for kind in kinds_of(one.kind):
                    kinds.setdefault(kind, {})[one.key] = shares[one.key]
            for kind, group in sorted(kinds.items()):
                out.add(f"choice/accuracy:{how}[{kind}]", ratio(group), convention)
            if kinds:
                over = mean_of([ratio(group) for group in kinds.values()])
                out.add(f"choice/mean_of_kinds:{how}", over, f"mean over {len(kinds)} tasks; {convention}")
        return out


def _chosen(one: Prediction, reading: Reading) -> bool:
    options = truth(one, "choices", "choice is scored by")
    right = answers.option(truth(one, "answer", "choice is scored by"), options)
    return right is not None and answers.option(reading.text(one), options) == right


def _led(one: Prediction, reading: Reading) -> bool:
    options = truth(one, "choices", "choice is scored by")
    right = answers.option(truth(one, "answer", "choice is scored by"), options)
    first = re.match(r"[A-E]", reading.text(one))
    return right is not None and first is not None and first[0] == string.ascii_uppercase[right]


@dataclass(frozen=True)
class Changed:
    """Captions of change: overall, of pairs that changed, and of pairs that did not (`kind`)."""

    tasks: tuple[str, ...] = ("caption",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Captions()(predictions, reading)
        for kind, right in (("change", False), ("no change", True)):
            chosen = [one for one in predictions if kind in kinds_of(one.kind)]
            if not chosen:
                continue
            part = Captions()(chosen, reading)
            for name in part.order:
                if name in part.bare:
                    metric = part.bare[name]
                    out.alone(f"{name}[{kind}]", metric.value, metric.n, metric.convention)
                else:
                    out.add(f"{name}[{kind}]", *part.found[name])
            out.missing |= {f"{name}[{kind}]": why for name, why in part.missing.items()}
            texts = {one.key: clean(reading.text(one)) for one in chosen}
            told = {key: float(text != "" and (text in UNCHANGED) == right) for key, text in texts.items()}
            said = "one" if right else "some text, but none"
            convention = f"the caption is {said} of: {', '.join(UNCHANGED)} (Change-Agent); {reading.convention}"
            out.add(f"caption/told[{kind}]", means([told]), convention)
        return out
