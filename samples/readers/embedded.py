"""Pictures that stand in the rows of a table, as files: for sets whose pictures together are larger than memory.

XLRS-Bench-lite embeds some 40 GB. A run holds the rows that it uses, so it would hold them all; and regions of a large
picture are read from a file.

    <cache>/embedded/<SHA-256 of the bytes>.png       (or as its first bytes say)

Files appear whole or not at all, and are written once; the folder may be deleted when nothing runs. The cache is
NADIR_CACHE, else `~/.cache/nadir`.
"""

from __future__ import annotations

import hashlib

from samples.store import content
from vlm.common import files
from vlm.common.errors import DataError

SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"II*\x00": ".tif", b"MM\x00*": ".tif", b"RIFF": ".webp"}
"""First bytes → the name's end, for people: pictures are opened by their bytes."""


def file(picture: bytes) -> str:
    """The file of an encoded picture; written where it is not there. Raises: DataError where it cannot be."""
    folder = content.home() / "embedded"
    end = next((suffix for start, suffix in SUFFIXES.items() if picture.startswith(start)), "")
    place = folder / f"{hashlib.sha256(picture).hexdigest()}{end}"
    try:
        if not place.is_file() or place.stat().st_size != len(picture):
            folder.mkdir(parents=True, exist_ok=True)
            files.replace(place, picture)
    except OSError as error:
        raise DataError(
            f"{place}: cannot be written ({error}); pictures that stand in the rows of this table go into files there. "
            "Make room, or name another folder in NADIR_CACHE"
        ) from error
    return str(place)
