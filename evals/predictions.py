"""What a model answered: `predictions.jsonl`, one row per question, with the truth beside the completion.

    {"id": "3", "source": "grounding", "task": "grounding", "prompt": "the red ship near the pier",
     "completion": "<think>…</think><answer>(89,178),(803,714)</answer>", "boxes": [[10, 20, 90, 80]],
     "size": [112, 112], "image": "/data/images/3.png"}

Everything a metric needs is in the row, so a file can be scored again later, under other conventions. Answers that the
authors of another program published (`evals.published`) are read, too.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals import published
from samples import TASKS, Sample
from samples.readers.encoding import refuse, undecoded
from samples.readers.json_list import Once
from vlm.boxes import NOTATIONS
from vlm.common.errors import DataError
from vlm.masks import FORMS, checked_runs


@dataclass(slots=True)
class Prediction:
    """One question, its truth and the model's completion."""

    id: str
    "Unique within its source."
    source: str
    "The dataset, as in `Sample.source`."
    task: str
    "One of `samples.TASKS`."
    completion: str
    "The generated text, whole."
    prompt: str = ""
    "The question, to be read by people."
    kind: str | None = None
    "Question type; several are separated by commas."
    answer: str | None = None
    "True answer."
    boxes: list[list[float]] | None = None
    "True boxes: x1, y1, x2, y2 in pixels of the original image."
    quads: list[list[float]] | None = None
    "True quadrilaterals, as in `Sample.quads`."
    labels: list[str] | None = None
    "Of detection: what the true objects are, as in `Sample.labels`; `difficult` and `classes` likewise."
    difficult: list[bool] | None = None
    classes: list[str] | None = None
    regions: list[list[float]] | None = None
    "Where in the image the answer is to be seen, as in `Sample.regions`."
    size: tuple[int, int] | None = None
    "(width, height) in pixels of the original image."
    resized: tuple[int, int] | None = None
    "(width, height) at which the model saw it, for notations that count pixels of that."
    mask: dict[str, Any] | None = None
    "Of segmentation, and of what covers pixels: the true ones, as in `Sample.mask`."
    form: str | None = None
    "How its mask is written (`vlm.masks.FORMS`)."
    dates: list[str] | None = None
    "When each picture was taken, as in `Sample.dates`."
    images: list[str] | None = None
    "Where there are several pictures: paths of all of them."
    written: str | None = None
    "The notation of its boxes, where its source has one of its own, as in `Sample.written`."
    choices: list[str] | None = None
    "Texts of the options in order A, B, C …"
    references: list[str] | None = None
    "True captions, where there are several: metrics of captions take all of them."
    image: str | None = None
    "Path of the first image that the model was shown; None where it was bytes, or where it was shown none."
    gold: float | None = None
    "What the recipe's judge gave the completion of an open question."
    refused: str | None = None
    "Why a server refused to answer, where it did so for good; the completion is empty, and counts as wrong."
    turns: list[dict[str, str]] | None = None
    """Where tools were at hand: all turns behind the question, {"role": "assistant" | "tool", "content": text with
    `<image>` for a picture}; the completion is the last."""
    crops: list[dict[str, Any]] | None = None
    """Regions that were shown: {"turn": which of `turns`, "image": of the question, from 0, "box": in pixels of that
    original, "size": (width, height) as shown}."""
    faults: list[str] | None = None
    "Why calls failed, one for each that did."
    over: bool | None = None
    "Whether it called a tool once more than it may."

    @property
    def key(self) -> str:
        """Names the question across runs."""
        return f"{self.source}/{self.id}"


def from_sample(
    sample: Sample,
    completion: str,
    prompt: str | None = None,
    gold: float | None = None,
    resized: tuple[int, int] | None = None,
    refused: str | None = None,
    form: str | None = None,
    **chain: Any,
) -> Prediction:
    """A completion beside its sample's truth; `prompt` defaults to the text of the last user turn.

    resized: size at which the model saw the first picture (`vlm.pictures.resizing.seen`). refused: as the field. form:
    of masks, the recipe's (`prompt.masks`). chain: the fields `turns`, `crops`, `faults` and `over`, where tools were
    at hand.
    """
    asked = [turn["content"] for turn in sample.messages if turn["role"] == "user"]
    return Prediction(
        id=sample.id,
        source=sample.source,
        task=sample.task,
        completion=completion,
        prompt=asked[-1] if prompt is None else prompt,
        kind=sample.kind,
        answer=sample.answer,
        boxes=sample.boxes,
        quads=sample.quads,
        labels=sample.labels,
        difficult=sample.difficult,
        classes=sample.classes,
        mask=sample.mask,
        form=form if sample.task == "segmentation" else None,
        dates=sample.dates,
        images=several(sample),
        written=sample.written,
        regions=sample.regions,
        size=sample.size,
        resized=resized,
        choices=sample.choices,
        references=sample.references,
        image=first_image(sample),
        gold=gold,
        refused=refused,
        **chain,
    )


def first_image(sample: Sample) -> str | None:
    """Path of the first picture; None where there is none, or where it is bytes."""
    return sample.images[0] if sample.images and isinstance(sample.images[0], str) else None


def several(sample: Sample) -> list[str] | None:
    """Paths of all pictures, where there are several and none is bytes."""
    names = [name for name in sample.images if isinstance(name, str)]
    return names if len(names) == len(sample.images) > 1 else None


def line(prediction: Prediction) -> str:
    """One row of the file, without its newline."""
    row = {name: value for name, value in dataclasses.asdict(prediction).items() if value is not None}
    return json.dumps(row, ensure_ascii=False)


def write(path: str | os.PathLike[str], predictions: Iterable[Prediction]) -> int:
    """Write predictions as they come, one flushed line each; returns how many."""
    count = 0
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for prediction in predictions:
            file.write(line(prediction) + "\n")
            file.flush()
            count += 1
    return count


def read(path: str | os.PathLike[str]) -> list[Prediction]:
    """The predictions of a file. Raises: DataError naming file, line and field."""
    path = Path(path)
    predictions: list[Prediction] = []
    seen: dict[str, int] = {}
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    refuse(path, data[:4096])
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: found {undecoded(path, data, error)}") from error
    once = Once()
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        try:
            once.twice = None
            row = json.loads(text, object_pairs_hook=once.object)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: found no JSON ({error}), expected one prediction per line") from error
        if once.twice is not None:
            raise DataError(
                f"{where}, field {once.twice!r}: found this key twice in one object, expected each key once"
            )
        prediction = _prediction(published.row(row, number, path.parent.name), where)
        if prediction.key in seen:
            earlier = seen[prediction.key]
            raise DataError(f"{where}, field 'id': {prediction.key!r} is also on line {earlier}")
        seen[prediction.key] = number
        predictions.append(prediction)
    return predictions


def resume(path: str | os.PathLike[str]) -> list[Prediction]:
    """The predictions of an interrupted run; cuts off an unfinished last line, so that one can append.

    Raises: DataError as `read` does.
    """
    with Path(path).open("rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)
    return read(path)


_REQUIRED = ("id", "source", "task", "completion")
_TEXTS = (*_REQUIRED, "prompt", "kind", "answer", "image", "refused")


def _prediction(row: Any, where: str) -> Prediction:
    if not isinstance(row, dict):
        raise DataError(f"{where}: found {type(row).__name__}, expected an object")
    known = {field.name for field in dataclasses.fields(Prediction)}
    fields = {name: value for name, value in row.items() if name in known and value is not None}
    for name in _REQUIRED:
        if name not in fields:
            raise DataError(f"{where}, field '{name}': found none, expected text")
    for name in _TEXTS:
        if not isinstance(fields.get(name, ""), str):
            raise DataError(f"{where}, field '{name}': found {fields[name]!r}, expected text")
    if fields["task"] not in TASKS:
        raise DataError(f"{where}, field 'task': found {fields['task']!r}, expected one of {', '.join(TASKS)}")
    for name in ("choices", "references", "labels", "classes", "dates", "images"):
        if not all(isinstance(text, str) for text in _items(fields, name, where)):
            raise DataError(f"{where}, field {name!r}: found {fields[name]!r}, expected texts")
    upright, quad = "[x1, y1, x2, y2]", "[x1, y1, …, x4, y4]"
    for name, count, expected in (("boxes", 4, upright), ("quads", 8, quad), ("regions", 4, upright)):
        for box in _items(fields, name, where):
            if not _numbers(box, count):
                raise DataError(f"{where}, field '{name}': found {box!r}, expected {expected}")
    _check_objects(fields, where)
    _check_mask(fields, where)
    if fields.get("written") not in (None, *NOTATIONS):
        raise DataError(
            f"{where}, field 'written': found {fields['written']!r}, expected one of {', '.join(NOTATIONS)}"
        )
    if type(fields.get("gold", 0.0)) not in (int, float):
        raise DataError(f"{where}, field 'gold': found {fields['gold']!r}, expected a number")
    _check_chain(fields, where)
    for name in {"size", "resized"} & fields.keys():
        if not _numbers(fields[name], 2) or min(fields[name]) <= 0:
            raise DataError(f"{where}, field '{name}': found {fields[name]!r}, expected [width, height]")
        fields[name] = tuple(fields[name])
    return Prediction(**fields)


def _check_objects(fields: Mapping[str, Any], where: str) -> None:
    """Raises: DataError."""
    if fields["task"] != "detection":
        return
    shapes = _items(fields, "quads" if "quads" in fields else "boxes", where)
    labels, difficult = _items(fields, "labels", where), _items(fields, "difficult", where)
    if "labels" not in fields or len(labels) != len(shapes) or not _items(fields, "classes", where):
        raise DataError(
            f"{where}, field 'labels': found {len(labels)} labels for {len(shapes)} objects, of the classes "
            f"{fields.get('classes')!r}; expected one for each, and the classes that were asked for"
        )
    if "difficult" in fields and (len(difficult) != len(shapes) or not set(map(type, difficult)) <= {bool}):
        raise DataError(f"{where}, field 'difficult': found {difficult!r}, expected true or false for each object")


def _check_mask(fields: dict[str, Any], where: str) -> None:
    """Brings the mask to compressed text. Raises: DataError."""
    if fields.get("form") not in (None, *FORMS):
        raise DataError(f"{where}, field 'form': found {fields['form']!r}, expected one of {', '.join(FORMS)}")
    if fields["task"] != "segmentation" and "mask" not in fields:
        return
    value = fields.get("mask")
    if not isinstance(value, dict) or value.keys() != {"size", "counts"}:
        raise DataError(f"{where}, field 'mask': found {value!r}, expected {{'size': [height, width], 'counts': …}}")
    try:
        fields["mask"] = checked_runs(value)
    except DataError as error:
        raise DataError(f"{where}, field 'mask': {error}") from error


def _check_chain(fields: Mapping[str, Any], where: str) -> None:
    """Raises: DataError."""
    turns = _items(fields, "turns", where)
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("role") not in ("assistant", "tool"):
            raise DataError(f"{where}, field 'turns': found {turn!r}, expected the role assistant or tool")
        if turn.keys() != {"role", "content"} or not isinstance(turn["content"], str):
            raise DataError(f"{where}, field 'turns': found {turn!r}, expected a role and a text as content")
    for crop in _items(fields, "crops", where):
        known = isinstance(crop, dict) and crop.keys() == {"turn", "image", "box", "size"}
        if not known or not _numbers(crop["box"], 4) or not _numbers(crop["size"], 2):
            raise DataError(
                f"{where}, field 'crops': found {crop!r}, expected turn, image, box [x1, y1, x2, y2] and size "
                "[width, height]"
            )
        if type(crop["turn"]) is not int or not 0 <= crop["turn"] < len(turns) or type(crop["image"]) is not int:
            raise DataError(f"{where}, field 'crops': found {crop!r}, expected the number of one of {len(turns)} turns")
    if not all(isinstance(fault, str) for fault in _items(fields, "faults", where)):
        raise DataError(f"{where}, field 'faults': found {fields['faults']!r}, expected texts")
    if type(fields.get("over", False)) is not bool:
        raise DataError(f"{where}, field 'over': found {fields['over']!r}, expected true or false")


def _items(fields: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise DataError(f"{where}, field '{name}': found {value!r}, expected a list")
    return value


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(x) in (int, float) for x in value)
