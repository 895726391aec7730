"""The texts that model families write boxes as; each declares the frame its numbers are in, and nothing guesses it.

| notation     | text                                                       | shape         | frame              |
|--------------|------------------------------------------------------------|---------------|--------------------|
| qwen2_vl     | ``<|box_start|>(x1,y1),(x2,y2)<|box_end|>``                | box           | per_mille          |
| qwen2_5_vl   | JSON, ``[{"bbox_2d": [x1, y1, x2, y2], "label": "dam"}]``  | box           | resized            |
| qwen3_vl     | the same JSON                                              | box           | per_mille          |
| vhm          | ``[[x1,y1,x2,y2]]``, three digits each                     | box           | per_mille          |
| geochat      | ``{<x1><y1><x2><y2>|<θ>}``                                 | oriented box  | percent            |
| internvl     | ``<ref>dam</ref><box>[[x1, y1, x2, y2]]</box>``            | box           | per_mille          |
| lhrs         | ``<bbox>[x1, y1, x2, y2]</bbox>``, three decimals          | box           | unit               |
| llava        | ``[x1, y1, x2, y2]``, two decimals                         | box           | square             |
| glm4v        | ``<|begin_of_box|>[[x1,y1,x2,y2]]<|end_of_box|>``          | box           | per_mille          |
| rscovlm      | ``x1,y1,x2,y2 dam``, one a line                            | box           | resized            |
| rscovlm_obb  | ``cx,cy,w,h,θ dam``, one a line, -90 ≤ θ < 90              | oriented box  | resized            |
| rscovlm_quad | ``x1,y1,…,x4,y4 dam``, one a line                          | quadrilateral | resized            |

``rscovlm_obb_json`` and ``rscovlm_quad_json`` are JSON with the keys ``oriented bbox`` and ``quadrant bbox``; RSCoVLM's
JSON of boxes is qwen2_5_vl's. Labels are optional wherever the table shows one; qwen2_vl and geochat have a name before
its box, ``<|object_ref_start|>dam<|object_ref_end|>`` and ``<p>dam</p>``. Angles are degrees from the x axis towards
the y axis, which points down. Oriented boxes and quadrilaterals may overhang the image, as what lies tilted at its edge
does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vlm.boxes.frames import convert
from vlm.boxes.geometry import clip, corners, hull
from vlm.boxes.notation import Notation
from vlm.boxes.texts import NUMBER, Grouped, Json, Lines, Running
from vlm.common.errors import DataError, RecipeError

_CORNERS = rf"\({NUMBER},{NUMBER}\) ?, ?\({NUMBER},{NUMBER}\)"
_QWEN = re.compile(rf"<\|box_start\|> ?{_CORNERS} ?<\|box_end\|>|{_CORNERS}")
_NUMBERS = ",".join([NUMBER] * 4)
_LIST = rf"\[{_NUMBERS}\]"

_ALL: tuple[Notation, ...] = (
    # Qwen2-VL (arXiv 2409.12191, section 2.2). The special tokens are gone when a completion was decoded with
    # skip_special_tokens, as TRL does; they come in pairs or not at all.
    Running(
        name="qwen2_vl",
        frame="per_mille",
        template="<|box_start|>({},{}),({},{})<|box_end|>",
        pattern=_QWEN,
        refs=("<|object_ref_start|>", "<|object_ref_end|>"),
        bare=True,
        marks=tuple(f"<|{name}_{end}|>" for name in ("object_ref", "box", "quad") for end in ("start", "end")),
    ),
    # Qwen2.5-VL (arXiv 2502.13923, section 2.2.1): absolute coordinates of the image it is given, in JSON.
    Json(name="qwen2_5_vl", frame="resized", key="bbox_2d", keys=("bbox",)),
    # Qwen3-VL (arXiv 2511.21631): the same JSON, coordinates per mille of the image.
    Json(name="qwen3_vl", frame="per_mille", key="bbox_2d", keys=("bbox",)),
    # VHM: "[[012,025,112,100]]". The right and lower edges of the image are written 1000 (four digits),
    # because 999 would be a whole unit off; VHM's own rows stop at 999.
    Running(
        name="vhm",
        frame="per_mille",
        template="[{:0>3},{:0>3},{:0>3},{:0>3}]",
        joiner=",",
        brackets="[]",
        pattern=re.compile(_LIST),
        said=_QWEN,  # ScoreRS takes both, in the same frame (model_based_reward.py of NJU-LHRS/ScoreRS)
    ),
    # GeoChat (arXiv 2311.15826, section 3): the box before it is turned, and the angle. The paper does not say which
    # way: `bbox_and_angle_to_polygon` (geochat_demo.py and geochat/serve/cli.py of mbzuai-oryx/GeoChat) adds x·cos -
    # y·sin, x·sin + y·cos in pixels, clockwise as seen, and so do the evaluators of others that were read; only
    # `rotate_bbox`, which draws the demo's picture through OpenCV's getRotationMatrix2D, turns the other way. VRSBench
    # writes the same without an angle. Several boxes are joined by "<delim>" or nothing.
    Running(
        name="geochat",
        frame="percent",
        shape="obb_corners",
        template="{{<{}><{}><{}><{}>|<{}>}}",
        pattern=re.compile(r"\{ ?" + " ?".join([rf"<{NUMBER}>"] * 4) + rf" ?(?:\| ?<{NUMBER}> ?)?\}}"),
        between=re.compile(r" ?(?:[,;]|<delim>)? ?"),
        refs=("<p>", "</p>"),
    ),
    # InternVL (arXiv 2312.14238 and the documentation of InternVL 2).
    Grouped(
        name="internvl",
        frame="per_mille",
        template="[{}, {}, {}, {}]",
        joiner=", ",
        brackets="[]",
        pattern=re.compile(_LIST),
        tags=("<box>", "</box>"),
        label_tags=("<ref>", "</ref>"),
        bare=True,
        chunk=re.compile(rf"\[ ?{_LIST}(?: ?[,;]? ?{_LIST})* ?\]|{_LIST}"),
        marks=("<box>", "</box>", "<ref>", "</ref>", "<quad>", "</quad>"),
    ),
    # LHRS-Bot-Nova.
    Running(
        name="lhrs",
        frame="unit",
        decimals=3,
        template="<bbox>[{}, {}, {}, {}]</bbox>",
        pattern=re.compile(rf"<bbox> ?{_LIST} ?</bbox>|{_LIST}"),
    ),
    # LLaVA-1.5 (arXiv 2310.03744, section 3.2): "[0.31, 0.18, 0.56, 0.74]". Its pictures are padded to a square, its
    # boxes count in that: its data was compared in issue 606 of haotian-liu/LLaVA (Visual Genome; whether RefCOCO's are
    # the same is asked in 822, unanswered), and others convert theirs (tools/expand_to_square.py of
    # BAAI-DCAI/Visual-Instruction-Tuning). Most pictures of remote sensing are squares, where it makes no difference.
    Running(
        name="llava",
        frame="square",
        decimals=2,
        template="[{}, {}, {}, {}]",
        joiner=", ",
        pattern=re.compile(_LIST),
    ),
    # GLM-4.1V (README of zai-org/GLM-V, "Grounding"): thousandths; brackets vary, and mean the same. No names.
    Grouped(
        name="glm4v",
        frame="per_mille",
        template="[{},{},{},{}]",
        joiner=",",
        brackets="[]",
        pattern=re.compile(rf"{_LIST}|\({_NUMBERS}\)|<{_NUMBERS}>|\{{{_NUMBERS}\}}"),
        tags=("<|begin_of_box|>", "<|end_of_box|>"),
        marks=("<|begin_of_box|>", "<|end_of_box|>"),
    ),
    # RSCoVLM (VisionXLab/RSCoVLM, rscovlm/training/data/refgeo_dataset.py): plain text, one object a line. Oriented
    # boxes are OpenCV's minAreaRect of the resized corners, the longer side first; corners begin at the highest.
    # Asked for JSON, it writes the same numbers under `key`.
    Lines(name="rscovlm", frame="resized", key="bbox_2d"),
    Lines(name="rscovlm_obb", frame="resized", shape="obb_centre", key="oriented bbox"),
    Lines(name="rscovlm_quad", frame="resized", shape="quad", key="quadrant bbox"),
    Json(name="rscovlm_obb_json", frame="resized", shape="obb_centre", key="oriented bbox", keys=("rotated bbox",)),
    Json(name="rscovlm_quad_json", frame="resized", shape="quad", key="quadrant bbox"),
)
NOTATIONS: dict[str, Notation] = {notation.name: notation for notation in _ALL}
FALLBACK = "qwen2_vl"
"""What is read and written where nobody says who writes."""


@dataclass(frozen=True, slots=True)
class Object:
    """One object that a text states, in pixels of the original image."""

    quad: list[float]
    "Its corners x1, y1, …, x4, y4; of a box, the box's."
    label: str | None = None
    "What the text calls it."


def find(notation: str | Notation) -> Notation:
    """The notation of this name. Raises RecipeError for an unknown one."""
    if isinstance(notation, Notation):
        return notation
    if notation not in NOTATIONS:
        raise RecipeError(f"unknown box notation {notation!r}; known: {', '.join(NOTATIONS)}")
    return NOTATIONS[notation]


def check_notation(name: str, seen: bool = True) -> None:
    """Refuse a recipe's ``notation`` that is not known, or that counts pixels of an image as a model sees it where no
    such size is known (``seen`` false). Raises RecipeError.
    """
    if name not in NOTATIONS:
        raise RecipeError(f"notation = {name!r}; known notations: {', '.join(NOTATIONS)}")
    if not seen and NOTATIONS[name].frame == "resized":
        fitting = [known for known, notation in NOTATIONS.items() if notation.frame != "resized"]
        raise RecipeError(
            f"notation = {name!r} counts pixels of the image as a model sees it, and no model's size is known here; "
            f"choose one of {', '.join(fitting)}"
        )


def read_objects(
    text: str, notation: str | Notation, size: Sequence[float], resized: Sequence[float] | None = None
) -> list[Object] | None:
    """Objects that ``text`` states in ``notation``, with their labels; None where it does not parse (Notation.parse).

    size: (width, height) of the original image in pixels; resized: the same of the image as the model sees it, for
    notations whose frame is "resized" (DataError without it).
    """
    notation = find(notation)
    found = notation.parse_labelled(text, resized)
    if found is None:
        return None
    quads = [notation.placed(item.numbers, size, resized) for item in found]
    objects = [Object(quad, item.label) for quad, item in zip(quads, found, strict=True) if quad is not None]
    return objects if len(objects) == len(found) else None


def read_quads(
    text: str, notation: str | Notation, size: Sequence[float], resized: Sequence[float] | None = None
) -> list[list[float]] | None:
    """Quadrilaterals that ``text`` states, in pixels of the original image; as `read_objects`.

    A box gives its four corners, from the left upper one clockwise.
    """
    found = read_objects(text, notation, size, resized)
    return None if found is None else [item.quad for item in found]


def read_boxes(
    text: str, notation: str | Notation, size: Sequence[float], resized: Sequence[float] | None = None
) -> list[list[float]] | None:
    """Boxes that ``text`` states, in pixels of the original image; as `read_objects`.

    Of an oriented box or a quadrilateral the box around it, cut to the image, as a Sample has it.
    """
    notation = find(notation)
    quads = read_quads(text, notation, size, resized)
    if quads is None:
        return None
    if notation.shape == "box":
        return [[*quad[:2], *quad[4:6]] for quad in quads]
    return [clip(hull(quad), size) for quad in quads]


def write_quads(
    quads: Sequence[Sequence[float]],
    notation: str | Notation,
    size: Sequence[float],
    resized: Sequence[float] | None = None,
    labels: Sequence[str | None] | None = None,
) -> str:
    """Text of quadrilaterals in pixels of the original image.

    A box notation writes the boxes around them, cut to the image; an oriented one the least rectangles around them.
    Reading back loses half a unit of the notation's frame for each number, half a degree for the angle. labels: one
    for each, None for none. Raises DataError where a shape does not fit the frame or a label the notation.
    """
    notation = find(notation)
    notation.limits(resized)
    return notation.format([notation.from_quad(quad, size, resized) for quad in quads], resized, labels)


def write_boxes(
    boxes: Sequence[Sequence[float]],
    notation: str | Notation,
    size: Sequence[float],
    resized: Sequence[float] | None = None,
    labels: Sequence[str | None] | None = None,
) -> str:
    """Text of boxes in pixels of the original image; as `write_quads`. In a notation of another shape, boxes that are
    not turned. Raises DataError on an inverted box or one outside the image.
    """
    notation = find(notation)
    notation.limits(resized)
    for box in boxes:
        x1, y1, x2, y2 = box
        if not (x1 <= x2 and y1 <= y2):
            raise DataError(f"box {list(box)} cannot be written in the notation {notation.name}: it is inverted")
        if notation.frame == "square" and not (x1 >= 0 and y1 >= 0 and x2 <= size[0] and y2 <= size[1]):
            raise DataError(
                f"box {list(box)} cannot be written in the notation {notation.name}; expected it within the image's "
                f"{size[0]:g} × {size[1]:g} pixels"
            )
    if notation.shape == "box":
        shapes = [convert(box, "pixel", notation.frame, size, resized) for box in boxes]
        return notation.format(shapes, resized, labels)
    return write_quads([corners(box) for box in boxes], notation, size, resized, labels)
