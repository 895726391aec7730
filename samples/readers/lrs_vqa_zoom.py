"""LRS-VQA-Zoom, the training set of RSCoVLM (Qingyun/remote-sensing-sft-data on the hub, folder `LRS_VQA`).

Read off its loader, VisionXLab/RSCoVLM at bfc2ff7, `rscovlm/training/data/visual_cot_dataset.py`; the files themselves
were not seen. JSON lists in `annotations/train/`, written by GPT-4V, by templates, and as multiple
choice, with pictures in `images/train/`:

    [{"image": "LRS_VQA/images/train/P0001.png", "image_ori_width": 4000, "image_ori_height": 3000,
      "bbox_info": {"crop_hbox": [[10, 20, 900, 700]], "rbox": [[…8 numbers]]},
      "question": "Is the bridge over a river?\\n Answer the question using a single word or phrase.", "answer": "yes"}]

or, instead of question and answer, `Text`, `Answer choices` (["(A) plane", "(B) ship", …]) and `Ground truth` ("B").

`crop_hbox` are the regions of the answer in pixels of the original: `regions`, all of them. A row with exactly one is
a chain, as published: question, a zoom into it without a word, answer. All others are a question and its answer. So is
a row whose region is nearly the whole picture (NEARLY), for the tool would not show that again; such zooms are counted
(`zoom_whole`). A region may exceed the picture; it is cut to it, where the published loader pads with black.

The published question of a chain ends with an order to zoom in, of a row without one it does not; here the recipe's
tools say it of all questions. Multiple choice: the options become `choices`, and the order at the end of `Text` to
answer with a word is cut off, as the published loader means to; its `rstrip` of that sentence takes any of the
sentence's letters off the question's end ("… is in the rest" → "… is in the").
"""

from __future__ import annotations

import re
import string
from typing import Any

from samples.readers.checks import region_in
from samples.readers.look import Look
from samples.readers.records import answer, record, text
from samples.readers.rows import Place, RowFault, show
from samples.readers.zooming import looks

FOLDERS = ("images", "..", "../..", "../../..", "../../images/train", "../images/train")
"""Where a name starts from, seen from the file: in `annotations/train`, or moved elsewhere."""
PRIVATE = "/gruntdata/rs_nas/workspace/junhong.ljw/dataset/"
"""The folder of the authors' disk that names may begin with; their loader cuts it off."""
WORD = "Answer the question using a single word or phrase."
_LETTERED = re.compile(r"\s*\(?([A-Z])(?:\)[.:]?|[.:])\s*(.*?)\s*", re.DOTALL)


def fits(look: Look) -> bool:
    return any(isinstance(row.get("bbox_info"), dict) and "image" in row for row in look.first)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    name = row.get("image")
    image = place.seek(name.removeprefix(PRIVATE) if isinstance(name, str) else name, FOLDERS)
    size = _size(row, place.size(image))
    regions = _regions(row.get("bbox_info"))
    parts = [region_in(region, size, "bbox_info.crop_hbox") for region in regions]
    more: dict[str, Any] = {"size": list(size), "regions": regions}
    if "question" in row and "answer" in row:
        found = record(image, text(row, "question"), task or "vqa", answer(row, "answer"), **more)
    elif "Text" in row:
        more |= {"choices": _choices(row.get("Answer choices")), "repeats": True}
        asked = text(row, "Text").removesuffix(WORD).rstrip()
        found = record(image, asked, task or "choice", answer(row, "Ground truth"), **more)
    else:
        expected = "question and answer, or Text, Answer choices and Ground truth"
        raise RowFault("missing_field", "question", f"the keys {', '.join(map(str, row))}", expected)
    if len(parts) == 1:
        looks(found, parts[0], size, place)
    return found


def _size(row: dict[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """The picture's own size, which the row's must be."""
    for key, own in zip(("image_ori_width", "image_ori_height"), size, strict=True):
        if key in row and row[key] != own:
            raise RowFault("size_mismatch", key, show(row[key]), f"the image's own {own} (of {size[0]} x {size[1]})")
    return size


def _regions(info: Any) -> list[Any]:
    expected = '{"crop_hbox": [[x1, y1, x2, y2], …]} in pixels of the original image'
    if not isinstance(info, dict):
        raise RowFault("missing_field" if info is None else "wrong_type", "bbox_info", show(info), expected)
    regions = info.get("crop_hbox")
    if not isinstance(regions, list):
        kind = "missing_field" if regions is None else "wrong_type"
        raise RowFault(kind, "bbox_info.crop_hbox", show(regions), expected)
    return regions


def _choices(given: Any) -> list[str]:
    """The texts of the options, without their letters, which must be A, B, C … in order."""
    found = []
    if not isinstance(given, list) or len(given) > len(string.ascii_uppercase):
        raise RowFault("choices", "Answer choices", show(given), 'a list such as ["(A) plane", "(B) ship"]')
    for letter, said in zip(string.ascii_uppercase, given, strict=False):
        match = _LETTERED.fullmatch(said) if isinstance(said, str) else None
        if match is None or match[1] != letter:
            raise RowFault("choices", "Answer choices", show(said), f"the option '({letter}) …'")
        found.append(match[2])
    return found
