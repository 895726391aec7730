"""Captions: RSICD, UCM, Sydney, RSITMD, NWPU-Captions, LEVIR-CC with several for each image; RSICap, RSIEval.

RSICD (Lu et al. 2017, arXiv 1712.07835), UCM and Sydney captions, RSITMD, one file each (`dataset_rsicd.json`,
`dataset.json`, `dataset_RSITMD.json`), in the layout of Karpathy's splits of COCO:

    {"images": [{"filename": "a.tif", "split": "test", "imgid": 3, "sentids": [15],
                 "sentences": [{"raw": "A dam .", "tokens": ["a", "dam"], "imgid": 3, "sentid": 15}, … five]}]}

LEVIR-CC (`LevirCCcaptions.json`) has that and `changeflag` and `filepath` (the split's folder): a row shows two
pictures, `images/<filepath>/A/<filename>` before `…/B/…`, and `kind` is "change" or "no change".

NWPU-Captions (HaiyanHuang98/NWPU-Captions, `dataset_nwpu.json`) has a list for each class, and every key that begins
with `raw` is a caption; the picture is `<class>/<filename>`, or lies without the class's folder:

    {"airport": [{"filename": "airport_1.jpg", "split": "train", "raw": "An airport .", "raw_1": "…", … "raw_4": "…"}]}

A row becomes one question whose `references` are all captions as they stand, repeated ones included (RSICD repeats
captions until there are five, and published numbers count them so); `answer`, which SFT learns, is the first. `split`
chooses rows; where a file has several, one must be named, or `all`.

RSICap and RSIEval (Lavender105/RSGPT, arXiv 2307.15266) have one caption, and RSIEval questions too:

    {"annotations": [{"image_id": "1", "filename": "P1.png", "text_input": "Describe …", "text_output": "…"}]}
    {"annotations": [{"filename": "P1.png", "caption": "…", "qa_pairs": [{"question", "answer", "type"}]}]}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from samples.readers.json_list import EVERY
from samples.readers.look import Look
from samples.readers.records import answer, kinds, pairs_in, record, rows_in, text
from samples.readers.rows import Place, RowFault, show
from vlm.common.errors import DataError

DESCRIBE = "Describe the image in one sentence."
CHANGED = "Describe in one sentence what has changed from the first image to the second."
DETAIL = "Describe the image in detail."
FOLDERS = ("images", "imgs", "RSICD_images", "Images", "../images", "../imgs")
NWPU = (*FOLDERS, "NWPU_images", "NWPU-RESISC45", "../NWPU_images", "../NWPU-RESISC45")
ALL = "all"


def fits(look: Look) -> bool:
    return any("filename" in row and (isinstance(row.get("sentences"), list) or _raw(row)) for row in look.first)


def walk(look: Look) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
    """The rows of the split. Raises: DataError where the file has no such split, or several and none is named."""
    names = look.once("splits", lambda: {str(row["split"]) for row in look.good() if row.get("split") is not None})
    there = ", ".join(sorted(names))
    if look.split is None and len(names) > 1:
        raise DataError(f"{look.path}: has the splits {there}; name one by `split:`, or write split: all")
    if look.split not in (None, ALL) and look.split not in names:
        raise DataError(f"{look.path}: found the split {look.split!r}, expected one of {there or 'none'}, or all")
    for number, row in look.each():
        if isinstance(row, RowFault) or look.split in (None, ALL):
            yield number, row
        elif row.get("split") is None:
            yield number, RowFault("missing_field", "split", "none", f"one of {there}: `split: {look.split}` is asked")
        elif str(row["split"]) == look.split:
            yield number, row


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    name, said = text(row, "filename"), captions_of(row)
    more = {"references": said, "id": name}
    if "changeflag" in row:
        split = place.own(text(row, "filepath"), "filepath")
        pair = [place.seek(f"{split}/{side}/{name}", ("images", "../images"), "filename") for side in "AB"]
        more |= {"images": pair, "kind": "change" if row["changeflag"] else "no change", "id": f"{split}/{name}"}
        return record(None, CHANGED, task or "caption", said[0]) | more
    if isinstance(scene := row.get(EVERY), str):
        image = _of_class(scene, name, place)
        return record(image, DESCRIBE, task or "caption", said[0], **more, kind=kinds(scene))
    return record(place.seek(name, FOLDERS, "filename"), DESCRIBE, task or "caption", said[0], **more)


def _of_class(scene: str, name: str, place: Place) -> str:
    """A picture in its class's folder, or without one."""
    try:
        return place.seek(f"{scene}/{name}", NWPU, "filename")
    except RowFault as fault:
        if fault.kind != "missing_image":
            raise
        return place.seek(name, NWPU, "filename")


def _raw(row: dict[str, Any]) -> list[Any]:
    return [value for key, value in row.items() if key.startswith("raw")]


def captions_of(row: dict[str, Any]) -> list[str]:
    """All captions of a row, without those that are empty."""
    sentences = rows_in(row, "sentences")
    field = "sentences" if sentences else "raw"
    found: list[Any] = [one.get("raw") if isinstance(one, dict) else one for one in sentences] or _raw(row)
    if not all(isinstance(one, str) for one in found):
        raise RowFault("wrong_type", field, show(found), "texts, or objects with the text 'raw'")
    said = [one.strip() for one in found if one.strip()]
    if not said:
        raise RowFault("missing_field", field, "none", "at least one caption")
    return said


def fits_rsgpt(look: Look) -> bool:
    return look.key == "annotations" and any(
        "filename" in row and ("text_output" in row or "caption" in row or "qa_pairs" in row) for row in look.first
    )


def walk_rsgpt(look: Look) -> Iterator[tuple[int | str, dict[str, Any] | RowFault]]:
    """(number of the row, and of the question in it)."""
    for number, row in look.each():
        if isinstance(row, RowFault) or "text_output" in row:
            yield number, row
            continue
        if row.get("caption") is not None or not row.get("qa_pairs"):
            yield f"row {number}, caption", row
        for place, where, pair in pairs_in(row, number, "an object with question and answer"):
            yield where, pair if isinstance(pair, RowFault) else pair | {"number": place}


def convert_rsgpt(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image = place.seek(row.get("filename"), FOLDERS, "filename")
    name = text(row, "filename")
    if "number" in row:
        more = {"id": f"{name}/{row['number']}", "kind": kinds(row.get("type"))}
        return record(image, text(row, "question"), task or "vqa", answer(row, "answer"), **more)
    if "text_output" in row:
        asked = row.get("text_input") or DETAIL
        if not isinstance(asked, str):
            raise RowFault("wrong_type", "text_input", show(asked), "text")
        return record(image, asked, task or "caption", answer(row, "text_output"), id=name)
    return record(image, DETAIL, task or "caption", answer(row, "caption"), id=name)
