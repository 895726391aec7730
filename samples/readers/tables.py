"""Rows of tables: parquet files, and datasets of the Hugging Face hub through `datasets`.

Both give what `Rows` gives: (number, row). An image column of bytes or of {bytes, path} becomes bytes or the path, so
the formats of JSON files read tables alike. Tables are streamed: they may be larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.rows import RowFault, show
from vlm.common.errors import DataError

MAGIC = b"PAR1"
BATCH = 64
"""Rows decoded at a time; each may hold a whole image."""
IMAGES = ("image", "images")
"""Columns that may hold encoded pictures."""
PICTURE = "jpg"
"""EarthDial's column of the picture."""
HUB = "hub:"
"""How a path says that it is a dataset's id (or the folder of a copy of it)."""


class Parquet:
    """The rows of a parquet file, counting from 1.

    Raises: DataError where the file cannot be read, also while iterating: a damaged page has no rows.
    """

    unit, is_list, key = "row", True, None

    def __init__(self, path: Path):
        from pyarrow import ArrowException, parquet

        self.path = path
        try:
            self.columns = parquet.read_schema(path).names
        except (OSError, ValueError, ArrowException) as error:
            raise DataError(f"{path}: a parquet file that cannot be read ({_line(error)})") from error

    @staticmethod
    def holds(path: Path) -> bool:
        """Whether `path` is a parquet file, by its first bytes; False where it cannot be opened."""
        try:
            with path.open("rb") as file:
                return file.read(len(MAGIC)) == MAGIC
        except (OSError, ValueError):
            return False

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        return ((number, _flat(row)) for number, row in self._rows(self.columns))

    def good(self) -> Iterator[dict[str, Any]]:
        """The rows without their images."""
        return (row for _, row in self._rows([name for name in self.columns if name not in IMAGES]))

    def _rows(self, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        from pyarrow import ArrowException, parquet

        number = 0
        try:
            with parquet.ParquetFile(self.path, pre_buffer=False) as file:
                for batch in file.iter_batches(BATCH, columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (OSError, ValueError, OverflowError, ArrowException) as error:
            raise DataError(f"{self.path}: cannot be read behind row {number} ({_line(error)})") from error


def saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of `datasets`, one table or several splits."""
    one = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return one or (folder / "dataset_dict.json").is_file()


class Hub:
    """The rows of a dataset by its id, `OWNER/NAME` or `OWNER/NAME/CONFIGURATION`, or of a folder that holds a copy.

    A folder may also be one that `save_to_disk` wrote (`saved`), as EarthDial publishes its sets: there the picture is
    the column `jpg`, and `conversations` is a list of turns as JSON text.

    split: needed where the dataset has several. What was downloaded once is read without a network.
    """

    unit, is_list, key = "row", True, None

    def __init__(self, name: str, split: str | None = None):
        import datasets

        self.name = name.removeprefix(HUB)
        self.path = Path(name)
        folder = Path(self.name)
        parts = self.name.split("/")
        configuration = "/".join(parts[2:]) or None if not folder.exists() else None
        where = self.name if folder.exists() else "/".join(parts[:2])
        try:
            if saved(folder):
                found = datasets.load_from_disk(self.name)
                if isinstance(found, datasets.DatasetDict) and split is not None:
                    if split not in found:
                        raise ValueError(f"it has the splits {', '.join(map(str, found))}, not {split}")
                    found = found[split]
                elif split is not None:
                    raise ValueError(f"it is one table without splits, and split {split} was asked for")
            else:
                found = datasets.load_dataset(where, configuration, split=split)
        except Exception as error:  # OSError, ValueError, its own and the hub client's: whatever hinders the loading
            hint = "expected the id or folder of a dataset that is here or can be downloaded, and a split that it has"
            raise DataError(f"{name}: cannot be loaded ({type(error).__name__}: {_line(error)}); {hint}") from error
        if isinstance(found, datasets.DatasetDict):
            if len(found) > 1:
                raise DataError(f"{name}: has the splits {', '.join(map(str, found))}; name one of them: `split:`")
            found = next(iter(found.values()))
        if saved(folder) and PICTURE in found.column_names and not {*IMAGES} & {*found.column_names}:
            found = found.rename_column(PICTURE, IMAGES[0])
        self._data = _encoded(found)
        self.columns = list(self._data.column_names)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        return ((number, _flat(row)) for number, row in enumerate(self._data, 1))

    def good(self) -> Iterator[dict[str, Any]]:
        """The rows without their images."""
        rows = map(_flat, self._data.remove_columns([name for name in self.columns if name in IMAGES]))
        return (row for row in rows if not isinstance(row, RowFault))


def _encoded(data: Any) -> Any:
    """The dataset with pictures left as {bytes, path}: they are decoded where they are used."""
    import datasets

    for name, feature in data.features.items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            data = data.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return data


def _flat(row: dict[str, Any]) -> dict[str, Any] | RowFault:
    """The row with its images as bytes or paths, and its turns as a list."""
    if isinstance(said := row.get("conversations"), str):
        try:
            row["conversations"] = json.loads(said)
        except (ValueError, RecursionError) as error:
            return RowFault("json", "conversations", f"{show(said)} ({error})", "a list of turns as JSON text")
    try:
        for name in IMAGES:
            if (value := row.get(name)) is not None:
                row[name] = [picture(name, one) for one in value] if isinstance(value, list) else picture(name, value)
    except RowFault as fault:
        return fault
    return row


def picture(name: str, value: Any) -> bytes | str:
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if not isinstance(value, bytes | str):
        raise RowFault("wrong_type", name, show(value), "encoded bytes, a path, or {bytes, path}")
    return value


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
