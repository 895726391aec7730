"""The recipe's section `data:`, which rows of which files are used, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import PrivateAttr

from samples import FORMATS, TASKS
from samples.readers.frames import SourceFrame
from samples.reading import fixed, stated, undetected, unthinned
from samples.shares import quotas
from vlm.boxes import check_notation
from vlm.common.errors import DataError, RecipeError
from vlm.common.section import LocatedPath, Section
from vlm.sections import PictureSection, RasterSection

Role = Literal["train", "eval"]


class FileSection(Section):
    """A file of rows, with what any stage that reads one asks for; `unit` is what messages call its rows."""

    unit: ClassVar[str] = "rows"
    expected: ClassVar[str] = "a data file"

    path: LocatedPath
    "The file with the rows."
    images: LocatedPath | None = None
    "Folder that the rows' image paths start from; without it, the file's own."
    outside: bool = False
    "Rows may name images outside that folder (absolute paths, `..`); our own JSONL may name absolute ones anyway."
    raster: RasterSection | Literal["plain"] | None = None
    "How its rasters are read; null takes the recipe's `images.raster`, `plain` reads pictures as without that."
    limit: int | None = None
    "Use only the first N rows."
    name: str | None = None
    "What messages and results call the data set: the `source` of all its rows. Without it, theirs or the file's name."
    columns: dict[str, str] = {}
    "Our name of a key ← the file's: `{question: problem}`. Keys that are no field of ours travel on to rewards."
    _inherited: RasterSection | None = PrivateAttr(None)

    @property
    def reading(self) -> RasterSection | None:
        """How the rasters of this source are read: its own way, or the recipe's."""
        if self.raster is None:
            return self._inherited
        return None if self.raster == "plain" else self.raster

    def inherit(self, images: PictureSection) -> None:
        """Learn the recipe's `images.raster`."""
        self._inherited = images.raster

    def check(self) -> None:
        if not self.path:
            raise RecipeError(f"path is empty; expected {self.expected}")
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"limit = {self.limit}; expected at least 1, or null for all {self.unit}")
        if self.name is not None and not self.name.strip():
            raise RecipeError("name is empty; expected what the data set is called, or null")
        if not all(self.columns) or not all(self.columns.values()):
            raise RecipeError(
                f"columns = {self.columns}; expected names, ours before the file's: {{question: problem}}"
            )
        twice = [name for name, count in Counter(self.columns.values()).items() if count > 1]
        if twice:
            raise RecipeError(f"columns: {twice[0]!r} of the file is given two names; keep one")


class SourceSection(FileSection):
    """One data file or folder, and which of its rows are used how often (`samples.mixture`)."""

    path: LocatedPath
    "A file, a published folder, or a dataset of the hub: hub:OWNER/NAME."
    split: str | None = None
    "Which part of a folder, of a hub dataset, or of a file of captions."
    images: LocatedPath | None = None
    "Folder that the rows' image paths start from; without it, what the file's format prescribes."
    format: str | None = None
    "Format of the file; without it, detected from its contents."
    task: str | None = None
    "Task of every row, whatever the rows say themselves."
    frame: SourceFrame | None = None
    "Frame of the rows' boxes, where their layout leaves it open (nadir, sharegpt, trl); without it, pixels."
    notation: str | None = None
    "How boxes of these rows are asked for and written, instead of `prompt.notation`: one model may know several."
    tools: bool = True
    "Whether these rows are told of the recipe's `tools`: in a mixture, some may be asked without."
    tasks: list[str] | None = None
    "Use only rows of these tasks."
    classes: list[str] | None = None
    "What rows of detection ask for (`[plane, ship]`), instead of all classes of their data."
    frames: int | None = None
    "Pictures of a series that a row shows at most: the first, the last, and evenly between; null shows all."
    limit: int | None = None
    "Use only the first N rows (of those tasks)."
    percent: float | None = None
    "Of these, use this percentage, drawn by the recipe's seed; a larger percentage keeps what a smaller one drew."
    repeat: int = 1
    "Use each of these rows this many times."
    ratio: float | None = None
    "Instead of percent and repeat: this source's part of `data.rows`, in proportion to the other sources' ratios."

    def check(self) -> None:
        super().check()
        if self.percent is not None and not 0 < self.percent <= 100:
            raise RecipeError(f"percent = {self.percent}; expected 0 < percent ≤ 100 (30 keeps 30 of 100 rows)")
        if self.repeat < 1:
            raise RecipeError(f"repeat = {self.repeat}; expected at least 1 (to use fewer rows: percent)")
        if self.ratio is not None:
            if not 0 < self.ratio < float("inf"):
                raise RecipeError(f"ratio = {self.ratio}; expected a positive number")
            if self.percent is not None or self.repeat != 1:
                raise RecipeError("ratio says how many rows are used, and so do percent and repeat; keep one of them")
        if self.format is not None and self.format not in FORMATS:
            raise RecipeError(f"format = {self.format!r}; known formats: {', '.join(FORMATS)}")
        if self.frame is not None and self.format is not None and not FORMATS[self.format].any_frame:
            raise RecipeError(f"frame = {self.frame!r}, {fixed(FORMATS[self.format])}")
        if self.notation is not None:
            check_notation(self.notation)
        if self.classes is not None:
            try:
                stated(self.classes, self.path)
            except DataError as error:
                raise RecipeError(str(error)) from error
            if self.format is not None and not FORMATS[self.format].detects:
                raise RecipeError(f"classes = {self.classes}, {undetected(FORMATS[self.format])}")
        if self.frames is not None:
            why = unthinned(FORMATS[self.format], self.frames) if self.format is not None else ""
            if why or self.frames < 2:
                raise RecipeError(f"frames = {self.frames}, {why or 'expected 2 at least: the first and the last'}")
        known_tasks("task", [] if self.task is None else [self.task])
        _some_tasks(self.tasks)


class DataSection(Section):
    train: list[SourceSection] = []
    "What is trained on, one after another before shuffling."
    eval: list[SourceSection] = []
    "Held-out data."
    on_fault: Literal["error", "skip"] = "error"
    "A faulty row (missing image, inverted box, …) ends the run, or is left out and counted."
    tasks: list[str] | None = None
    "Use only rows of these tasks."
    drop_blind: LocatedPath | None = None
    "Leave out training rows that this file marks as answered without their picture (`launch/data.py --blind MODEL`)."
    rows: int | None = None
    "Training rows in all, where the sources state `ratio`."
    shuffle: bool = True
    "Shuffle the training rows, by the recipe's seed."
    cache: LocatedPath | None = None
    "Folder in which checked rows are kept for later starts; null: NADIR_CACHE, else `~/.cache/nadir`."
    _prompt: str = PrivateAttr("")

    @property
    def prompt(self) -> str:
        """How the recipe asks (`samples.mixture.marks.prompt_key`); empty where nobody has said it."""
        return self._prompt

    def asked_by(self, prompt: str) -> None:
        self._prompt = prompt

    def sources(self, role: Role) -> list[SourceSection]:
        return self.train if role == "train" else self.eval

    def quotas(self, role: Role) -> list[int | None]:
        """Rows of each source where ratios say so, else None of each."""
        if role == "train" and self.rows is not None:
            return list(quotas([source.ratio or 0.0 for source in self.train], self.rows))
        return [None] * len(self.sources(role))

    def wanted_tasks(self, source: SourceSection) -> set[str] | None:
        """Tasks that both the source and `data.tasks` let through; None for all."""
        given = [set(tasks) for tasks in (source.tasks, self.tasks) if tasks is not None]
        return set.intersection(*given) if given else None

    def check(self) -> None:
        _some_tasks(self.tasks)
        if self.drop_blind is not None and not self.train:
            raise RecipeError(
                f"drop_blind = {self.drop_blind}: it leaves rows of train out, and train is empty; leave it out "
                "(held-out rows are looked at by `controls: [blind]` of an evaluation)"
            )
        for role in ("train", "eval"):
            for number, source in enumerate(self.sources(role)):
                wanted = self.wanted_tasks(source)
                if wanted is not None and not wanted:
                    raise RecipeError(
                        f"{role}.{number}: its tasks {source.tasks} and tasks {self.tasks} of all sources have none in "
                        "common, so no row could pass"
                    )
        for number, source in enumerate(self.eval):
            for name, plain in (("repeat", 1), ("ratio", None)):
                if getattr(source, name) != plain:
                    raise RecipeError(
                        f"eval.{number}: {name} = {getattr(source, name)}, but a held-out question counts once; "
                        "leave it out (percent and limit may stay)"
                    )
        self._check_ratios()

    def _check_ratios(self) -> None:
        given = [source.ratio is not None for source in self.train]
        if self.rows is None:
            if any(given):
                raise RecipeError(
                    f"train.{given.index(True)}: ratio is a part of a total, which is missing; add rows (say 8000) "
                    "to data"
                )
            return
        if self.rows < 1:
            raise RecipeError(f"rows = {self.rows}; expected at least 1, or null")
        if not given or not all(given):
            where = f"train.{given.index(False)} has no ratio" if given else "train is empty"
            found = f"rows = {self.rows} is divided by ratio, but {where}"
            raise RecipeError(f"{found}; give every source one, or drop rows")
        counts = self.quotas("train")
        if 0 in counts:
            found = f"train.{counts.index(0)}: its ratio of rows = {self.rows} is no row at all"
            raise RecipeError(f"{found}; raise either")


def _some_tasks(tasks: list[str] | None) -> None:
    if tasks is not None and not tasks:
        raise RecipeError("tasks is empty, which would leave no rows; write null for all tasks")
    known_tasks("tasks", tasks or [])


def known_tasks(key: str, tasks: Iterable[str]) -> None:
    """Raises: RecipeError naming the key where one is no task."""
    for task in tasks:
        if task not in TASKS:
            raise RecipeError(f"{key}: found {task!r}, expected one of {', '.join(TASKS)}")
