"""Where the evaluations of a study lie: label → seed → folder.

STUDY/<label>/seed-0/eval/predictions.jsonl           launch/ablate.py's layout; any-seed: of a run without one
STUDY/<label>/seed-0/eval/vg-dior/predictions.jsonl   an evaluation on benchmarks
runs/eval/r1/predictions.jsonl                        one evaluation by itself, labelled r1
r1=runs/a/eval,runs/b/eval                            label and seeds given, the seeds called 0, 1, …
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from studies import study
from vlm.common.errors import UserError

logger = logging.getLogger(__name__)

FILE = "predictions.jsonl"
ANY = "any-seed"
"""What a run is called that has no seed, or does not say which."""
Folders = dict[str, dict[str, Path]]
"""Label → seed → the folder of its evaluation."""


def find(given: Sequence[str], stage: str = "eval") -> Folders:
    """The evaluations of all that was named, in order. stage: what the folder of an evaluation is called in a study.

    Raises: UserError for a folder that holds none, or a label that comes twice.
    """
    found: Folders = {}
    for spec in given:
        for label, seeds in _of(spec, stage).items():
            if label in found:
                raise UserError(f"two runs are called {label!r}; write NAME={spec} to give one of them another name")
            found[label] = seeds
    return found


def _of(spec: str, stage: str) -> Folders:
    label, equals, folders = spec.partition("=")
    if equals and not Path(spec).exists():  # a study's folder may be called beta=0.1
        if not label or not folders:
            raise UserError(f"{spec!r} cannot be read; expected a folder, or label=folder,folder for several seeds")
        places = [_evaluated(Path(one)) for one in folders.split(",")]
        return {label: {ANY: places[0]} if len(places) == 1 else {str(n): place for n, place in enumerate(places)}}
    folder = Path(spec)
    if labels := labelled(folder, stage):
        return labels
    if seeds := _seeds(folder, stage):
        return {folder.resolve().name: seeds}
    place = _evaluated(folder)
    return {(place.resolve().parent if place.name == stage else place.resolve()).name: {ANY: place}}


def labelled(folder: Path, stage: str = "eval") -> Folders:
    """The labels of a study's folder with the seeds that are evaluated; of the others the log tells."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; expected a study, or label=folder,folder")
    if (folder / study.FILE).exists():
        found = _listed(folder, stage)
    else:
        found = {inner.name: _seeds(inner, stage) for inner in sorted(folder.iterdir()) if inner.is_dir()}
    return {label: seeds for label, seeds in found.items() if seeds}


def _listed(folder: Path, stage: str) -> Folders:
    """As study.json has it; a folder may stand for several labels there."""
    runs = study.read(folder).runs
    found: Folders = {run.label: {} for run in runs}
    for run in runs:
        place = run.stages.get(stage)
        if place is not None and _holds(place):
            found[run.label][ANY if run.seed is None else str(run.seed)] = place
        else:
            logger.warning("%s, seed %s is left out: its stage %s has no %s yet", run.label, run.seed, stage, FILE)
    return found


def _seeds(folder: Path, stage: str) -> dict[str, Path]:
    inside = [inner for inner in folder.iterdir() if inner.is_dir()]
    runs = [run for run in inside if run.name == ANY or _number(run) is not None]
    found = {}
    for run in sorted(runs, key=lambda run: _number(run) or 0):
        if _holds(run / stage):
            found[run.name.removeprefix("seed-")] = run / stage
        else:
            logger.warning("%s is left out: it has no %s with %s", run, stage, FILE)
    return found


def _number(folder: Path) -> int | None:
    head, _, number = folder.name.partition("-")
    return int(number) if head == "seed" and number.isdecimal() else None


def _holds(folder: Path) -> bool:
    return (folder / FILE).exists() or any(folder.glob(f"*/{FILE}"))


def _evaluated(folder: Path) -> Path:
    if not _holds(folder):
        raise UserError(
            f"{folder} holds no {FILE}, nor do its folders; expected the output folder of launch/eval.py, or of a study"
        )
    return folder
