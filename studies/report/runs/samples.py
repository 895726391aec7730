"""Rows to look at: what a run was asked, what it said, what it was paid for it. From whichever of these a folder has:

    samples.jsonl          the table of completions that GRPO keeps, with pictures in samples/ (`tracking.samples`)
    completions/*.parquet  TRL's own table; without the true boxes, which are read from a grounding row's answer
    predictions.jsonl      of an evaluation

Of a model that has tools they hold the turns of each completion, and the regions that it was shown (`runs.chains`).
All of them can be larger than a page may be: steps are taken spread evenly over the run, the first and the last among
them, and prompts spread evenly over a step, with all their completions that there are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from studies.report.runs import chains, outlines
from studies.report.runs.folders import PREDICTIONS, Folder
from studies.report.runs.outlines import Outline
from vlm import answers
from vlm.boxes import FALLBACK, read_detections, read_said
from vlm.common.errors import DataError, RecipeError
from vlm.masks import DEFAULT_FORM, checked_runs

SAMPLES, COMPLETIONS = "samples.jsonl", "completions"
BOXED = ("grounding", "detection")
"Tasks whose answer is boxes."
FURTHER = 7
"""Pictures of a question that are shown beside the first."""
KNOWN = ("step", "prompt", "completion", "advantage", "answer", "image_file", "task", "kind", "source", "id", "images")
CHAIN = ("turns", "crops")
"""Columns of TRL's table that are no reward, the second those of a model with tools."""
Boxes = list[list[float]]


@dataclass
class Said:
    """One completion."""

    text: str
    answer: str | None = None
    trace: str | None = None
    read: Boxes | None = None
    "Quadrilaterals or boxes that the answer states, pixels of the original image."
    rewards: dict[str, float | None] = field(default_factory=dict)
    advantage: float | None = None
    times: int = 1
    "How many completions of the group are this one."
    turns: chains.Turns = field(default_factory=list)
    "Where it has several; `text` is the last."
    crops: list[chains.Crop] = field(default_factory=list)
    "Regions that tools have shown it, as they are numbered."
    mask: Outline | None = None
    "The mask that the answer states."


@dataclass
class Asked:
    """One prompt at one step, and its completions."""

    step: int | None
    prompt: str
    task: str = ""
    name: str = ""
    "source/id of the row."
    truth: str | None = None
    boxes: Boxes = field(default_factory=list)
    "True quadrilaterals or boxes, pixels of the original image."
    regions: Boxes = field(default_factory=list)
    "Where in the image the answer is to be seen; the same pixels."
    size: Sequence[float] | None = None
    "Width and height of the original image."
    image: Path | None = None
    mask: Outline | None = None
    "The true mask, over the first picture."
    further: list[tuple[int, Path]] = field(default_factory=list)
    "The question's other pictures, or some of them, with their numbers from 1."
    dates: list[str] = field(default_factory=list)
    "When each picture was taken."
    said: list[Said] = field(default_factory=list)


def read(folder: Folder, rows: int) -> list[Asked]:
    """At most about `rows` completions of a run. Raises: DataError naming file and line or column."""
    if (folder.path / SAMPLES).is_file():
        found = _kept(folder.path / SAMPLES)
    elif (folder.path / PREDICTIONS).is_file():
        found = _predicted(folder)
    else:
        found = _completed(folder, rows)
    found = spread(found, rows)
    for one in found:
        one.said = ranked(one.said)
    return found


def ranked(said: Sequence[Said]) -> list[Said]:
    """Equal completions once, the best paid first (by the advantage, where there is one)."""
    different: dict[tuple[str, ...], Said] = {}
    for one in said:
        key = (one.text, *(turn["content"] for turn in one.turns))
        if key in different:
            different[key].times += 1
        else:
            different[key] = one
    return sorted(different.values(), key=lambda one: -(one.advantage or 0))


def spread(found: Sequence[Asked], rows: int) -> list[Asked]:
    """Of all prompts those of evenly spread steps, and of a step evenly spread ones, with at most `rows` completions
    (but at least one prompt)."""
    steps: dict[int | None, list[Asked]] = {}
    for one in found:
        steps.setdefault(one.step, []).append(one)
    if not steps:
        return []
    per_prompt = max(1.0, float(np.mean([len(one.said) for one in found])))
    room = max(1, int(rows // per_prompt))
    per_step = max(1.0, float(np.mean([len(asked) for asked in steps.values()])))
    wanted = max(min(len(steps), 8, room), int(room // per_step))  # rather part of eight steps than two whole ones
    chosen = even(list(steps.values()), wanted)
    share = max(1, room // len(chosen))
    return [one for asked in chosen for one in even(asked, share)]


def even(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, or all: the first, the last, and between them in equal distances."""
    if count >= len(items):
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, count).round().astype(int)]


def lines(path: Path) -> Iterable[tuple[dict[str, Any], str]]:
    """Rows and where they stand; a torn last line is left out, for the run may be writing it."""
    *lines, _torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected a JSON row, found {line[:60]!r} ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: found {type(row).__name__}, expected an object")
        yield row, f"{path}, line {number}"


def _kept(path: Path) -> list[Asked]:
    groups: dict[tuple, Asked] = {}
    shown: dict[tuple, Sequence[float] | None] = {}
    for row, where in lines(path):
        truth = row.get("truth") or {}
        try:
            key = (row["step"], row["group"])
            turns, crops = chains.read(row, where, None)
            for crop in crops:
                crop.picture = _inside(path.parent, crop.file)
            if key not in groups:
                groups[key] = Asked(
                    step=row["step"],
                    prompt=row["prompt"],
                    task=row.get("task") or "",
                    name=_name(row),
                    truth=truth.get("answer"),
                    boxes=truth.get("quads") or truth.get("boxes") or [],
                    regions=row.get("regions") or [],
                    size=truth.get("size"),
                    image=_inside(path.parent, row.get("image")),
                    mask=_outlined((row.get("masks") or {}).get("truth"), where),
                    further=_further([_inside(path.parent, name) for name in row.get("further") or ()]),
                    dates=row.get("dates") or [],
                )
            read = row.get("read_quads") or row.get("read")
            of = (crop.of for crop in crops if crop.of and crop.image == 0)
            groups[key].size = groups[key].size or next(of, None)
            said = Said(row["completion"], row.get("answer"), row.get("trace"), read, row.get("rewards") or {})
            said.text = turns[-1]["content"] if turns else said.text
            said.mask = _outlined((row.get("masks") or {}).get("answer"), where)
            _chained(said, turns, crops)
        except KeyError as error:
            raise DataError(f"{where}: has no {error.args[0]!r}; expected a row as GRPO writes them") from error
        said.advantage = row.get("advantage")
        groups[key].said.append(said)
        shown[key] = row.get("image_size")
    for key, one in groups.items():
        one.size = one.size or shown[key]
    return list(groups.values())


def _inside(folder: Path, name: str | None) -> Path | None:
    """A picture of the run folder; what is named outside of it is none of ours."""
    path = (folder / name).resolve() if name else None
    return path if path and path.is_relative_to(folder.resolve()) else None


def _completed(folder: Folder, rows: int) -> list[Asked]:
    """TRL's tables: only as many files are read as rows are wanted of."""
    import pyarrow.parquet

    files = sorted((folder.path / COMPLETIONS).glob("*.parquet"))
    found: list[Asked] = []
    for path in even(files, max(1, min(len(files), 8, rows))):
        try:
            table = pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{path}: cannot be read as parquet ({error}); take it out of the folder") from error
        groups: dict[tuple, Asked] = {}
        for number, row in enumerate(table, 1):
            if missing := {"step", "prompt", "completion"} - row.keys():
                raise DataError(f"{path}: has no column {', '.join(sorted(missing))}; expected TRL's completions")
            key = (row["step"], row["prompt"], row.get("image_file"), row.get("id"))
            if key not in groups:
                groups[key] = _asked(row, folder)
            groups[key].said.append(_said(row, groups[key], folder, f"{path}, row {number}"))
        found += groups.values()
    return found


def _asked(row: dict[str, Any], folder: Folder) -> Asked:
    image = Path(row["image_file"]) if row.get("image_file") else None
    made = Asked(row["step"], str(row["prompt"]), row.get("task") or "", _name(row), row.get("answer"), image=image)
    made.size = _size(image)
    if made.task in BOXED:
        made.boxes = _shapes(made.truth, made.size, row, folder) or []
    return made


def _said(row: dict[str, Any], asked: Asked, folder: Folder, where: str) -> Said:
    turns, crops = chains.read(row, where, asked.image)
    text = turns[-1]["content"] if turns else str(row["completion"])
    trace, answer = _parts(text, folder)
    rewards = {
        name: value if value is None or math.isfinite(value) else None
        for name, value in row.items()
        if name not in KNOWN + CHAIN and (value is None or isinstance(value, int | float))
    }
    read = _shapes(answer, asked.size, row, folder) if asked.task in BOXED else None
    return _chained(Said(text, answer, trace, read, rewards, row.get("advantage")), turns, crops)


def _chained(said: Said, turns: chains.Turns, crops: list[chains.Crop]) -> Said:
    """With its turns, where it has several."""
    if len(turns) > 1:
        said.turns, said.crops = turns, crops
    return said


def _predicted(folder: Folder) -> list[Asked]:
    found = []
    for row, where in lines(folder.path / PREDICTIONS):
        if missing := {"id", "source", "task", "completion"} - row.keys():
            raise DataError(f"{where}: has no {', '.join(sorted(missing))}; expected a row of launch/eval.py")
        trace, answer = _parts(row["completion"], folder)
        true = row.get("quads") or row.get("boxes") or []
        boxed = true or row["task"] in BOXED
        read = _shapes(answer, row.get("size"), row, folder) if boxed else None
        rewards = {"gold": row["gold"]} if row.get("gold") is not None else {}
        image = Path(row["image"]) if row.get("image") else None
        said = _chained(Said(row["completion"], answer, trace, read, rewards), *chains.read(row, where, image))
        asked = Asked(None, row.get("prompt", ""), row["task"], _name(row), row.get("answer"), true)
        asked.regions, asked.size = row.get("regions") or [], row.get("size") or _size(image)
        asked.image, asked.said, asked.dates = image, [said], row.get("dates") or []
        asked.further = _further([Path(name) for name in (row.get("images") or ())[1:]])
        if row["task"] == "segmentation":
            form = row.get("form") or _prompt(folder).get("masks", DEFAULT_FORM)
            asked.mask = _outlined(row.get("mask"), where)
            said.mask = outlines.stated(answer, form, row.get("size"), row.get("resized"), row.get("prompt"))
        found.append(asked)
    return found


def _outlined(mask: dict[str, Any] | None, where: str) -> Outline | None:
    try:
        return None if mask is None else outlines.outlined(checked_runs(mask))
    except DataError as error:
        raise DataError(f"{where}, mask: {error}") from error


def _further(paths: Sequence[Path | None]) -> list[tuple[int, Path]]:
    there = [(number, path) for number, path in enumerate(paths, 2) if path is not None]
    return even(there, FURTHER)


def _parts(text: str, folder: Folder) -> tuple[str | None, str | None]:
    """Trace and answer of a completion, as the recipe has them read."""
    if folder.recipe.get("inside") == "text" or _prompt(folder).get("style") == "direct":
        return None, text.strip()
    parsed = answers.parse(text)
    return parsed.trace, parsed.answer


def _prompt(folder: Folder) -> dict[str, Any]:
    return folder.recipe.get("prompt") or {}


def _shapes(text: str | None, size: Any, row: dict[str, Any], folder: Folder) -> Boxes | None:
    """The shapes of a text, as its row is read."""
    if not text or not size:
        return None
    notation = row.get("written") or _prompt(folder).get("notation", FALLBACK)
    read = read_detections if row.get("task") == "detection" else read_said
    try:
        said = read(text, notation, size, row.get("resized"))
    except (DataError, RecipeError, KeyError):  # a notation of pixels as the model saw them, or one of another version
        return None
    if said is None or not said.objects:
        return None
    return said.boxes if said.upright else said.quads


def _size(image: Path | None) -> tuple[int, int] | None:
    from vlm.pictures import images

    try:
        return images.size(str(image)) if image else None
    except DataError:  # it is not here any more; the page says so where it would be shown
        return None


def _name(row: dict[str, Any]) -> str:
    return "/".join(str(row[key]) for key in ("source", "id") if row.get(key) not in (None, ""))
