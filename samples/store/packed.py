"""A record as bytes and back: its fields as JSON, with encoded pictures beside them, so that none is copied as text.

JSON gives back what a row held (numbers to the last bit). Tables of parquet have more types; those have marks.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from vlm.common.errors import DataError

MARK = "\0type"
"""The one key of an object that stands for a value of another type."""
_MARKED = b'{"\\u0000type":'
_TYPES: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "bytes": (bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "timedelta": (
        timedelta,
        lambda value: str(value // timedelta(microseconds=1)),
        lambda said: timedelta(microseconds=int(said)),
    ),
    "decimal": (Decimal, str, Decimal),
    "uuid": (UUID, str, UUID),
}
"""A datetime is a date, too: it stands before."""


def _other(value: Any) -> dict[str, list[str]]:
    for name, (kind, said, _) in _TYPES.items():
        if isinstance(value, kind):
            return {MARK: [name, said(value)]}
    raise TypeError(f"a value of the type {type(value).__name__}")


def _back(found: dict[str, Any]) -> Any:
    if found.keys() == {MARK}:
        name, said = found[MARK]
        return _TYPES[name][2](said)
    return found


_encode = json.JSONEncoder(separators=(",", ":"), default=_other).encode


def pack(record: Any) -> tuple[bytes, list[bytes]]:
    """(fields that are not None, pictures in bytes) of a dataclass with `images`. Raises: DataError for other types."""
    names = record.__dataclass_fields__
    found = {name: value for name in names if (value := getattr(record, name)) is not None}
    pictures: list[bytes] = []
    for place, image in enumerate(record.images):
        if isinstance(image, bytes):
            if not pictures:
                found["images"] = list(record.images)
            found["images"][place] = len(pictures)
            pictures.append(image)
    try:
        return _encode(found).encode(), pictures
    except TypeError as error:
        raise DataError(f"{record.source}: row {record.id!r}: {error} cannot be kept in a table") from error


def unpack(packed: bytes, pictures: Callable[[int], bytes]) -> dict[str, Any]:
    """The fields that `pack` was given. pictures: its second part, by number."""
    found = json.loads(packed, object_hook=_back) if _MARKED in packed else json.loads(packed)
    if not all(isinstance(image, str) for image in found["images"]):
        found["images"] = [image if isinstance(image, str) else pictures(image) for image in found["images"]]
    return found
