"""GeoPixelD (GeoPixel, arXiv 2501.13925): descriptions with masks inside, as one row for each thing that has one.

Read: mbzuai-oryx/GeoPixel at 356b56a (a row of `GeoPixelD.json` and its polygons' file), and the loader of its trainer
as TaillessSheep/GeoPixel-for-Disaster-Response keeps it (data_mix.py at b64f22e):

    {"id": 0, "image": "data/GeoPixelD/train/P1.png", "polygons": "data/GeoPixelD/train/P1.json",
     "conversations": [{"from": "human", "value": "Could you …"}, {"from": "bot",
      "value": "A pier. The <p> ship-1 </p> [SEG] at left and the <p> ship-2 </p> [SEG] are white."}]}

    P1.json: {"id": 0, "img": "data/GeoPixelD/train/P1.png", "gcg_description": "…", "polygons": [[[[x, y], …], …], …]}

`polygons[i]` belongs to the i-th [SEG]: the union of its polygons, whose corners are pixels (cv2.fillPoly: their edges
belong to them). `path` is `GeoPixelD.json`, one polygons' file, or a folder of these: the test split comes so.
Pictures and polygons are found where the row says, or below the file's folder without the first folders of that name.

A row becomes

    caption         the description without its marks, numbers of objects included
    segmentation    for each name in each sentence: the union of its masks. The question is the name where it stands
                    once in the description and has no number; else the name and that sentence, for "ship-2" says
                    nothing about which ship that is, and several in one sentence, or in two of the same words, cannot
                    be told apart
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from samples.readers import conversations
from samples.readers.captions import DETAIL
from samples.readers.look import Look, files, one_of
from samples.readers.masked.pictures import Points, of_pixels, something
from samples.readers.records import record, text
from samples.readers.rows import Place, RowFault, show
from vlm.common.errors import DataError
from vlm.pictures import rasters

SAID = "gcg_description"
MARK = "[SEG]"
EXPECTED = "[[[[x, y], …], …], …]: for each [SEG] its polygons, corners in pixels"
BEYOND = 1e6
"""No pixel is so far out; numbers beyond are none."""
_PHRASE = re.compile(r"<p>((?:(?!</?p>).)*)</p>\s*\[SEG\]", re.DOTALL)
"""Of a thing with a mask; blanks around its words are cut off apart: a pattern that does both takes forever."""
_TAG = re.compile(r"</?p>")
_NUMBER = re.compile(r"-\d+$")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z<])")


@dataclass(frozen=True)
class Thing:
    """What one row asks for."""

    question: str
    masks: tuple[int, ...]
    "Numbers of its [SEG]s, from 0."


def fits(look: Look) -> bool:
    if look.is_folder:
        return any(_annotation(path) for folder in _folders(look.path) for path in files(folder, ".json", 1))
    return any("polygons" in row and (SAID in row or _said(row) is not None) for row in look.first)


def walk(look: Look) -> Iterator[tuple[int | str, dict[str, Any] | RowFault]]:
    """(row and part in words, the row with `part`: None for the description, else the number of a thing)."""
    for where, row in _folder(look) if look.is_folder else look.each():
        if isinstance(row, RowFault):
            yield where, row
            continue
        named = where if isinstance(where, str) else f"row {where}"
        said = _said(row)
        yield f"{named}, description", row | {"part": None}
        for number in range(len(things(said)) if isinstance(said, str) else 0):
            yield f"{named}, thing {number + 1}", row | {"part": number}


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    said = _said(row)
    if said is None:
        raise RowFault("missing_field", "conversations", "none", f"an answer with {MARK}, or {SAID!r}")
    marks, phrases = said.count(MARK), len(_phrases(said))
    if marks != phrases:
        raise RowFault("mask", "conversations", f"{marks} {MARK} behind {phrases} <p> … </p>", "one behind each")
    if not all(_phrases(said)):
        raise RowFault("mask", "conversations", f"<p> </p> {MARK}, without a word", "what the mask is of")
    image = _file(text(row, "img" if "img" in row else "image"), "image", place)
    name = str(row.get("id", Path(image).stem))
    if row["part"] is None:
        return record(image, DETAIL, task or "caption", _plain(said), id=name)
    thing = things(said)[row["part"]]
    shapes = row.get("polygons")
    if isinstance(shapes, str):
        shapes = _polygons(_file(shapes, "polygons", place))
    size = place.size(image)
    polygons = _checked(shapes, marks)
    runs = of_pixels([polygon for number in thing.masks for polygon in polygons[number]], size)
    runs = something(runs, "polygons", f"the mask of {thing.question[:60]!r}")
    return record(image, thing.question, task or "segmentation", mask=runs, id=f"{name}/{row['part'] + 1}")


def things(said: str) -> list[Thing]:
    """What a description with marks asks for, in its order."""
    sentences = _SENTENCE.split(said)
    phrases = [_phrases(sentence) for sentence in sentences]
    if sum(map(len, phrases)) != len(_phrases(said)):  # a full stop within a phrase
        sentences, phrases = [said], [_phrases(said)]
    everything = [phrase for found in phrases for phrase in found]
    names = [_NUMBER.sub("", phrase) for phrase in everything]
    known = [name.casefold() for name in names]
    groups: dict[str, tuple[str, list[int]]] = {}  # what is asked, in any case → as it is written, numbers
    number = 0
    for place, found in enumerate(phrases):
        for _ in found:
            question = name = names[number]
            if known.count(name.casefold()) > 1 or name not in everything:
                question = f'{name}, in this description: "{_plain(_unnumbered(sentences[place]))}"'
            groups.setdefault(question.casefold(), (question, []))[1].append(number)
            number += 1
    return [Thing(question, tuple(numbers)) for question, numbers in groups.values()]


def _phrases(said: str) -> list[str]:
    """What stands between <p> and </p> before each [SEG]."""
    return [phrase.strip() for phrase in _PHRASE.findall(said)]


def _unnumbered(sentence: str) -> str:
    return _PHRASE.sub(lambda found: f"<p> {_NUMBER.sub('', found[1].strip())} </p> {MARK}", sentence)


def _plain(said: str) -> str:
    """A text without its marks, and without the blanks that these leave before a comma or full stop."""
    words = " ".join(_TAG.sub(" ", _PHRASE.sub(lambda found: found[1], said)).split())
    return re.sub(r" (?=[.,;:!?])", "", words)


def _said(row: dict[str, Any]) -> str | None:
    """The description with its marks."""
    if isinstance(said := row.get(SAID), str):
        return said
    turns = conversations.turns(row)
    texts = [turn.get("value") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    return next((said for said in reversed(texts) if isinstance(said, str) and MARK in said), None)


def _file(name: str, field: str, place: Place) -> str:
    """A file that a row names from the trainer's folder: there, or below the root without its first folders."""
    place.alone = False
    parts = Path(place.own(name, field)).parts
    try:
        return place.find(*("/".join(parts[first:]) for first in range(len(parts))))
    except RowFault as fault:
        raise RowFault(
            "missing_image", field, show(name), f"a file below {place.root}, with or without data/…"
        ) from fault


@lru_cache(maxsize=4)
def _polygons(path: str) -> Any:
    """What a polygons' file holds of them. Raises: RowFault where it is no JSON, or has none."""
    try:
        found = json.loads(Path(str(rasters.plain(path))).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RowFault("json", "polygons", f"{path} ({error})", "a JSON object with 'polygons'") from error
    if not isinstance(found, dict) or "polygons" not in found:
        raise RowFault("missing_field", "polygons", f"none in {path}", "a JSON object with 'polygons'")
    return found["polygons"]


def _checked(shapes: Any, marks: int) -> list[list[Points]]:
    """For each [SEG] its polygons. Raises: RowFault."""
    if not isinstance(shapes, list) or len(shapes) != marks:
        count = len(shapes) if isinstance(shapes, list) else show(shapes)
        raise RowFault("mask", "polygons", f"{count} for {marks} {MARK}", "one for each: which is whose goes by order")
    for shape in shapes:
        for polygon in shape if isinstance(shape, list) else [shape]:
            right = isinstance(polygon, list) and all(
                isinstance(one, list)
                and len(one) == 2
                and all(type(x) in (int, float) and abs(x) < BEYOND for x in one)
                for one in polygon
            )
            if not right or not polygon:
                raise RowFault("mask", "polygons", show(polygon), EXPECTED)
    return shapes


def _folders(folder: Path) -> list[Path]:
    """A folder, and those below it that a split is called after."""
    return [folder, *(folder / split for split in ("train", "test") if (folder / split).is_dir())]


def _annotation(path: Path) -> bool:
    """Whether a file is one picture's description with its polygons; small ones are read."""
    if path.stat().st_size > 1 << 26:
        return False
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {SAID, "polygons"} <= found.keys()


def _folder(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """The descriptions of a folder, or of the one below it that the split names."""
    folder = look.path
    if look.split is not None or not files(folder, ".json", 1):
        folder = one_of(look, _folders(look.path)[1:], "folders of descriptions")
    for path in files(folder, ".json"):
        where = f"file {path.name}"
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            yield where, RowFault("json", "(whole file)", str(error), "a JSON object with 'polygons'")
            continue
        if not isinstance(found, dict) or SAID not in found:
            raise DataError(f"{path}: found no {SAID!r}, expected one description in each file of this folder")
        yield where, found | ({"img": f"{folder.name}/{path.stem}.png"} if "img" not in found else {})
