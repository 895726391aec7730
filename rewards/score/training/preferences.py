"""Preferences: candidate texts about the same image and question, the best first; the record and its files.

Layouts, told apart by content; those of TRL, LLaMA-Factory and ms-swift: `rewards.score.training.layouts`.

    ours        JSONL (or a JSON list), images relative to the file's folder or to `images:`
                {"images": ["3.png"], "question": "How many ships are there?", "ranked": ["Two.", "Five.", "Red."],
                 "dimensions": ["relevance"], "margin": 0.5, "id": "3"}
    published   ScoreRS's JSON: `question` (without it, captions), `chosen` and `rejected` (each a text or a list of
                texts), `image_name` or `image_path` below `<images>/<stem of the file>/`
    parquet     ScoreRS's parquet: `image` {bytes, path}, and `text`, a JSON string that holds the published keys

Both sides of a published row share one record, so neither can lose its image or question. Several rejected texts are
not ranked among each other: they become one record each. A row that names an image is never read without it, unless
the source says `text_only`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal, TypeVar

from rewards.score.model.exchange import Exchange
from rewards.score.training import layouts
from rewards.score.training.tables import Parquet
from samples import Faults, image_name
from samples.fingerprints import RecordDigest
from samples.readers.checks import valid_text
from samples.readers.keys import check_names, renamed
from samples.readers.look import FIRST
from samples.readers.records import settled
from samples.readers.rows import Place, RowFault, Rows, show
from samples.store import Codec, Drawn, Identified, Key, Writer, kept
from stage.parallel.journal import encoded
from vlm.answers import blank
from vlm.common.console import say
from vlm.common.errors import DataError
from vlm.common.files import replacing
from vlm.pictures import images as pictures
from vlm.sections import RasterSection

logger = logging.getLogger(__name__)
T = TypeVar("T")

DIMENSIONS = ("relevance", "specificity", "completeness", "clarity", "richness")
"""The quality dimensions of the ScoreRS paper, each rated 1 to 5. A file may name others."""
LAYOUTS = {
    "ranked": "our JSONL: `ranked`, the texts, best first",
    "chosen": "ScoreRS's JSON or parquet, TRL's and LLaMA-Factory's rows: `chosen` and `rejected`",
    "rejected_response": "ms-swift's rows: `messages` and `rejected_response`",
    "rejected_messages": "the same with `rejected_messages`",
}


@dataclass(slots=True)
class Preference:
    """Two or more candidate texts for the same images and question, ranked."""

    images: list[str | bytes]
    "Absolute paths or encoded bytes; none for a text-only record."
    question: str
    'What was asked, last; "" for captions.'
    ranked: list[str]
    "The candidates, best first; no ties."
    dimensions: list[str] = field(default_factory=list)
    "The quality dimensions in which the candidates differ as ranked, where that is known."
    ratings: list[dict[str, float]] | None = None
    "For each candidate, in the order of `ranked`, {dimension: rating}, where a judge gave them."
    margin: float | None = None
    "By how much each better candidate should outscore each worse one, at least (Llama 2, arXiv 2307.09288, eq. 2)."
    source: str = ""
    "Where it came from: the file's stem unless the row says otherwise."
    id: str = ""
    "Unique within its source: the row's own, else its number in the file."
    before: list[dict[str, str]] = field(default_factory=list)
    'Turns {"role", "content"} before the question, of user and assistant; all candidates share them.'

    @property
    def asked(self) -> list[dict[str, str]]:
        """All turns that the candidates answer."""
        return [*self.before, {"role": "user", "content": self.question}]

    def exchanges(self) -> list[Exchange]:
        """What the score model reads: the images and what was asked, with each candidate, best first."""
        texts = ({"role": "assistant", "content": text} for text in self.ranked)
        return [Exchange((*self.asked, text), tuple(self.images)) for text in texts]


Check = Callable[[Preference], None]
"""Raises RowFault for a record that a stage cannot take; with `identity`, as that of samples (`samples.reading`)."""


def read(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    text_only: bool = False,
    on_fault: Literal["error", "skip"] = "error",
    faults: Faults | None = None,
    verify_images: bool = True,
    outside: bool = False,
    columns: Mapping[str, str] | None = None,
    check: Check | None = None,
    raster: RasterSection | None = None,
) -> Iterator[Preference]:
    """Preferences of a file, in order.

    images: the folder that image names start from (default: the file's own). text_only: leave images out. on_fault:
    "skip" leaves faulty rows out and counts them in `faults`. verify_images: open every image's header. outside: rows
    may name images anywhere (`samples.readers.rows.Place`). columns: our name of a key ← the file's. check: raises
    RowFault for records that the caller cannot take. raster: how rasters are read.

    Raises: DataError, immediately for the file or its layout; while iterating for a faulty row (naming file, row and
    field), or at the end where no row was good.
    """
    path = Path(path)
    if on_fault not in ("error", "skip"):
        raise ValueError(f"on_fault is 'error' or 'skip', not {on_fault!r}")
    if images is not None and not os.path.isdir(images):
        raise DataError(f"{path}: the image folder {str(images)!r} does not exist")
    rows = Parquet(path) if Parquet.holds(path) else Rows(path)
    names = columns or {}
    check_names(names, islice(rows.good(), FIRST), path)
    layout = _layout(rows, path, names)
    ours = layout == "ranked" and isinstance(rows, Rows)
    faults = Faults() if faults is None else faults
    place = Place(path, images, outside, ours, raster)
    reader = _Reader(place, layout, text_only, verify_images, names, check, faults)
    return _preferences(rows, reader, on_fault, faults)


def collect(
    sources: Iterable[Any],
    on_fault: Literal["error", "skip"],
    role: str,
    check: Check | None = None,
    cache: str | None = None,
) -> Drawn[Preference]:
    """All preferences of a recipe's sources (`rewards.score.training.recipe.PreferenceSource`), each cut to its limit.

    They are read from tables (`samples.store`), which the first process of a node writes. cache: `data.cache`.
    Raises: DataError for a faulty row (under `error`).
    """
    tables = []
    for source in sources:
        key = _key(source, on_fault, check, cache)
        table = kept(key, partial(_build, source, on_fault, check), CODEC, _still)
        if staying := table.about["staying"]:
            say(f"{source.path}: columns that are not read: {', '.join(staying)}")
        if table.about["faults"]:
            logger.warning("data.%s: %s: %s", role, source.path, table.about["faults"])
        tables.append((table, range(len(table))))
    return Drawn(tables)


def _build(source: Any, on_fault: Literal["error", "skip"], check: Check | None, writer: Writer) -> dict[str, Any]:
    faults, digest = Faults(), RecordDigest(Path(source.path).parent.absolute())
    for record in islice(of_source(source, on_fault, faults, check=check), source.limit):
        digest.see(record)
        writer.add(record)
    said = str(faults) if faults.skipped else ""
    return {"staying": list(faults.staying), "faults": said, "digest": digest.hex()}


def _key(source: Any, on_fault: str, check: Check | None, cache: str | None) -> Key | None:
    """None for a check that does not say what it refuses."""
    if not Path(source.path).is_file() or not (check is None or isinstance(check, Identified)):
        return None
    settings = {
        "preferences": source.path,
        "images": source.images and os.path.abspath(source.images),
        "raster": source.reading and source.reading.model_dump(mode="json"),
        "on_fault": on_fault,
        "check": check and check.identity,
        "pixels": pictures.limit(),
    }
    names = ("text_only", "outside", "columns", "limit", "name")
    return Key(Path(source.path), settings | {name: getattr(source, name) for name in names}, cache)


def _still(record: Preference) -> bool:
    """Whether its pictures can be read."""
    try:
        for image in record.images:
            if isinstance(image, str):
                pictures.size(image)
    except DataError:
        return False
    return True


def _remembered(found: dict[str, Any]) -> Preference:
    return Preference(**found)


CODEC = Codec(_remembered, lambda record: ())
"""Preferences in tables, of which no stage asks more than the records."""


def of_source(
    source: Any,
    on_fault: Literal["error", "skip"],
    faults: Faults,
    verify_images: bool = True,
    check: Check | None = None,
) -> Iterator[Preference]:
    """`read` of a recipe's source, its limit aside."""
    found = read(
        source.path,
        source.images,
        source.text_only,
        on_fault,
        faults,
        verify_images,
        source.outside,
        source.columns,
        check,
        source.reading,
    )
    return found if source.name is None else (replace(record, source=source.name) for record in found)


def say_unread(source: Any, faults: Faults) -> None:
    """Say once which keys of a source are not read."""
    if faults.staying:
        say(f"{source.path}: columns that are not read: {', '.join(faults.staying)}")


def write(path: str | os.PathLike[str], preferences: Iterable[Preference]) -> int:
    """Preferences as our own JSONL; returns how many. Images below the file's folder are written relative to it.

    The file appears whole or not at all.
    """
    path, count = Path(path), 0
    with replacing(path) as file:
        for preference in preferences:
            file.write(line(preference, path.parent.absolute()))
            count += 1
    return count


def line(preference: Preference, folder: Path) -> bytes:
    """One record as a line of our JSONL in `folder` (absolute)."""
    row: dict[str, Any] = {"images": [image_name(image, folder) for image in preference.images]}
    row |= {"messages": preference.asked} if preference.before else {"question": preference.question}
    row["ranked"] = preference.ranked
    for name in ("dimensions", "ratings", "margin", "source", "id"):
        if (value := getattr(preference, name)) not in (None, "", []):
            row[name] = value
    return encoded(row) + b"\n"


def _layout(rows: Rows | Parquet, path: Path, names: Mapping[str, str]) -> str:
    """A key of LAYOUTS, by the first row that holds one. names: as in `samples.readers.keys.renamed`."""
    for row in (renamed(row, names) for row in rows.good()):
        if found := [key for key in LAYOUTS if key in row]:
            return found[0]
    if isinstance(rows, Rows) and (wrong := rows.wrong()) is not None:
        raise DataError(f"{path}: no row is an object; {wrong}")
    keys = ", ".join(map(str, next(rows.good(), {}))) or "none"
    layouts = "".join(f"\n  {text}" for text in LAYOUTS.values())
    raise DataError(f"{path}: no preferences (keys of the first row: {keys}); layouts are:{layouts}")


def _preferences(rows: Rows | Parquet, reader: _Reader, on_fault: str, faults: Faults) -> Iterator[Preference]:
    for records in good_rows(rows, lambda row, number: reader.records(row, f"#{number}"), on_fault, faults):
        yield from records
    if not faults.kept:
        raise DataError(
            f"{rows.path}: all {faults.skipped} rows are faulty; {next(iter(faults.examples.values()), '')}"
        )


def good_rows(
    rows: Rows | Parquet,
    convert: Callable[[dict[str, Any], int], T],
    on_fault: str,
    faults: Faults,
    limit: int | None = None,
) -> Iterator[T]:
    """What `convert(row, number)` makes of the rows, or of the first `limit`; those it raises a RowFault for are left
    out and counted, or end it. Raises: DataError naming file, row and field."""
    for number, row in islice(rows, limit):
        faults.rows += 1
        try:
            if isinstance(row, RowFault):
                raise row
            found = convert(row, number)
        except RowFault as fault:
            message = f"{rows.path}, {rows.unit} {number}, {fault}"
            if on_fault == "error":
                raise DataError(message) from fault
            faults.add(fault.kind, message)
            continue
        faults.kept += 1
        yield found


@dataclass
class _Reader:
    """Rows of one file → checked records."""

    place: Place
    layout: str
    text_only: bool
    verify: bool
    names: Mapping[str, str]
    check: Check | None
    faults: Faults

    def records(self, row: dict[str, Any], number: str) -> list[Preference]:
        """The records of a row: one, or for several chosen or rejected texts one per pair of them."""
        found = self._records(renamed(row, self.names), number)
        for record in found if self.check is not None else ():
            self.check(record)
        return found

    def _records(self, row: dict[str, Any], number: str) -> list[Preference]:
        self.faults.staying.update(dict.fromkeys(layouts.check_keys(row, self.text_only)))
        named = [] if self.text_only else self._images(row)
        if self.verify:
            for image in named:
                self.place.size(image)
        turns, sides_of = layouts.asked(row if self.layout == "ranked" else _unranked(row))
        for turn in turns:
            valid_text("question", turn["content"])
        turns = layouts.without_pictures(turns) if self.text_only else settled(turns, len(named), "question")
        common = {
            "images": named,
            "question": turns[-1]["content"],
            "before": turns[:-1],
            "dimensions": _texts(row.get("dimensions") or [], "dimensions"),
            "margin": _margin(row.get("margin")),
            "source": valid_text("source", row.get("source") or self.place.path.stem),
        }
        own = str(row.get("id") if row.get("id") not in (None, "") else number)
        if self.layout == "ranked":
            texts = _ranked(_texts(row.get("ranked"), "ranked"))
            return [Preference(ranked=texts, ratings=_ratings(row.get("ratings"), texts), id=own, **common)]
        assert sides_of is not None  # only `ranked` has none
        sides = [_texts(getattr(sides_of, side), side, alone=True) for side in ("chosen", "rejected")]
        pairs = [_ranked(list(pair)) for pair in product(*sides)]
        if not pairs:
            raise RowFault("missing_field", "rejected", "no texts", "at least one chosen and one rejected text")
        ids = [own] if len(pairs) == 1 else [f"{own}.{n}" for n in range(1, len(pairs) + 1)]
        return [Preference(ranked=pair, id=name, **common) for pair, name in zip(pairs, ids, strict=True)]

    def _images(self, row: dict[str, Any]) -> list[str | bytes]:
        key, names = layouts.named_images(row)
        if self.layout == "ranked":
            self.place.check(names)
            return [self.place.image(name) for name in names]
        return [self._image(key, name) for name in names]

    def _image(self, key: str, value: Any) -> str | bytes:
        if isinstance(value, bytes):  # a parquet's cell
            return self.place.image(value)
        if isinstance(value, str) and value.startswith("data:"):
            return self.place.image(value)
        name, stem = valid_text(key, value), self.place.path.stem
        whole: list[str | Path] = []
        try:  # a parquet keeps the path that the image had where the table was made, of which the name is left
            whole = [Path(stem, name), name] if self.place.reaches(name) else []
            return self.place.find(*whole, Path(stem, Path(name).name))
        except RowFault as fault:
            tried = f"{name!r} (below {self.place.root} and {self.place.root / stem})"
            cause = self.place.cause(*whole, Path(stem, Path(name).name))
            expected = f"an image file that exists{cause}; `text_only: true` on the source scores without pictures"
            raise RowFault("missing_image", key, tried, expected) from fault


def _unranked(row: dict[str, Any]) -> dict[str, Any]:
    """A file has one layout: `ranked` in a row of another one is not read."""
    return {key: value for key, value in row.items() if key != "ranked"}


def _texts(value: Any, name: str, alone: bool = False) -> list[str]:
    """A list of texts; with `alone`, a bare text counts as one."""
    expected = "a text or a list of texts" if alone else "a list of texts"
    if value is None:
        raise RowFault("missing_field", name, "none", expected)
    if alone and isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RowFault("wrong_type", name, show(value), expected)
    for text in value:
        if "<image>" in text:
            raise RowFault("image_tag", name, show(text), "no <image> tags: pictures stand in the question")
    return [valid_text(name, text) for text in value]


def _ranked(texts: list[str]) -> list[str]:
    if len(texts) < 2:
        raise RowFault("missing_field", "ranked", show(texts), "two or more texts, best first")
    if len(set(texts)) < len(texts):
        raise RowFault("same_text", "ranked", show(texts), "different texts: equal ones cannot be ranked")
    if blank(texts[0]):
        raise RowFault("missing_field", "ranked", show(texts), "a best text that says something")
    return texts


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _margin(value: Any) -> float | None:
    if value is None:
        return None
    if not _number(value) or value < 0:
        raise RowFault("wrong_type", "margin", show(value), "a number, 0 or more")
    return float(value)


def _ratings(value: Any, texts: list[str]) -> list[dict[str, float]] | None:
    if value is None:
        return None
    expected = f"for each of the {len(texts)} texts a mapping of dimensions to numbers"
    if not isinstance(value, list) or len(value) != len(texts) or not all(isinstance(one, dict) for one in value):
        raise RowFault("wrong_type", "ratings", show(value), expected)
    if not all(_number(rating) for one in value for rating in one.values()):
        raise RowFault("wrong_type", "ratings", show(value), expected)
    return [{name: float(rating) for name, rating in one.items()} for one in value]
