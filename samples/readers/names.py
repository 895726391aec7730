"""Why a file that a row names is not there: another case, another Unicode form, blanks, backslashes, an address.

A name is taken as it is written; the cause is told, so that the row or the file can be renamed.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

ADDRESS = re.compile(r"\b(file|https?|ftp|s3|gs|hf|oss):/{1,3}(?=[^/])")
LISTED = 1 << 18
"""Names of a folder that are looked through."""
FOLDERS = 16
"""Folders whose names are kept: with `on_fault: skip`, many rows may ask for the same one."""


class Names:
    """The names in folders, by what remains of them when writing does not count."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, list[str]]] = {}

    def cause(self, candidates: Iterable[str], root: str) -> str | None:
        """What is there instead of files that are not, or what of their name cannot be a file's; None for nothing.

        candidates: names as rows have them, below `root` where they are relative.
        """
        candidates = list(candidates)
        for name in candidates:
            if address := ADDRESS.search(name):
                if address[1] == "file":
                    return f"a path is written without 'file:', such as {'/' + name[address.end() :]!r}"
                return "an address: pictures are not fetched; download it and name the file (images: FOLDER)"
        for name in candidates:
            if (found := self.near(os.path.join(root, name))) is not None:
                return f"there is one named {found[0]!r} ({found[1]})"
        return None

    def near(self, path: str) -> tuple[str, str] | None:
        """(a path that is there, how it differs in writing from this one, which is not there); None where none is."""
        plain, ways = path, []
        if "\\" in path:
            plain, ways = path.replace("\\", "/"), ["backslashes"]
        parts = Path(os.path.normpath(plain)).parts
        found = parts[0] if parts else ""
        for part in parts[1:]:
            if os.path.lexists(os.path.join(found, part)):
                found = os.path.join(found, part)
                continue
            names = self._listed(found).get(_key(part), [])
            if len(names) != 1:
                return None
            ways += [way for way in _ways(part, names[0]) if way not in ways]
            found = os.path.join(found, names[0])
        return (found, ", ".join(ways)) if ways and os.path.isfile(found) else None

    def _listed(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._folders:
            if len(self._folders) >= FOLDERS:
                self._folders.clear()
            names: dict[str, list[str]] = {}
            try:
                with os.scandir(folder) as entries:
                    for entry, _ in zip(entries, range(LISTED), strict=False):
                        names.setdefault(_key(entry.name), []).append(entry.name)
            except OSError:
                pass  # what cannot be listed holds nothing that could be named
            self._folders[folder] = names
        return self._folders[folder]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()


def _ways(said: str, there: str) -> list[str]:
    """How two names of the same key differ."""
    found = []
    if said.strip() != said or there.strip() != there:
        found.append("blanks at the ends")
    said, there = said.strip(), there.strip()
    if said != there:
        whole, other = unicodedata.normalize("NFC", said), unicodedata.normalize("NFC", there)
        if whole != other:
            found.append("another case")
        if (said, there) != (whole, other):
            found.append("another Unicode form, NFC or NFD")
    return found
