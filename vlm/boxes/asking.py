"""How objects are asked for in a notation, in the words of the project that made it; detection with paraphrases, and
openly.

Wordings are those that a published model was trained with. RSCoVLM's (VisionXLab/RSCoVLM, rscovlm/training/data/
dense_det_dataset.py and refgeo_dataset.py at bfc2ff7): JSON has one main wording and paraphrases of it, plain lines are
told of in the system prompt. Two of its paraphrases are one by mistake there, a comma is missing; they are two here.
Its evaluation puts " ." behind a question, which its training does not; no question here ends so.

Paraphrases and the open variant are drawn by the row (source and id), so that a row is asked the same way whenever it
is read.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vlm.boxes.notation import Notation
from vlm.boxes.notations import find

OPEN = "all the visible remote sensing objects"
"""What an open question asks for, instead of classes."""
_MAIN = (
    "Locate every item from the category list in the image and output the {kind}coordinates in JSON format. The "
    "category set includes {{question}}."
)
_PARAPHRASES = (
    "Please output {kind}coordinates and names of {{question}} in JSON format.",
    "Give me the {kind}es and names of {{question}} using JSON format",
    "Output the category names and {kind}es of the {{question}} in the image using JSON format.",
    "From this image, provide the {kind}es and categories for {{question}} using JSON format",
    "Please provide the {kind} coordinates of the following objects: {{question}}.",
    "Locate {{question}} in the given image and provide the {kind}es using JSON format",
)
_LINES = (
    "As an AI assistant, you specialize in accurate {} detection, delivering coordinates {}in plain text format "
    "'{} object'."
)
_ROTATED = "You are an AI assistant specializing in oriented object detection. Represent objects with"
SYNONYMS: dict[str, tuple[str, ...]] = {
    "plane": ("airplane", "aircraft", "aeroplane"),
    "airplane": ("plane", "aircraft", "aeroplane"),
    "ship": ("vessel", "boat"),
    "storage tank": ("oil tank", "tank", "fuel tank"),
    "baseball diamond": ("baseball field", "ball diamond"),
    "baseball field": ("baseball diamond", "ball diamond"),
    "tennis court": ("tennis ground", "tennis field"),
    "basketball court": ("basketball ground", "basketball field"),
    "ground track field": ("running track", "athletics field", "track and field ground"),
    "harbor": ("harbour", "port", "dock"),
    "bridge": ("overpass bridge", "river crossing"),
    "large vehicle": ("truck", "bus", "lorry"),
    "small vehicle": ("car", "automobile", "van"),
    "vehicle": ("car", "automobile"),
    "helicopter": ("chopper", "rotorcraft"),
    "roundabout": ("traffic circle", "rotary"),
    "soccer ball field": ("soccer field", "football field", "football pitch"),
    "swimming pool": ("pool", "swimming bath"),
    "container crane": ("crane", "gantry crane"),
    "airport": ("airfield", "aerodrome"),
    "helipad": ("heliport", "helicopter pad"),
    "stadium": ("arena",),
    "windmill": ("wind turbine",),
    "train station": ("railway station",),
    "golf field": ("golf course",),
    "chimney": ("smokestack",),
    "dam": ("barrage",),
}
"""Class in words → other names, which an open question's answer is written with, and which mean it when read."""


@dataclass(frozen=True)
class Asking:
    """How one notation is asked for."""

    main: str
    "With `{question}`, the classes."
    grounding: str | None = None
    "With `{question}`, what one object is described by; None: its project has no words of its own."
    paraphrases: tuple[str, ...] = ()
    system: str | None = None
    "The system prompt that tells of the text form, for the style `direct`."
    told: str = ""
    "A line behind the question that tells of it where that system prompt cannot stand."


def _json(kind: str, system: str | None = None) -> Asking:
    main = _MAIN.format(kind=f"{kind} " if kind != "bbox" else "")
    grounding = f"Locate the {{question}}, output the {kind} coordinates using JSON format"
    return Asking(main, grounding, tuple(text.format(kind=kind) for text in _PARAPHRASES), system)


def _lines(kind: str, of: str, numbers: str) -> Asking:
    told = f"Answer with one line for each object: {numbers} name."
    return Asking("find the {question}", "find the {question}", (), _LINES.format(kind, of, numbers), told)


_OBJECTS = "Detect all objects of these categories, with their names: {question}."
_REGION = "Please provide the bounding box coordinate of the region this sentence describes: "
_ASKING = {
    "rscovlm": _lines("image object", "", "x1,y1,x2,y2"),
    "rscovlm_obb": _lines("oriented object", "", "x,y,w,h,a"),
    "rscovlm_quad": _lines("oriented object", "of the polygon vertices ", "x1,y1,x2,y2,x3,y3,x4,y4"),
    "qwen2_5_vl": _json("bbox"),
    "qwen3_vl": _json("bbox"),
    "rscovlm_obb_json": _json("oriented bbox", f"{_ROTATED}: center (x,y), width (w), height (h), and rotation angle."),
    "rscovlm_quad_json": _json(
        "oriented bbox",
        f"{_ROTATED} quadrant bbox: the corrdinates of each vertices of the oriented bounding boxes in clock-wise "
        "order.",  # its spelling
    ),
    "llava": Asking(_OBJECTS, _REGION + "{question}."),
    "internvl": Asking(_OBJECTS, _REGION + "<ref>{question}</ref>"),
    "glm4v": Asking(
        _OBJECTS,
        "Please pinpoint the bounding box [[x1,y1,x2,y2], …] in the image as per the given description. {question}",
    ),
    "geochat": Asking(_OBJECTS, "[refer] where is <p>{question}</p>?"),
}
_OTHER = Asking(_OBJECTS)


def asking(notation: str | Notation) -> Asking:
    """How objects are asked for in a notation; in plain words where its project has none."""
    return _ASKING.get(find(notation).name, _OTHER)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for one row: how it is worded, and whether it is asked openly."""

    wording: str
    open: bool = False
    number: int = 0
    "By which synonyms are chosen."
    system: str | None = None
    told: str = ""
    "As in `Asking`."
    form: str | None = None
    "Of segmentation: how its mask is written (`vlm.masks`)."

    def question(self, classes: str) -> str:
        """The user's text; classes: as the data has them, joined."""
        if not self.open:
            return self.wording.format(question=classes)
        return re.sub(r"(the )?\{question\}", OPEN, self.wording)

    def names(self, labels: Sequence[str], classes: Sequence[str]) -> list[str]:
        """What the objects of the row are called: by one synonym for each class where the question is open.

        classes: of the row. A synonym that is one of them, or that two of them have, would be read as another class
        than it is written for, or as none.
        """
        if not self.open:
            return list(labels)
        taken = Counter(name for other in set(classes) for name in (other, *SYNONYMS.get(other, ())))
        return [_synonym(label, self.number, taken) for label in labels]


def _synonym(label: str, number: int, taken: Counter[str]) -> str:
    names = (label, *(name for name in SYNONYMS.get(label, ()) if taken[name] < 2))
    return names[zlib.crc32(f"{label} {number}".encode()) % len(names)]


def grounding(notation: str | Notation, wording: str) -> Drawn:
    """How one object is asked for by its description; wording: where the notation's project has no words of its own."""
    how = asking(notation)
    return Drawn(how.grounding or wording, False, 0, how.system, how.told)


def drawn(
    source: str,
    id: str,
    notation: str | Notation,
    paraphrased: float = 0.0,
    opened: float = 0.0,
    main: str | None = None,
) -> Drawn:
    """How a row is asked. paraphrased: share of rows that get a paraphrase; opened: share that is asked openly; main:
    the recipe's own wording, which has no paraphrases."""
    how, number = asking(notation), zlib.crc32(f"{source}/{id}".encode())
    shares = [(zlib.crc32(f"{use} {number}".encode()) % 10_000) / 10_000 for use in ("wording", "open", "words")]
    wording = how.main if main is None else main
    if main is None and how.paraphrases and shares[0] < paraphrased:
        wording = how.paraphrases[number % len(how.paraphrases)]
        if shares[2] < 0.5:
            wording = wording.replace("bbox", "bounding box")
        if number // 7 % 2:
            wording = wording.replace("oriented", "rotated")
    return Drawn(wording, shares[1] < opened, number, how.system, how.told)
