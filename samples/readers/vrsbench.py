"""VRSBench (Li et al. 2024, arXiv 2406.12384): evaluation files and the annotation of each image.

    VRSBench_EVAL_{Cap,referring,vqa}.json    {"image_id": "P0003_0002.png", "question": …, "ground_truth": …,
                                               "dataset": "DOTA", "question_id": 0, "type": "object position"}
    Annotations_{train,val}/P0003_0002.json   {"image", "caption", "objects": [{"obj_cls", "obj_corner", "obj_coord",
                                               "referring_sentence"}], "qa_pairs": [{"ques_id", "question", "type",
                                               "answer"}]}

The truth of a referring row is the text `{<25><40><33><60>}` on 0–100, as VRSBench's own evaluator reads it, although
`obj_corner` may stand beside it. It is truncated, so that 13 of the 16,159 are without area (`{<92><0><96><0>}`): they
are read, for that evaluator adds 1 to every side. `unique` goes to `kind` (`unique`, `non-unique`). Annotations give
one question for the caption, one for each object with a sentence (`quads`, from its corners in fractions of the image)
and one for each QA pair; an object without a sentence is left out (`no_question`). An annotation may be JSON5, as which
VRSBench's own scripts read it. Captions without a question get VRSBench's wording. Images lie in `Images_val`,
`Images_train` or `images`, beside the file or above its folder. Training rows (VRSBench_train.json):
`samples.readers.geochat`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers import conversations, geochat
from samples.readers.encoding import undecoded
from samples.readers.json_list import Once, Twice
from samples.readers.look import Look, files, one_of
from samples.readers.records import answer, kinds, record, rows_in, text
from samples.readers.rows import LeftOut, Place, RowFault, Rows, show
from vlm.boxes import read_boxes
from vlm.common.errors import DataError

FOLDERS = tuple(os.path.join(above, name) for above in ("", "..") for name in ("Images_val", "Images_train", "images"))
DESCRIBE = "Describe the image in detail."
UNIQUE = ("non-unique", "unique")
"""Whether the sentence's object is the only one of its class: VRSBench reports both apart."""
LOOKED = 10
"""Files that are looked at to tell what a folder holds: the first may be broken."""
LARGEST = 1 << 22
"""Bytes of one image's annotation."""


def asks(row: dict[str, Any]) -> bool:
    """Whether it is a row of an evaluation file: 13 of the 16,159 true boxes there are without area."""
    return conversations.turns(row) is None


def evaluated(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    """A row of an evaluation file, or of VRSBench_train.json."""
    if conversations.turns(row) is not None:
        return geochat.instruct(row, place, task)
    image = place.seek(row.get("image_id"), FOLDERS, "image_id")
    said, kind = answer(row, "ground_truth"), kinds(row.get("type"))
    unique = row.get("unique")
    more = {"id": row.get("question_id", ""), "kind": kinds(kind, UNIQUE[unique] if isinstance(unique, bool) else None)}
    caption = (kind or "").lower().startswith("cap")
    if task is None:
        task = "grounding" if geochat.BOX.match(said) else "caption" if caption else "vqa"
    question = DESCRIBE if caption and not row.get("question") else geochat.TAG.sub("", text(row, "question"))
    if task != "grounding":
        return record(image, question, task, said, **more)
    boxes = read_boxes(said, "geochat", place.size(image))
    if boxes is None:
        raise RowFault("box_text", "ground_truth", show(said), "a box in percent such as {<25><40><33><60>}")
    return record(image, question, task, boxes=boxes, **more)


def holds(path: Path) -> bool:
    """Whether a file is the annotation of one image."""
    row = _annotation(path)
    return isinstance(row, dict) and ("objects" in row or "qa_pairs" in row)


def fits(look: Look) -> bool:
    if look.is_folder:
        return bool(_folders(look)) or any(map(holds, files(look.path, ".json", LOOKED)))
    return isinstance(look.rows, Rows) and not look.rows.is_list and look.path.suffix == ".json" and holds(look.path)


def walk(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(file and place in it, one question) of one annotation or a folder of them, sorted by name."""
    paths = [look.path]
    if look.is_folder:
        folders = _folders(look) or _named(look)
        folder = one_of(look, folders, "annotations") if folders else look.path
        paths = files(folder, ".json")
    for path in paths:
        row = _annotation(path)
        if isinstance(row, RowFault):
            yield f"file {path.name}", row
        else:
            yield from ((f"file {path.name}, {where}", one) for where, one in _questions(row, path.stem))


def annotated(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    """One question of `walk`."""
    image = place.seek(row["image"] if row["image"] is not None else row["stem"], FOLDERS)
    about, one = row["about"], row["one"]
    if about == "caption":
        return record(image, DESCRIBE, task or "caption", answer({"caption": one}, "caption"), id=row["stem"])
    if not isinstance(one, dict):
        raise RowFault("wrong_type", about, show(one), "an object with named fields")
    if about == "qa_pairs":
        more = {"id": f"{row['stem']}/{one.get('ques_id', row['number'])}", "kind": kinds(one.get("type"))}
        return record(image, text(one, "question"), task or "vqa", answer(one, "answer"), **more)
    if not one.get("referring_sentence"):
        raise LeftOut("no_question", "an object without a referring sentence")
    more = {"id": f"{row['stem']}/object{one.get('obj_id', row['number'])}", "kind": kinds(one.get("obj_cls"))}
    width, height = place.size(image)
    shapes: dict[str, list[list[float]]] = {}
    for name, target in (("obj_corner", "quads"), ("obj_coord", "boxes")):
        if one.get(name):
            shapes[target] = [_pixels(one, name, width, height)]
            break
    return record(image, text(one, "referring_sentence"), task or "grounding", **more, **shapes)


def _folders(look: Look) -> list[Path]:
    if not look.is_folder:
        return []
    return [folder for folder in _named(look) if any(map(holds, files(folder, ".json", LOOKED)))]


def _named(look: Look) -> list[Path]:
    return [folder for folder in sorted(look.path.glob("Annotations_*")) if folder.is_dir()]


def _annotation(path: Path) -> dict[str, Any] | RowFault:
    expected = "a JSON object: the annotation of one image"
    try:
        if path.stat().st_size > LARGEST:
            return RowFault("json", "(whole file)", f"{path.stat().st_size} bytes", expected)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        row = _parsed(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return RowFault("encoding", "(whole file)", undecoded(path, data, error), "UTF-8")
    except (ValueError, RecursionError) as error:
        return RowFault("json", "(whole file)", str(error), expected)
    if isinstance(row, Twice):
        return RowFault("twice", row.key, "this key twice in one object", "each key once")
    return row if isinstance(row, dict) else RowFault("wrong_type", "(whole file)", show(row), expected)


def _parsed(text: str) -> Any:
    """The value of JSON, else of JSON5: some published annotations have what JSON has not, such as a last comma.

    Raises: ValueError with the fault that JSON has where it is neither.
    """
    once = Once()
    try:
        found = json.loads(text, object_pairs_hook=once.object)
    except ValueError as error:
        try:
            import json5
        except ModuleNotFoundError:
            raise ValueError(f"{error}; JSON5 is read where the package json5 is installed") from None
        try:
            found = json5.loads(text, object_pairs_hook=lambda pairs: once.object(list(pairs)))
        except ValueError:
            raise error from None
    return found if once.twice is None else Twice(once.twice)


def _questions(row: dict[str, Any], stem: str) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    about = {"stem": stem, "image": row.get("image")}
    if row.get("caption") is not None:
        yield "caption", about | {"about": "caption", "one": row["caption"]}
    for name in ("objects", "qa_pairs"):
        try:
            items = rows_in(row, name)
        except RowFault as fault:
            yield name, fault
            continue
        for number, one in enumerate(items, 1):
            yield f"{name}[{number}]", about | {"about": name, "one": one, "number": number}
    if not any(row.get(name) for name in ("caption", "objects", "qa_pairs")):
        yield "objects", LeftOut("no_question", "an annotation without caption, objects or QA pairs")


def _pixels(one: dict[str, Any], name: str, width: int, height: int) -> list[float]:
    value = one[name]
    if not isinstance(value, list) or not all(type(x) in (int, float) and abs(x) < 1e6 for x in value):
        raise RowFault("wrong_type", name, show(value), "corners in fractions of the image, x before y")
    return [x * (height if place % 2 else width) for place, x in enumerate(value)]
