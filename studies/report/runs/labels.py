"""Which runs are one curve: those of one label.

Given on the command line as `label=folder[,folder…]`; else by the matrix that they are of (`studies.study`); else, with
`--compare`, runs whose recipes are equal but for the seed and what follows from it (names and folders, numbers behind
the word "seed" in paths).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies import study
from studies.report.runs import folders
from studies.report.runs.folders import Folder, Series
from vlm.common.errors import DataError

OWN = ("output", "seed", "overwrite", "resume", "tracking", "pictures")
"""Keys of a recipe that say which run it is rather than what it does."""
TRAINERS = ("sft", "grpo", "score")
"""Launchers that train."""
SEED = re.compile(r"[-_.]?seed[-_.=]?\d+|[-_.]s\d+$", re.IGNORECASE)


@dataclass
class Curve:
    """A label and its runs, at least one; evaluations of their models are among them."""

    label: str
    runs: list[Folder]

    @property
    def trained(self) -> list[Folder]:
        """Those that have curves."""
        return [run for run in self.runs if run.series]

    @property
    def keys(self) -> list[str]:
        """Metrics that were logged, in the order of the logs."""
        return list(dict.fromkeys(key for run in self.runs for key in run.series))

    def measured(self, key: str) -> list[Series]:
        """A metric of each run that logged it."""
        return [run.series[key] for run in self.runs if key in run.series]

    @property
    def stage(self) -> str:
        return next((run.stage for run in self.trained), self.runs[0].stage)


def curves(asked: Sequence[str], compare: bool) -> list[Curve]:
    """From the command line's words: labels that are given, then the others, in their order.

    Raises: DataError for a folder that is no run, a label without folders, and a label that is given twice.
    """
    named: list[Curve] = []
    loose: list[Folder] = []
    for word in asked:
        label, equals, paths = word.partition("=")
        if equals and not Path(word).exists():
            named.append(Curve(label, [folders.read(path) for path in _listed(word, paths)]))
            if not label or label in [curve.label for curve in named[:-1]]:
                raise DataError(f"found {word!r}, expected a label of its own; write label=folder,folder")
        elif (Path(word) / study.FILE).is_file():
            named += [Curve(name, runs) for name, runs in of_matrix(Path(word)).items()]
        else:
            found = folders.find(Path(word))
            names = _names([path.resolve() for path in found], Path(word).resolve())
            loose += [folders.read(path, name) for path, name in zip(found, names, strict=True)]
    others = grouped(loose) if compare else [Curve(run.name, [run]) for run in loose]
    return _distinct(_with_evaluations(named + others))


def title(asked: Sequence[str]) -> str:
    """The name of the one folder of runs that was asked for; "" where it is a run itself, or not the only one."""
    folder = Path(asked[0])
    return folder.resolve().name if len(asked) == 1 and folder.is_dir() and not folders.is_run(folder) else ""


def of_matrix(folder: Path) -> dict[str, list[Folder]]:
    """Label → its runs, with the matrix's seeds; stages that have not begun are left out.

    A label's curves are those of the last stage that trains; an earlier one is a curve of its own under the stage's
    name, unless it is another label's last; evaluations go to the label. What several labels share is there once.
    Raises: DataError where none has begun, or study.json is not as described.
    """
    matrix = study.read(folder)
    mains: dict[Path, tuple[str, int | None]] = {}
    others: dict[Path, tuple[str, int | None]] = {}
    for one in matrix.runs:
        trained = [name for name in one.stages if matrix.launchers.get(name) in TRAINERS]
        for name, place in one.stages.items():
            if trained and name == trained[-1]:
                mains.setdefault(place, (one.label, one.seed))
            else:
                others.setdefault(place, (name if name in trained else one.label, one.seed))
    found: dict[str, list[Folder]] = {}
    for place, (name, seed) in (mains | {place: of for place, of in others.items() if place not in mains}).items():
        if folders.is_run(place):
            run = folders.read(place, str(place.relative_to(folder)))
            run.seed = run.seed if seed is None else str(seed)
            found.setdefault(name, []).append(run)
    if not found:
        raise DataError(f"{folder}: none of the runs of {study.FILE} has begun; start them with launch/ablate.py")
    return found


def _listed(word: str, paths: str) -> list[Path]:
    found = [path for part in paths.split(",") if part for path in folders.find(Path(part))]
    if not found:
        raise DataError(f"found {word!r}, expected label=folder[,folder…]")
    return found


def _names(paths: Sequence[Path], root: Path) -> list[str]:
    """Names relative to the folder that was asked for; the last part alone where that tells them apart."""
    short = [path.name for path in paths]
    if len(set(short)) == len(short):
        return short
    return [str(path.relative_to(root)) if path != root else path.name for path in paths]


def grouped(runs: Iterable[Folder]) -> list[Curve]:
    """Runs that differ by seed alone, together."""
    found: dict[str, Curve] = {}
    for run in runs:
        key = json.dumps(seedless(run.recipe), sort_keys=True) if run.recipe else str(run.path)
        found.setdefault(key, Curve("", [])).runs.append(run)
    for curve in found.values():
        curve.label = shared([run.name for run in curve.runs])
    return list(found.values())


def _with_evaluations(found: list[Curve]) -> list[Curve]:
    """An evaluation goes to the label whose run made the model that it asked."""
    places = {run.path.resolve(): curve for curve in found for run in curve.trained}
    kept = []
    for curve in found:
        stay: list[Folder] = []
        for run in curve.runs:
            model = Path(str((run.recipe.get("model") or {}).get("path", ""))).resolve()
            made = next((places[above] for above in (model, *model.parents) if above in places), curve)
            (stay if run.series or run.stage in TRAINERS or made is curve else made.runs).append(run)
        curve.runs = stay
        kept += [curve] if stay else []
    return kept


def seedless(recipe: dict[str, Any]) -> Any:
    """What a recipe does, whatever its seed."""
    return _without_numbers({key: value for key, value in recipe.items() if key not in OWN})


def _without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_numbers(inner) for inner in value]
    if isinstance(value, str) and os.sep in value:
        return re.sub(r"(seed[-_.=]?)\d+", r"\1*", value, flags=re.IGNORECASE)
    return value


def shared(names: Sequence[str]) -> str:
    """What runs are called together: `score-seed0`, `score-seed1` → `score`; one alone keeps its name."""
    if len(names) == 1:
        return names[0]
    bare = {SEED.sub("", name) for name in names}
    if len(bare) == 1 and (name := bare.pop()):
        return name
    prefix = os.path.commonprefix(list(names)).rstrip("-_./= ")
    return prefix if len(prefix) > 2 else f"{names[0]} and {len(names) - 1} more"


def _distinct(found: list[Curve]) -> list[Curve]:
    """No label twice: a later one gets a number."""
    seen: dict[str, int] = {}
    for curve in found:
        seen[curve.label] = seen.get(curve.label, 0) + 1
        if seen[curve.label] > 1:
            curve.label += f" ({seen[curve.label]})"
    return found
