"""Several pictures of one place: their order in time, and which of many a row shows.

A date is a day, a month or a year: "2019-04-02", "2019-04", "2019". Rows keep the order of the data wherever some of
their pictures have none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any, TypeVar

from samples.readers.rows import LeftOut, Place, RowFault, show

T = TypeVar("T")
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")
EXPECTED = "a date such as 2019-04-02, 2019-04 or 2019 for each picture"
REORDERED = "rows name their pictures in another order than that of their dates; they are shown in the order of dates"
NUMBERED = re.compile(r"\bimages?\s+\d+", re.IGNORECASE)
"""A picture that a text names by its number."""


def day(said: Any, field: str) -> str:
    """A date in one spelling, "2019-4-2" as "2019-04-02". Raises: RowFault for one that the calendar lacks."""
    found = _DATE.fullmatch(said.strip()) if isinstance(said, str) else None
    if found is None:
        raise RowFault("wrong_type", field, show(said), EXPECTED)
    year, month, number = (int(part) if part else 1 for part in found.groups())
    try:
        whole = date(year, month, number).isoformat()
    except ValueError as error:
        raise RowFault("wrong_type", field, f"{said!r} ({error})", EXPECTED) from error
    return whole[: 4 + 3 * sum(part is not None for part in found.groups()[1:])]


def dated(pictures: Sequence[T], said: Sequence[Any], field: str, place: Place) -> tuple[list[T], list[str]]:
    """(pictures, dates) in the order of the dates; pictures of one date keep theirs.

    Raises: RowFault for another number of dates than of pictures, or for what is no date.
    """
    if len(said) != len(pictures):
        raise RowFault("wrong_type", field, f"{len(said)} dates for {len(pictures)} pictures", "one for each")
    days = [day(one, field) for one in said]
    order = sorted(range(len(days)), key=lambda number: _first(days[number]))
    if order != list(range(len(days))):
        place.told[REORDERED] += 1
    return [pictures[number] for number in order], [days[number] for number in order]


def _first(said: str) -> str:
    """The first day of a date: what only says its year comes first in it."""
    return said + "-01-01"[len(said) - 4 :]


def spread(count: int, most: int | None) -> list[int]:
    """Numbers of the pictures that are shown, of `count`: at most `most`, the first and the last among them, the others
    evenly between.

    >>> spread(5, 3), spread(10, 4), spread(3, 8)
    ([0, 2, 4], [0, 3, 6, 9], [0, 1, 2])
    """
    if most is None or count <= most:
        return list(range(count))
    return [round(step * (count - 1) / (most - 1)) for step in range(most)]


def thinned(place: Place, pictures: list[T], dates: list[str] | None, *texts: str) -> tuple[list[T], list[str] | None]:
    """What the source's `frames` leaves of a row's pictures and their dates; counted in `place.told`.

    texts: of the row. Raises: LeftOut where one names a picture by its number, for the numbers would be wrong.
    """
    kept = spread(len(pictures), place.frames)
    if len(kept) == len(pictures):
        return pictures, dates
    if named := next((found[0] for text in texts if (found := NUMBERED.search(text))), None):
        said = f"frames: {place.frames} would leave out some of {len(pictures)} pictures, and its text names {named!r}"
        raise LeftOut("frames", said)
    place.told[f"rows show {len(kept)} of their pictures (frames: {place.frames}): first, last, and between"] += 1
    return [pictures[number] for number in kept], dates and [dates[number] for number in kept]
