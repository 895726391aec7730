"""The numbers of the task `segmentation`: IoU of the mask that an answer states and the true one, as projects count it.

    segmentation/giou              mean over questions of each one's IoU; both masks empty = 1, one of them empty = 0
    segmentation/giou:geo_r1       the same; both empty = 0
    segmentation/giou:form         what the true mask has when it is written in the recipe's form and read again: a
                                   perfect answer in that form has no more, unless another mask of its grid fits better
    segmentation/ciou              sum of the intersections / sum of the unions
    segmentation/acc@0.5, @0.7     IoU >= t, of questions whose true mask holds something
    segmentation/n_acc             of questions whose true mask is empty those of which just that is said
    segmentation/unreadable        answers that state no mask in the recipe's form
    segmentation/repaired, [how]   answers that were mended to be read, and by which mending (`vlm.masks`)
    …[ship], …[S]                  by question type, and by the true mask's area in pixels (S <= 32², M <= 96², L)

All pixels of the original image count; one belongs to the cell of an answer's grid that its centre lies in. An answer
that cannot be read counts as an empty mask with IoU 0, also where nothing is there: else what says nothing would be
right wherever there is nothing. gRES and LISA have no such answers.

Read in: henghuiding/ReLA, gres_model/evaluation/refer_evaluation.py at a389648 (gIoU: both empty = 1; the union of a
question without a target counts in cIoU where something is said of it; Pr@t with >=, of questions with a target; its
N_acc divides by one more than there are, ours does not), dvlab-research/LISA, train_ds.py at 2261509 (a union of 0
adds 1 to gIoU), Geo-R1/geo-r1, run_scripts/test_gres_eval.py at 2301bbf (a union of 0 is an IoU of 0; an answer that
cannot be read has the true mask as its union).

Masks of what changed between two pictures are counted by pixels of all pairs together (`ChangeMasks`), as LEVIR-CD's
results are: change/f1, iou, precision and recall of the class "changed", and miou, the mean of its IoU and that of the
class "unchanged" (wgcban/ChangeFormer, misc/metric_tool.py at c04a351: one confusion matrix over the whole set; its
tiny terms against a division by 0 are left out).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from evals.predictions import Prediction
from evals.scoring.overlap import SIZES
from evals.scoring.reading import Reading, truth
from evals.scoring.report import Scores
from samples import kinds_of
from vlm import masks
from vlm.common.bootstrap import mean_of, means, ratio
from vlm.common.errors import DataError

THRESHOLDS = (0.5, 0.7)
_PIXELS = "IoU in pixels of the original image, a pixel belongs to the cell that its centre lies in"
_UNREAD = "an unreadable answer is an empty mask with IoU 0, also where nothing is there"


@dataclass(frozen=True, slots=True)
class Overlap:
    """One answer against its truth, in pixels of the original image."""

    inner: int
    "Of the intersection."
    outer: int
    "Of the union."
    true: int
    "Of the true mask."
    whole: int
    "Of the image."
    readable: bool = True
    repairs: Mapping[str, int] = field(default_factory=dict)
    "How the answer was mended → how often."

    @property
    def said(self) -> int:
        """Pixels of the mask that is said."""
        return self.outer + self.inner - self.true

    @property
    def iou(self) -> float:
        """Both empty: 1 (gRES, LISA), but for an answer that cannot be read."""
        return self.inner / self.outer if self.outer else float(self.readable)


def judged(prediction: Prediction, reading: Reading) -> Overlap:
    """One answer against its truth. Raises: DataError where there is no true mask, or it is of another size."""
    mask, said = true_mask(prediction), reading.mask(prediction)
    inner, outer = said.overlap(mask)
    height, width = mask["size"]
    repairs = said.repairs if said.readable else {}  # what was tried on an answer that cannot be read mended nothing
    return Overlap(inner, outer, masks.area(mask), height * width, said.readable, repairs)


def true_mask(prediction: Prediction) -> masks.Runs:
    """Its run lengths. Raises: DataError where there are none, or they are of another size than the image."""
    mask: masks.Runs = truth(prediction, "mask", "segmentation is scored by")
    size = truth(prediction, "size", "masks are compared in")
    if tuple(mask["size"]) != (size[1], size[0]):
        height, width = mask["size"]
        raise DataError(
            f"question {prediction.key!r}, field 'mask': found a mask of {width} x {height} pixels, expected that of "
            f"its image, {size[0]} x {size[1]}"
        )
    return mask


@dataclass(frozen=True)
class Masks:
    """gIoU by both conventions, cIoU, accuracy at IoU thresholds, empty truths, and how answers were read."""

    thresholds: tuple[float, ...] = THRESHOLDS
    sizes: bool = True
    "Also by the true mask's area: S, M, L."
    kinds: bool = True
    "Also by question type."
    not_computed: Mapping[str, str] = field(default_factory=dict)
    "What projects report and is not computed here, with the reason."
    tasks: tuple[str, ...] = ("segmentation",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores(missing=dict(self.not_computed))
        found = {prediction.key: judged(prediction, reading) for prediction in predictions}
        behind = f"{_UNREAD}; {_behind(predictions, reading)}"
        parts = {"": list(found)} | {f"[{part}]": keys for part, keys in self._parts(predictions, found).items()}
        self._ious(out, found, parts, behind)
        self._form(out, predictions, reading)
        there = [key for key, one in found.items() if one.true]
        for threshold in self.thresholds if there else ():
            hits = {key: float(found[key].iou >= threshold) for key in there}
            said = f"IoU >= {threshold}, of questions whose true mask holds something; {_PIXELS}; {behind}"
            out.add(f"segmentation/acc@{threshold}", means([hits]), said)
        if empty := {key: float(one.readable and not one.said) for key, one in found.items() if not one.true}:
            said = "of questions whose true mask is empty those of which just that is said (gRES's N-acc)"
            out.add("segmentation/n_acc", means([empty]), f"{said}; {behind}")
        _read(out, "segmentation", found, behind)
        return out

    def _ious(self, out: Scores, found: Mapping[str, Overlap], parts: Mapping[str, list[str]], behind: str) -> None:
        empty = "both masks empty = {}, one of them empty = 0 ({})"
        published: tuple[tuple[str, str, Callable[[Overlap], float]], ...] = (
            ("", empty.format(1, "gRES, LISA"), lambda one: one.iou),
            (":geo_r1", empty.format(0, "Geo-R1"), lambda one: one.iou if one.outer else 0.0),
        )
        for how, convention, iou in published:
            for part, keys in parts.items() if not how else [("", parts[""])]:
                said = f"mean over questions of each one's {_PIXELS}; {convention}; {behind}"
                out.add(f"segmentation/giou{how}{part}", means([{key: iou(found[key]) for key in keys}]), said)
        for part, keys in parts.items():
            areas = {key: (found[key].inner, found[key].outer) for key in keys}
            said = f"sum of intersections / sum of unions in pixels, where both are empty nothing; {behind}"
            if any(outer for _, outer in areas.values()):
                out.add(f"segmentation/ciou{part}", ratio(areas), said)

    def _form(self, out: Scores, predictions: Sequence[Prediction], reading: Reading) -> None:
        """What the form itself loses."""
        name, values = "segmentation/giou:form", {}
        for one in predictions:
            mask, size, form = true_mask(one), truth(one, "size", "masks are compared in"), reading.form_of(one)
            try:
                inner, outer = masks.written_overlap(mask, form, size, one.resized, one.prompt)
            except DataError as error:
                out.missing[name] = f"question {one.key!r}: {error}"
                return
            values[one.key] = inner / outer if outer else 1.0
        said = (
            f"giou of the true masks, {_written(predictions, reading)} and read: what that leaves to a perfect answer"
        )
        out.add(name, means([values]), said)

    def _parts(self, predictions: Sequence[Prediction], found: Mapping[str, Overlap]) -> dict[str, list[str]]:
        """Names of parts of the questions → their keys; an empty true mask has no size."""
        sizes: dict[str, list[str]] = {name: [] for name in SIZES}
        kinds: dict[str, list[str]] = {}
        for one in predictions:
            if self.sizes and found[one.key].true:
                area = found[one.key].true
                sizes[next(name for name, (_, high) in SIZES.items() if area <= high)].append(one.key)
            for kind in kinds_of(one.kind) if self.kinds else ():
                kinds.setdefault(kind, []).append(one.key)
        return {name: keys for name, keys in (sizes | dict(sorted(kinds.items()))).items() if keys}


@dataclass(frozen=True)
class ChangeMasks:
    """F1, IoU, precision and recall of the pixels that changed, over all pairs together."""

    tasks: tuple[str, ...] = ("segmentation",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores()
        found = {prediction.key: judged(prediction, reading) for prediction in predictions}
        over = "of the changed pixels of all pairs together (LEVIR-CD)"
        behind = f"an unreadable answer says that nothing changed; {_behind(predictions, reading)}"

        def summed(parts: Callable[[Overlap], tuple[float, float]]) -> dict[str, tuple[float, float]]:
            return {key: parts(one) for key, one in found.items()}

        numbers = {
            "f1": ("F1", summed(lambda one: (2 * one.inner, one.said + one.true))),
            "iou": ("IoU", summed(lambda one: (one.inner, one.outer))),
            "precision": ("precision", summed(lambda one: (one.inner, one.said))),
            "recall": ("recall", summed(lambda one: (one.inner, one.true))),
        }
        for name, (said, parts) in numbers.items():
            if any(below for _, below in parts.values()):
                out.add(f"change/{name}", ratio(parts), f"{said} {over}; {behind}")
            else:
                out.missing[f"change/{name}"] = (
                    f"no pixel {'is said to have' if name == 'precision' else 'has'} changed"
                )
        if "change/iou" in out.found:
            still = summed(lambda one: (one.whole - one.outer, one.whole - one.inner))
            both = mean_of([ratio(numbers["iou"][1]), ratio(still)])
            said = "mean of change/iou and the IoU of the pixels that did not change"
            out.add("change/miou", both, f"{said}; {behind}")
        _read(out, "change", found, behind)
        return out


def _behind(predictions: Sequence[Prediction], reading: Reading) -> str:
    return f"{reading.convention}; masks {_written(predictions, reading)}"


def _written(predictions: Sequence[Prediction], reading: Reading) -> str:
    return "written as " + ", ".join(dict.fromkeys(reading.form_of(one) for one in predictions))


def _read(out: Scores, task: str, found: Mapping[str, Overlap], behind: str) -> None:
    """How answers were read."""
    for name, values, said in _readings(found):
        out.add(f"{task}/{name}", means([values]), f"{said}; {behind}")


def _readings(found: Mapping[str, Overlap]) -> Iterator[tuple[str, dict[str, float], str]]:
    unreadable = {key: float(not one.readable) for key, one in found.items()}
    yield "unreadable", unreadable, "answers that state no mask in the recipe's form"
    yield "repaired", {key: float(bool(one.repairs)) for key, one in found.items()}, "answers that were mended"
    for kind in sorted({kind for one in found.values() for kind in one.repairs}):
        times = sum(one.repairs.get(kind, 0) for one in found.values())
        needed = {key: float(kind in one.repairs) for key, one in found.items()}
        yield f"repaired[{kind}]", needed, f"answers that needed this, {times} times in all"
