"""Answers of another program that their authors published beside the truth, as rows of `predictions.jsonl`.

EarthDial (hiyamdebary/EarthDial, files of predictions read at 92c1260), a JSON object a line, no pictures:

    {"question": "[caption] [hr_rgb_0.5] <image> \\n …", "answer": "A road .", "caption0": "…", … "caption4": "…"}
    {"question": "…", "answer": "yes", "annotation": "yes", "vqa_type": "presence"}
    {"question": "… one of the following classes. …", "answer": "Medium Residential", "annotation": "MediumResidential"}

`answer` is what the model said. The truth of captions is all of `caption0` … that say something, as `references` (where
there is one truth, its evaluator writes it into `caption0` and leaves the others empty); of the others it is
`annotation`, a class's name in words. Rows have no names: their number in the file is their `id`.
"""

from __future__ import annotations

import re
from typing import Any

from samples.readers.scenes import words

_CAPTION = re.compile(r"caption\d+")


def row(found: Any, number: int, source: str) -> Any:
    """A row of `predictions.jsonl` for one of these; any other as it is."""
    if not isinstance(found, dict) or "completion" in found or not {"question", "answer"} <= found.keys():
        return found
    captions = [value for name, value in found.items() if _CAPTION.fullmatch(name) and value != ""]
    if not captions and "annotation" not in found:
        return found
    made = {"id": f"#{number}", "source": source, "completion": found["answer"], "prompt": found["question"]}
    if captions:
        return made | {"task": "caption", "references": captions}
    truth = found["annotation"]
    if "vqa_type" in found:
        return made | {"task": "vqa", "answer": truth, "kind": found["vqa_type"]}
    return made | {"task": "classification", "answer": words(truth) if isinstance(truth, str) else truth}
