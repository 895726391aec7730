"""From a folder of scenes to a submission, in one command:

    OUT/tiles/        the scenes, cut (`samples.tiles`)
    OUT/answers/      an evaluation of the task `detection`: recipe, predictions.jsonl, what it counts by tile
    OUT/submission/   the answers, merged (`evals.merging.merge`)
    OUT/score/        how good it is, where the scenes have annotations (`evals.merging.judging`)

Each step continues what is there, so the same command goes on after an interruption, and costs nothing once all is
done. Of scenes without annotation the truth of every tile is empty: what the evaluation counts means nothing there, and
the run says so.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from evals import stage
from evals.asking.answering import Answering
from evals.benchmarks.session import finished
from evals.merging import submission
from evals.merging.judging import FOLDER as SCORE
from evals.merging.judging import judge
from evals.merging.merge import Merged, merge
from evals.merging.suppression import THRESHOLD
from evals.recipe import EvalRecipe
from samples import Faults
from samples.tiles import manifest
from samples.tiles.cut import Counts, cut, planned
from samples.tiles.cutting import Cutting
from samples.tiles.scenes import OnFault, Scene, annotated, scenes
from stage.cli import check_machine
from stage.guards import lock
from stage.parallel.team import Team
from stage.recipe import config
from stage.recipe.sections import notation_of
from stage.recipe.together import check_engines
from vlm.boxes.detections import check_labels
from vlm.common.console import say
from vlm.common.errors import RecipeError, UserError
from vlm.loading import family_of
from vlm.pictures import images
from vlm.sections import AUTO, PictureSection
from vlm.shapes import family_here

logger = logging.getLogger(__name__)
TILES, ANSWERS, SUBMISSION = "tiles", "answers", "submission"
GUESSED = "the gap of RSCoVLM's 512 pixel tiles is not published: {} pixels are a guess (mmrotate's, halved)"


@dataclass
class Source:
    """Which scenes are cut, and how they are read."""

    path: Path
    cutting: Cutting
    format: str | None = None
    images: Path | None = None
    "Where pictures lie, if the format does not say."
    pixels: int = PictureSection().limit
    "Of the largest scene."
    workers: int = 1
    on_fault: OnFault = "error"
    "What becomes of a faulty row of the annotations."
    faults: Faults = field(default_factory=Faults)

    @property
    def annotated(self) -> bool:
        return annotated(self.path, self.format)

    def scenes(self) -> Iterator[Scene]:
        """The scenes, read anew."""
        images.use(PictureSection(limit=self.pixels))
        cutting = self.cutting
        more = (cutting.classes, cutting.raster, self.faults, self.on_fault)
        return scenes(self.path, self.format, self.images, *more)

    @property
    def name(self) -> str:
        return str(self.path.absolute())


@dataclass
class Asked:
    """Who is asked, and how."""

    model: str
    style: str = "direct"
    notation: str = AUTO
    backend: str = "hf"
    overrides: Sequence[str] = ()
    overwrite: bool = False
    "Ask again what was answered."


def cut_all(source: Source, folder: Path) -> Counts:
    """Cut the scenes into a folder. Raises: UserError as `samples.tiles.cut`."""
    from tqdm.auto import tqdm

    manifest.check(folder, source.cutting, source.name, source.annotated)
    lock.hold(folder)
    try:
        with tqdm(desc="cut", unit=" scenes", mininterval=2.0) as bar:

            def tell(counts: Counts) -> None:
                bar.set_postfix_str(f"{counts.tiles} tiles")
                bar.update()

            counts = cut(
                source.scenes(), folder, source.cutting, source.name, source.annotated, source.workers,
                tell,
            )  # fmt: skip
    finally:
        lock.release(folder)
    _tell(source, counts)
    return counts


def plan_cut(source: Source, folder: Path) -> Counts:
    """What cutting would do; writes nothing."""
    there, counts = manifest.check(folder, source.cutting, source.name, source.annotated), Counts()
    for scene in source.scenes():
        _, done = planned(scene, source.cutting)
        counts.earlier += there is not None and manifest.known(there, scene)
        counts.add(scene, done)
    _tell(source, counts)
    return counts


def _tell(source: Source, counts: Counts) -> None:
    faults = source.faults
    if faults.skipped or faults.left_out or faults.objects:
        say(str(faults))
    say(str(counts), sys.stdout)
    if not source.annotated:
        say(f"note: {source.path} has no annotations; its tiles' label files are empty")


def classes_of(source: Source, counts: Counts) -> list[str]:
    """What is asked for, in words. Raises: UserError where nobody has said it."""
    found = source.cutting.classes or sorted(counts.classes)
    if not found:
        raise UserError(
            f"{source.path}: found no annotation, so that no class is known to ask for; name them: --classes dota-1.0, "
            "or --classes plane,ship"
        )
    for name in found:  # before anything is asked
        submission.file_name(1, name)
    return found


def recipe(asked: Asked, out: Path, classes: Sequence[str], name: str) -> EvalRecipe:
    """The evaluation of the tiles in `out`. name: of the data. Raises: RecipeError."""
    family = None if asked.notation != AUTO else family_here((asked.model,), fetch=True)
    notation, doubts = notation_of(asked.notation, family, True, "--notation", (asked.model,))
    for doubt in doubts:
        say(f"note: {doubt}")
    tiles = {"path": str((out / TILES).absolute()), "format": "dota", "classes": list(classes), "name": name}
    values = {
        "model": {"path": asked.model},
        "output": str(out / ANSWERS),
        "data": {"eval": [tiles]},
        "prompt": {"style": asked.style, "notation": notation},
        "inside": "text" if asked.style == "direct" else "answer",
        "generation": {"backend": asked.backend},
        "controls": [],
        "overwrite": asked.overwrite,
    }
    found = config.build(values, EvalRecipe, asked.overrides, "launch/detect.py run")
    check_labels(found.prompt.notation)
    stage.check(found)
    check_engines(found)
    return found


def run(
    source: Source,
    asked: Asked,
    out: Path,
    task: int | None = None,
    iou: float = THRESHOLD,
    partial: bool = False,
    answering: Answering | None = None,
) -> Merged | None:
    """Cut, ask, merge, score; returns what came of it, in the main process.

    answering: who answers instead of the model. The other arguments: as `evals.merging.merge` takes them.
    """
    team = Team.join()
    if not source.annotated:
        classes_of(source, Counts())
    first = recipe(asked, out, source.cutting.classes or ["any"], source.path.name)  # what is wrong with it, at once
    check_machine(first)
    asked = replace(asked, notation=first.prompt.notation)
    if team.main:
        cut_all(source, out / TILES)
    team.wait()
    one = recipe(asked, out, _classes_there(source, out / TILES), source.path.name)
    images.use(one.images)
    if not source.annotated:
        logger.warning("without annotation the figures of the tiles mean nothing; the submission is what counts")
    if finished(one):
        say(f"answers: finished before, read from {one.output}")
    else:
        stage.run(one, asked=answering)
    if not team.main:
        return None
    merged = merge(out / ANSWERS, out / SUBMISSION, out / TILES, task, iou, partial)
    file = out / SUBMISSION / f"Task{merged.task}.zip"
    say(f"{merged}\n{file}", sys.stdout)
    if source.annotated:
        judge(file.with_suffix(""), merged.task, source.scenes(), out / SCORE)
    return merged


def plan(source: Source, asked: Asked, out: Path) -> None:
    """Print what would be done (`--dry-run`); writes nothing, loads no weights."""
    counts = plan_cut(source, out / TILES)
    one = recipe(asked, out, classes_of(source, counts), source.path.name)
    images.use(one.images)
    say(
        f"{counts.tiles} questions, for {', '.join(one.data.eval[0].classes or ())}, in {one.prompt.notation}",
        sys.stdout,
    )
    if counts.earlier == counts.scenes:
        finished(one)  # refuses another evaluation in its folder
        stage.plan(one)
    elif one.endpoint is None:
        try:
            family_of(one.model.path, one.model.revision)
        except RecipeError as error:
            say(f"note: {error}")
    say(f"then {out / SUBMISSION}", sys.stdout)


def _classes_there(source: Source, tiles: Path) -> list[str]:
    """The classes of tiles that are cut: every process reads them from the folder."""
    there = manifest.read(tiles)
    assert there is not None
    counts = Counts()
    for one in there.done.values():
        submission.check_name(one.scene)
        counts.classes.update(one.classes)
    return classes_of(source, counts)
