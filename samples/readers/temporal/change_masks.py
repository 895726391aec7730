"""LEVIR-CD and LEVIR-MCI: pairs of pictures, and a mask of what has changed from the first to the second.

LEVIR-CD (Chen and Shi 2020), as wgcban/ChangeFormer (datasets/CD_dataset.py at 625e4c4) and likyoo/open-cd
(opencd/datasets/levir_cd.py at 3202789) read it: a folder with `<split>/{A,B,label}/<name>.png`, or, cut to tiles, with
`{A,B,label}` and `list/<split>.txt` of names. A label's pixels are 0 where nothing changed and 255 where something did.

LEVIR-MCI (Liu et al. 2024, arXiv 2403.19646), as Chen-Yang-Liu/Change-Agent reads it (Multi_change/data/LEVIR_MCI.py at
b3cfc9a; names of classes: compute_object_num in Multi_change/predict.py at 2650a07): LEVIR-CC's folder, with
`images/<split>/label/` beside `A` and `B`. A label's first channel is 0 where nothing changed, 128 where a road and 255
where a building did. (Its loader replaces every "A" in a path; here the folder is.) Each pair is two questions, `kind`
"road" and "building", whose masks may be empty. Its captions are read as `captions` from LevirCCcaptions.json.

Masks are of the first picture; the second covers the same ground, and must be of its size.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from samples.readers import masks
from samples.readers.look import Look, files
from samples.readers.records import record
from samples.readers.rows import Place, RowFault
from vlm.common.errors import DataError
from vlm.masks import runs_of
from vlm.pictures import rasters

CAPTIONS = "LevirCCcaptions.json"
SPLITS = ("train", "val", "test")
CHANGE = {255: ("change", "what has changed from the first image to the second")}
CLASSES = {
    128: ("road", "the roads that have changed from the first image to the second"),
    255: ("building", "the buildings that have changed from the first image to the second"),
}
"""Value in a label → kind, and what is asked for."""


def fits_cd(look: Look) -> bool:
    return look.is_folder and not (look.path / CAPTIONS).is_file() and bool(_pairs(look.path))


def fits_mci(look: Look) -> bool:
    return look.is_folder and (look.path / CAPTIONS).is_file() and bool(_pairs(look.path / "images"))


def walk_cd(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    for where, name, row in _walked(look, look.path):
        yield where, row | {"classes": CHANGE, "id": name}


def walk_mci(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    for where, name, row in _walked(look, look.path / "images"):
        for value, about in CLASSES.items():
            yield f"{where}, {about[0]}", row | {"classes": CLASSES, "value": value, "id": f"{name}/{about[0]}"}


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    first, second, label = (place.find(path) for path in row["paths"])
    size, other = place.size(first), place.size(second)
    if size != other:
        found = f"{second} of {other[0]} x {other[1]} pixels"
        raise RowFault("size_mismatch", "images", found, f"the first picture's {size[0]} x {size[1]}")
    classes = row["classes"]
    value = row.get("value", max(classes))
    values = _values(str(rasters.plain(label)), size, classes)
    kind, asked = classes[value]
    more = {"images": [first, second], "mask": runs_of(values == value), "id": row["id"], "kind": kind}
    return record(None, asked, task or "segmentation", **more)


def _values(path: str, size: tuple[int, int], classes: dict[int, Any]) -> np.ndarray:
    """(height, width) values of a label. Raises: RowFault for another size, or for values that its set lacks."""
    values = masks.values_of(path, "label")
    if values.shape != size[::-1]:
        found = f"{path} of {values.shape[1]} x {values.shape[0]} pixels"
        raise RowFault("size_mismatch", "label", found, f"the first picture's {size[0]} x {size[1]}")
    others = sorted(set(np.unique(values).tolist()) - {0, *classes})
    if others:
        names = ", ".join(f"{value} ({kind})" for value, (kind, _) in classes.items())
        found = f"{path} with the values {', '.join(map(str, others[:5]))}"
        raise RowFault("mask", "label", found, f"0 (no change), {names}")
    return values


def _pairs(folder: Path) -> dict[str, Path]:
    """Split → the folder with its A, B and label; "" for one whose `list/` names the splits."""
    found = {split: folder / split for split in SPLITS if _is_pair(folder / split)}
    return found or ({"": folder} if _is_pair(folder) else {})


def _is_pair(folder: Path) -> bool:
    return all((folder / side).is_dir() for side in ("A", "B", "label"))


def _walked(look: Look, folder: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(file in words, its split and name, paths) of the split that is asked for, or of the one that there is.

    Raises: DataError for none, or several of which none is named.
    """
    pairs = _pairs(folder)
    lists = {path.stem: path for path in files(folder / "list", ".txt")} if (folder / "list").is_dir() else {}
    there = list(pairs) if "" not in pairs else list(lists) or [""]
    split = look.split if look.split is not None else there[0] if len(there) == 1 else None
    if split not in there:
        said = "no split" if look.split is None else f"the split {look.split!r}"
        raise DataError(f"{look.path}: found {said}, expected one of {', '.join(there) or 'none'}: `split:` names it")
    home = pairs.get(split, folder)
    if "" in pairs and lists:
        try:
            names = [line.split()[0] for line in lists[split].read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{lists[split]}: cannot be read ({error})") from error
    else:
        names = [path.name for path in files(home / "A", "")]
    if missing := [name for name in names if "/" in name or ".." in name]:
        raise DataError(f"{lists[split]}: found {missing[0]!r}, expected names of files in {home / 'A'}")
    for name in names:
        label = Path(name).with_suffix(".png").name if name.lower().endswith((".jpg", ".jpeg")) else name
        paths = [home / "A" / name, home / "B" / name, home / "label" / label]
        yield f"file {name}", f"{split}/{name}" if split else name, {"paths": paths}
