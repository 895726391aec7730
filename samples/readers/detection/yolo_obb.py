"""YOLO-OBB (Ultralytics): a text file an image, classes as numbers, which the dataset's YAML names.

    DOTAv1.yaml              path: DOTAv1
                             train: images/train
                             names: {0: plane, 1: ship, 2: storage tank}     or a list
    images/train/P0001.png
    labels/train/P0001.txt   1 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4               class, corners as shares of the picture

(ultralytics/ultralytics, ultralytics/data/utils.py at 00bfe34: img2label_paths, verify_image_label, check_det_dataset;
ultralytics/cfg/datasets/DOTAv1.yaml at e5bafed.) The order of classes is the YAML's own: Ultralytics' order of DOTA is
not mmrotate's. So labels without a YAML are refused.

`path` is the YAML, or a folder with exactly one that has `names`; `split` is `train`, `val` or `test`. Pictures are
looked for below the YAML's folder, or below its `path` there. A YAML that leads elsewhere is refused, for a downloaded
file must not choose what is read. A picture without a label file has no objects, as for Ultralytics. Coordinates may be
beyond the picture by 1%, as there; more is a fault.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from samples.readers.checks import AROUND, surrounds
from samples.readers.detection import objects
from samples.readers.detection.objects import Found, Labelled
from samples.readers.encoding import undecoded
from samples.readers.look import Look, files
from samples.readers.rows import SUFFIXES, Place, RowFault, show
from vlm.common.errors import DataError

SPLITS = ("train", "val", "test")
ENDINGS = (".yaml", ".yml")
BEYOND = 0.01
"""Share of the picture by which coordinates may lie outside of it (verify_image_label)."""
LARGEST = 1 << 20
"""Bytes of a YAML."""
LINE = "class x1 y1 x2 y2 x3 y3 x4 y4, the corners as shares of the picture"


def fits(look: Look) -> bool:
    return _yaml(look) is not None


def odd(look: Look) -> str | None:
    """Why a folder of YOLO's labels is not read; None for other folders."""
    if not look.is_folder or not _numbered(look.path):
        return None
    expected = (
        "the dataset's YAML with `names` (path: DOTAv1.yaml): which number is which class differs between projects"
    )
    return _doubtful(look) or f"{look.path}: found labels of YOLO, whose classes are numbers, expected {expected}"


def _numbered(path: Path) -> bool:
    """Whether labels lie in a folder or below it whose objects are numbers and shares."""
    below = (path / "labels", *sorted(path.glob("*/")), *sorted((path / "labels").glob("*/")))
    for folder in (path, *below):
        for label in files(folder, ".txt", 3) if folder.is_dir() else []:
            first = next((one for _, one in _lines(label, {})), None)
            if isinstance(first, RowFault) and first.kind == "missing_field":
                return True
    return False


def _doubtful(look: Look) -> str | None:
    """What is wrong with the YAMLs that are there; None where there is none."""
    paths, said = _yamls(look), []
    for path in paths:
        try:
            _loaded(path)
        except DataError as error:
            return str(error)
        said += [path.name] if _said(path) is not None else []
    if len(said) > 1:
        return f"{look.path}: found the YAMLs {', '.join(said)}, expected one: point `path` at it"
    names = ", ".join(path.name for path in paths)
    return f"{look.path}: found {names} without `names` and `train`, expected the dataset's YAML" if paths else None


def walk(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(file, a picture), or (file and line, what is no object)."""
    there = _yaml(look)
    if there is None:
        none = f"{look.path}: found no YAML, expected the dataset's YAML with `names`, or its folder"
        raise DataError(_doubtful(look) or odd(look) or none)
    path, stated = there
    names = _names(path, stated)
    classes = objects.all_classes(look, lambda: names.values())
    home = look.path if look.is_folder else look.path.parent
    for folder in _pictures(look, path, stated):
        for picture in _below(folder):
            place = picture.relative_to(home)
            label, name = _label(picture), place.with_suffix("").as_posix()
            found = ((f"{label.name}, line {number}", one) for number, one in _lines(label, names))
            yield from objects.pictured(f"picture {place}", str(place), found, classes, id=name)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    size = place.size(place.seek(row["image"]))
    found = [one._replace(shape=[x * size[n % 2] for n, x in enumerate(one.shape)]) for one in row["objects"]]
    return objects.convert(row | {"objects": found}, place, task)


def _yaml(look: Look) -> tuple[Path, dict[str, Any]] | None:
    """The dataset's YAML and what it says; None where there is none, or several."""
    found = [(path, said) for path in _yamls(look) if (said := _said(path)) is not None]
    return found[0] if len(found) == 1 else None


def _yamls(look: Look) -> list[Path]:
    if look.is_hub:
        return []
    if look.is_folder:
        return [path for ending in ENDINGS for path in files(look.path, ending)]
    return [look.path] if look.path.suffix in ENDINGS else []


def _said(path: Path) -> dict[str, Any] | None:
    """What a YAML says that has names and pictures; None for another."""
    try:
        said = _loaded(path)
    except DataError:
        return None
    return said if isinstance(said, dict) and "names" in said and any(name in said for name in SPLITS) else None


def _loaded(path: Path) -> Any:
    """Raises: DataError for a file that is no YAML, or in which a key stands twice."""
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: found more than {LARGEST} bytes, expected the YAML of a dataset")
        return _Loader(path.read_text("utf-8")).get_single_data()
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(
            f"{path}: found no YAML ({' '.join(str(error).split())}), expected that of a dataset"
        ) from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := [key for place, key in enumerate(keys) if key in keys[:place]]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _names(path: Path, said: dict[str, Any]) -> dict[int, str]:
    """Number of a class → what it is, in words. Raises: DataError naming the YAML."""
    names = said["names"]
    named = dict(enumerate(names)) if isinstance(names, list) else names
    expected = "expected a list of classes, or their numbers with them: {0: plane, 1: ship}"
    if not isinstance(named, dict) or not named or not all(type(number) is int for number in named):
        raise DataError(f"{path}, names: found a {type(names).__name__}, {expected}")
    found = {}
    for number, name in named.items():
        if not isinstance(name, str):  # and not shown: a few aliases of YAML can be a text of any length
            raise DataError(f"{path}, names[{number}]: found a {type(name).__name__}, {expected}")
        words = objects.in_words(name, f"names[{number}]")
        if isinstance(words, RowFault):
            raise DataError(f"{path}, {words}")
        found[number] = words
    return found


def _pictures(look: Look, path: Path, said: dict[str, Any]) -> list[Path]:
    """The folders of pictures of the split. Raises: DataError where they are not here, or it is not said which."""
    there = [name for name in SPLITS if said.get(name)]
    if look.split is None and len(there) != 1:
        raise DataError(f"{path}: has the splits {', '.join(there) or 'none'}; name one by `split:`")
    split = look.split or there[0]
    if split not in there:
        raise DataError(f"{path}: found the split {split!r}, expected one of {', '.join(there) or 'none'}")
    parts = said[split] if isinstance(said[split], list) else [said[split]]
    root = str(said.get("path") or "")
    homes = [path.parent, *([path.parent / root] if _inside(root) else []), path.parent / Path(root).name]
    found = []
    for part in parts:
        if not isinstance(part, str) or not _inside(part):
            part = part if isinstance(part, str) else type(part).__name__
            expected = f"a folder below {path.parent}: put the YAML into the dataset's folder"
            raise DataError(f"{path}, {split}: found {show(part)}, expected {expected}")
        folder = next((home / part for home in homes if (home / part).is_dir()), None)
        if folder is None:
            hint = " (lists of pictures are not read)" if part.endswith(".txt") else ""
            raise DataError(f"{path}, {split}: found {part!r}, expected a folder of pictures below {path.parent}{hint}")
        found.append(folder)
    return found


def _inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in Path(name).parts


def _below(folder: Path) -> list[Path]:
    """All pictures below a folder."""
    found = [
        Path(above) / name for above, _, names in os.walk(folder) for name in names if name.lower().endswith(SUFFIXES)
    ]
    return sorted(found)


def _label(picture: Path) -> Path:
    """The label file of a picture: the last `images` of its path is `labels`."""
    parts = list(picture.parts)
    places = [place for place, name in enumerate(parts[:-1]) if name == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _lines(path: Path, names: dict[int, str]) -> Iterator[tuple[int, Found]]:
    """The objects of a label file, corners as shares of the picture; none where it is not there."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(data.splitlines(), 1):
        try:
            said = line.decode().strip()
        except UnicodeDecodeError as error:
            yield number, RowFault("encoding", "(whole line)", undecoded(path, line, error), "UTF-8")
            continue
        if said:
            yield number, _object(said, names)


def _object(said: str, names: dict[int, str]) -> Found:
    parts = said.split()
    try:
        shares = [float(part) for part in parts[1:]]
        right = len(parts) == 9 and parts[0].isdecimal() and len(parts[0]) < 6
    except ValueError:
        right, shares = False, []
    if not right:
        return RowFault("wrong_type", "(whole line)", show(said), LINE)
    if not all(-BEYOND <= share <= 1 + BEYOND for share in shares):
        return RowFault("box_outside", "(whole line)", show(said), f"{LINE}: 0 to 1")
    if (label := names.get(int(parts[0]))) is None:
        return RowFault("missing_field", "class", parts[0], f"a number that the YAML names, {show(sorted(names))}")
    if not surrounds(shares):  # which holds in pixels as it does in shares
        return RowFault("box_inverted", "(whole line)", show(said), AROUND)
    return Labelled(label, shares)
