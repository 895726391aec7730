"""An evaluation's folder of answers about tiles → a submission of whole scenes, and what became of the answers.

SUBMISSION/Task1/Task1_<class>.txt, Task1.zip    (or Task2)
SUBMISSION/merge.json                            counts
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from evals import predictions, ranks, stage
from evals.merging import submission
from evals.merging.shifting import Placed, Shifted, shift
from evals.merging.suppression import THRESHOLD, suppressed
from evals.recipe import EvalRecipe
from evals.scoring.reading import Reading
from samples.tiles import manifest
from samples.tiles.manifest import Manifest
from stage.recipe import config
from stage.runs import RECIPE
from vlm.boxes import NOTATIONS, hull
from vlm.common.errors import UserError
from vlm.common.files import replace

logger = logging.getLogger(__name__)
FILE = "merge.json"


@dataclass
class Merged:
    """What became of the answers."""

    task: int
    iou: float
    scenes: int
    tiles: int
    said: int
    "Objects in all tiles, of classes that were asked for."
    objects: int
    "Of these, the ones that stay."
    missed: int
    unreadable: int
    refused: int
    unnamed: dict[str, int]
    repairs: dict[str, int]
    by_class: dict[str, int]
    missing: list[str] = field(default_factory=list)
    "Tiles without an answer."

    def __str__(self) -> str:
        lines = [
            f"{self.tiles} tiles of {self.scenes} scenes: {self.said} objects, {self.objects} after suppression at IoU "
            f"{self.iou:g}"
        ]
        for count, what in (
            (len(self.missing), f"tiles without an answer, such as {(self.missing or [''])[0]}"),
            (self.unreadable, "answers that cannot be read count as none"),
            (self.refused, "tiles that the server refused to answer about"),
            (self.missed, "objects that are no proper shape are left out"),
        ):
            if count:
                lines.append(f"{count} {what}")
        if self.unnamed:
            names = ", ".join(f"{name!r} {count}" for name, count in Counter(self.unnamed).most_common(5))
            lines.append(f"{sum(self.unnamed.values())} objects of no class that was asked for are left out: {names}")
        if mended := self.repairs:
            lines.append("mended: " + ", ".join(f"{name} {count}" for name, count in mended.items()))
        return "\n".join(lines)


def merge(
    folder: Path,
    out: Path,
    tiles: Path | None = None,
    task: int | None = None,
    iou: float = THRESHOLD,
    partial: bool = False,
) -> Merged:
    """Merge the answers of an evaluation's folder into a submission in `out`.

    tiles: the folder of tiles; None: those of the evaluation's recipe. task: of `submission.TASKS`; None: by how the
    model writes objects. iou: above which one of two objects of a class goes. partial: also where tiles have no answer.
    Raises: UserError where some have none, or the folder holds no evaluation of tiles.
    """
    recipe = recipe_of(folder)
    rows = predictions.read(folder / ranks.FILE)
    cuts = manifests(recipe, tiles)
    sizes = {name: (one.size[0], one.size[1]) for cut in cuts for name, one in cut.done.items()}
    found = shift(rows, Reading.of(recipe), folder / ranks.FILE, sizes)
    missing = unanswered(folder, rows, cuts, partial)
    chosen = task or task_of(folder, rows, recipe.prompt.notation)
    kept = suppress(found.objects, chosen, iou)
    classes = sorted(found.classes)
    submission.write(out, chosen, kept, classes)
    merged = _counted(found, kept, classes, chosen, iou, missing)
    replace(out / FILE, json.dumps({"answers": str(folder), **asdict(merged)}, indent=2, ensure_ascii=False) + "\n")
    return merged


def recipe_of(folder: Path) -> EvalRecipe:
    """Of an evaluation. Raises: UserError for another folder."""
    if not (folder / ranks.FILE).exists() or not (folder / RECIPE).exists():
        raise UserError(f"{folder} holds no {ranks.FILE} and {RECIPE}; name the output folder of launch/eval.py")
    return config.load(folder / RECIPE, EvalRecipe)


def manifests(recipe: EvalRecipe, tiles: Path | None = None) -> list[Manifest]:
    """How the tiles of an evaluation were cut; none of tiles that another program cut. Raises: UserError."""
    if tiles is not None:
        found = manifest.read(tiles)
        if found is None:
            raise UserError(f"{tiles} holds no {manifest.FILE}; expected a folder that launch/detect.py cut wrote")
        return [found]
    places = [Path(source.path) for source in recipe.data.eval]
    read = [manifest.read(folder) for place in places for folder in (place, place.parent)]
    cuts = [one for one in read if one is not None]
    if not cuts:
        logger.warning(
            "the tiles have no %s: they are placed by their names alone, and scenes end where their last tiles do",
            manifest.FILE,
        )
    return cuts


def task_of(folder: Path, rows: Sequence[predictions.Prediction], notation: str) -> int:
    """2 where the model writes boxes, else 1. Raises: UserError where it writes both."""
    upright = {NOTATIONS[row.written or notation].shape == "box" for row in rows}
    if len(upright) > 1:
        raise UserError(f"{folder}: some answers are boxes, others not; say which submission is wanted, --task 1 or 2")
    return 2 if True in upright else 1


def unanswered(
    folder: Path, rows: Sequence[predictions.Prediction], cuts: Sequence[Manifest], partial: bool
) -> list[str]:
    """Names of tiles without an answer. Raises: UserError where there are such, but for `partial`."""
    there = {row.id for row in rows} | {Path(row.image).stem for row in rows if row.image is not None}
    missing = [name for cut in cuts for name, _ in cut.tiles() if name not in there]
    covered = stage.coverage(folder, len(rows))
    lacking = sum(covered.left_out.values()) if covered is not None else 0
    if (missing or lacking) and not partial:
        named = f"{len(missing)} tiles have no answer, such as {missing[0]}" if missing else ""
        noted = "" if covered is None or not lacking else str(covered)
        raise UserError(
            f"{folder}: {' and '.join(filter(None, (named, noted)))}; a submission would lack their objects. Finish "
            "the evaluation by the same command, or write --partial to merge what is there"
        )
    return missing


def suppress(objects: Iterable[Placed], task: int, iou: float) -> list[Placed]:
    """Those that stay, scene by scene and class by class, in the order of their ranks."""
    groups: dict[tuple[str, str], list[Placed]] = defaultdict(list)
    for one in objects:
        groups[one.scene, one.label].append(one)
    shape: Callable[[Sequence[float]], Sequence[float]] = hull if task == 2 else lambda quad: quad
    kept = []
    for _, group in sorted(groups.items()):
        group.sort(key=lambda one: one.rank)
        kept += [group[number] for number in suppressed([shape(one.quad) for one in group], iou)]
    return kept


def _counted(
    found: Shifted, kept: Sequence[Placed], classes: Sequence[str], task: int, iou: float, missing: list[str]
) -> Merged:
    counts = Counter(one.label for one in kept)
    return Merged(
        task, iou, found.scenes, found.tiles, len(found.objects), len(kept), found.missed, found.unreadable,
        found.refused, dict(found.unnamed), dict(found.repairs), {name: counts[name] for name in classes}, missing,
    )  # fmt: skip
