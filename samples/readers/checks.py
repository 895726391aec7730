"""What every row must satisfy, whatever its layout.

A `record` is a dictionary with the keys of `samples.Sample` and unchecked values straight from JSON.
Each check raises RowFault, whose `kind` is listed in `samples.readers.rows`.
"""

from __future__ import annotations

from typing import Any

from samples.readers.masks import as_runs
from samples.readers.records import settled
from samples.readers.rows import LeftOut, Place, RowFault, show
from samples.sample import DETECTED
from vlm import answers
from vlm.boxes import hull, quad_iou, spoken
from vlm.pictures.places import TAG
from vlm.prompts import TASKS

CLOSED = ("vqa", "choice", "classification")
"""Tasks whose truth is the text of the answer."""
COVERED = ("grounding", "classification")
"""Tasks whose rows may have a mask beside their truth: the pixels of the objects, or of what the question is about.
Metrics count them (TEOChatlas's); nothing is written from it."""
ONE_OF = f"one of {', '.join(TASKS)}"
AROUND = "four corners in order around an area"
TOLERANCE = 1e-3
"""Pixels by which a box may overhang the image: rounding on the way from other frames is no error."""


def checked(
    record: dict[str, Any],
    place: Place,
    verify: bool,
    overhang: float = 0.0,
    flat: bool = False,
    skip: bool = False,
) -> dict[str, Any]:
    """The fields of a Sample. `verify` opens every image's header; else only where a box needs a size.

    overhang: share of a box's area that may lie outside the image; it is cut off. (`quads` may overhang anyway.)
    flat: boxes may be without area. skip: an object without area is left out, and noted in `place.dropped`, where the
    row has others; else it is a fault of the row.
    """
    task = _task(record)
    images = _required(record, "images", list, "a list of paths")
    fields: dict[str, Any] = {
        "task": task,
        "messages": settled(_messages(_required(record, "messages", list, "a list of turns")), len(images)),
        "images": [place.image(image) for image in images],
        "choices": _choices(record.get("choices"), task, record.get("repeats") is True),
        "answer": _text(record, "answer"),
        "kind": _text(record, "kind"),
        "references": _references(record.get("references")),
        "source": _text(record, "source") or "",
        "id": _id(record),
    }
    if fields["answer"] is None and fields["references"]:
        fields["answer"] = fields["references"][0]
    boxes, quads = _boxes(record.get("boxes"), "boxes", 4), _boxes(record.get("quads"), "quads", 8)
    regions = _boxes(record.get("regions"), "regions", 4) or None
    fields |= _detected(record, task, boxes if quads is None else quads)
    if regions and not images:
        raise RowFault("missing_image", "images", "none", "an image: regions are of the first")
    if skip and not flat:
        kept = _with_area(boxes, quads, place, none=task == "detection")
        boxes, quads = _chosen(boxes, kept), _chosen(quads, kept)
        fields |= {name: _chosen(fields[name], kept) for name in ("labels", "difficult")}
    size = _size(record.get("size"))
    zooms = [(number, turn) for number, turn in enumerate(fields["messages"], 1) if "zoom" in turn]
    if zooms and not images:
        raise RowFault("missing_image", "images", "none", "an image: a turn zooms into it")
    placed = boxes or quads or regions or zooms or task in ("detection", "segmentation")
    if verify or (placed and size is None):
        size = _verified(size, fields["images"], place)
    if quads is not None:
        boxes = _around(quads, boxes, size)
    elif boxes and size and overhang:
        boxes = [_cut(box, size, overhang) for box in boxes]
    fields["boxes"], fields["quads"], fields["size"] = boxes, quads, size
    if task == "grounding":
        if not boxes:
            raise RowFault("no_boxes", "boxes", show(boxes), "at least one box for grounding")
        if not images:
            raise RowFault("missing_image", "images", "none", "an image: grounding needs one")
    if task in ("detection", "segmentation") and not images:
        raise RowFault("missing_image", "images", "none", f"an image: {task} needs one")
    fields["mask"] = _mask(record, task, size, place)
    fields["dates"] = _dates(record.get("dates"), len(images))
    _inside(boxes or [], size, flat)
    fields["regions"] = regions and [_region(one, size) for one in regions]
    for number, turn in zooms:
        turn["zoom"] = _region(turn["zoom"], size, f"messages[{number}].zoom")
    _answer(fields)
    if task == "choice" and record.get("repeats") is True:
        _one_right(fields["answer"], fields["choices"])
    return fields


def _mask(record: dict[str, Any], task: str, size: tuple[int, int] | None, place: Place) -> dict[str, Any] | None:
    value = record.get("mask")
    if task != "segmentation":
        if value is None:
            return None
        if task not in COVERED:
            names = " and ".join(COVERED)
            expected = (
                f"it only in rows of the task segmentation, and of {names} (columns: {{my_mask: mask}} renames it)"
            )
            raise RowFault("other_key", "mask", show(value), expected)
        if size is None:
            raise RowFault("missing_field", "size", "none", "an image or a size for the mask")
    assert size is not None  # of segmentation an image is there, and its header was read
    return as_runs(value, size, place)


def _dates(value: Any, images: int) -> list[str] | None:
    if value is None:
        return None
    expected = f"when each of {images} images was taken: a list of texts, '2019-04' or the like"
    if not isinstance(value, list) or len(value) != images or not images:
        raise RowFault("wrong_type", "dates", show(value), expected)
    texts = [valid_text("dates", one, expected) for one in value]
    if odd := [one for one in texts if not one.strip() or "\n" in one or TAG in one or len(one) > 40]:
        raise RowFault("wrong_type", "dates", show(odd[0]), expected)
    return texts


def _detected(record: dict[str, Any], task: str, shapes: list[list[float]] | None) -> dict[str, Any]:
    """The fields that rows of the task `detection` alone have."""
    if task != "detection":
        for name in DETECTED:
            if record.get(name) is not None:
                expected = f"it only in rows of the task detection (columns: {{my_{name}: {name}}} renames it)"
                raise RowFault("other_key", name, show(record[name]), expected)
        return dict.fromkeys(DETECTED)
    if shapes is None:
        raise RowFault("no_boxes", "boxes", "none", "the boxes or quads of all objects, [] where there is none")
    classes = _names(record.get("classes"), "classes", "the classes that are asked for, one at least, each once")
    labels = _names(record.get("labels"), "labels", f"what each of the {len(shapes)} objects is")
    if not classes or len(set(classes)) < len(classes):
        raise RowFault(
            "wrong_type", "classes", show(classes), "the classes that are asked for, one at least, each once"
        )
    if len(labels) != len(shapes):
        raise RowFault("wrong_type", "labels", f"{len(labels)} for {len(shapes)} objects", "one for each")
    if others := [name for name in labels if name not in classes]:
        raise RowFault("wrong_type", "labels", show(others[0]), f"one of the row's classes, {show(classes)}")
    difficult = record.get("difficult")
    if difficult is not None and (
        not isinstance(difficult, list) or len(difficult) != len(shapes) or not set(map(type, difficult)) <= {bool}
    ):
        raise RowFault("wrong_type", "difficult", show(difficult), f"true or false for each of {len(shapes)} objects")
    return {"classes": classes, "labels": labels, "difficult": difficult if difficult and any(difficult) else None}


def _names(value: Any, name: str, expected: str) -> list[str]:
    if not isinstance(value, list):
        kind = "missing_field" if value is None else "wrong_type"
        raise RowFault(kind, name, show(value), f"a list: {expected}")
    found = [valid_text(name, one, f"a list of names: {expected}") for one in value]
    for one in found:
        if not one[:1].isalpha() or spoken(one) != one or "," in one:
            raise RowFault(
                "wrong_type", name, show(one), "a name in words, in lower case, without commas: 'storage tank'"
            )
    return found


def _required(record: dict[str, Any], name: str, kind: type, expected: str) -> Any:
    value = record.get(name)
    if value is None:
        raise RowFault("missing_field", name, "none", expected)
    if not isinstance(value, kind):
        raise RowFault("wrong_type", name, show(value), expected)
    return value


def _task(record: dict[str, Any]) -> str:
    task = _required(record, "task", str, ONE_OF)
    if task not in TASKS:
        raise RowFault("unknown_task", "task", show(task), ONE_OF)
    return task


def valid_text(name: str, text: Any, expected: str = "text") -> str:
    """A string that can be encoded: JSON lets half a surrogate pair through, tokenizers do not."""
    if not isinstance(text, str):
        raise RowFault("wrong_type", name, show(text), expected)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowFault("wrong_type", name, show(text), "valid Unicode") from error
    return text


def _text(record: dict[str, Any], name: str) -> str | None:
    value = record.get(name)
    return None if value is None else valid_text(name, value)


def _id(record: dict[str, Any]) -> str:
    value = record.get("id")
    return str(value) if type(value) is int else _text(record, "id") or ""


def _messages(turns: list[Any]) -> list[dict[str, Any]]:
    """User and assistant in turn, the user first, after at most one system turn; behind a turn that zooms the
    assistant's next."""
    messages: list[dict[str, Any]] = []
    expected, after = "user", "user and assistant in turn"
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            raise RowFault("wrong_type", f"messages[{number}]", show(turn), "a turn with 'role' and 'content'")
        content, role = turn["content"], turn["role"]
        if not isinstance(content, str) or not content.isascii():
            content = valid_text(f"messages[{number}]", content)
        if not (role == expected or (role == "system" and number == 1)):
            expected = f"{expected!r} ({after})"
            raise RowFault("conversation", f"messages[{number}]", f"the role {show(role)}", expected)
        messages.append({"role": role, "content": content})
        after = "user and assistant in turn"
        if turn.get("zoom") is not None:
            if role != "assistant":
                raise RowFault("zoom", f"messages[{number}].zoom", f"it in a turn of {role!r}", "it in an assistant's")
            messages[-1]["zoom"] = _zoom(turn["zoom"], f"messages[{number}].zoom")
            after = "behind a zoom the crop follows by itself, then the assistant's next turn"
        elif role != "system":
            expected = "assistant" if role == "user" else "user"
    if messages and "zoom" in messages[-1]:
        expected = "a turn of the assistant's behind it: the last turn may not zoom, for nothing would be said of it"
        raise RowFault("conversation", f"messages[{len(messages)}].zoom", show(messages[-1]["zoom"]), expected)
    if not any(turn["role"] == "user" for turn in messages):
        raise RowFault("conversation", "messages", show(turns), "at least one user turn")
    return messages


def _zoom(value: Any, field: str) -> list[float]:
    """A region as [x1, y1, x2, y2]."""
    expected = "a region [x1, y1, x2, y2] in pixels of the original image"
    if not isinstance(value, list) or len(value) != 4 or not set(map(type, value)) <= {int, float}:
        raise RowFault("wrong_type", field, show(value), expected)
    if not all(-1e9 < x < 1e9 for x in value):  # NaN, infinities, and integers too large for a float
        raise RowFault("box_outside", field, show(value), "finite pixel coordinates")
    return [float(x) for x in value]


def region_in(value: Any, size: tuple[int, int], field: str) -> list[float]:
    """The part of a region inside an image. value: [x1, y1, x2, y2] in its pixels, unchecked. Raises: RowFault."""
    return _region(_zoom(value, field), size, field)


def _choices(value: Any, task: str, repeats: bool = False) -> list[str] | None:
    """The options. repeats: published questions repeat some; a wrong option that stands there twice does no harm."""
    if value is None:
        if task == "choice":
            raise RowFault("missing_field", "choices", "none", "the texts of the options, in order A, B, C …")
        return None
    if not isinstance(value, list):
        raise RowFault("wrong_type", "choices", show(value), "a list of texts")
    texts = [valid_text("choices", text, "a list of texts") for text in value]
    if any(TAG in text for text in texts):
        raise RowFault("image_tag", "choices", show(texts), f"texts without {TAG}: options are texts, not pictures")
    same = not repeats and len({answers.normalise(text) for text in texts}) < len(texts)
    if not 2 <= len(texts) <= 26 or same:
        raise RowFault("choices", "choices", show(texts), "2 to 26 different texts")
    return texts


def _references(value: Any) -> list[str] | None:
    if value is None:
        return None
    expected = "a list of texts, one at least, none of them empty"
    if not isinstance(value, list) or not value:
        raise RowFault("wrong_type", "references", show(value), expected)
    texts = [valid_text("references", text, expected) for text in value]
    if not all(text.strip() for text in texts):
        raise RowFault("wrong_type", "references", show(texts), expected)
    return texts


def _one_right(answer: str, choices: list[str]) -> None:
    """Raises: LeftOut where the true option's text stands at another letter, too."""
    right = answers.option(answer, choices)
    texts = [answers.normalise(text) for text in choices]
    if right is not None and texts.count(texts[right]) > 1:
        raise LeftOut("two_right", f"its true option {choices[right]!r} stands at two letters: {show(choices)}")


def _boxes(value: Any, name: str, count: int) -> list[list[float]] | None:
    if value is None:
        return None
    expected = f"a list of {name} [x1, y1, {'' if count == 4 else '…, '}x{count // 2}, y{count // 2}] in pixels"
    if not isinstance(value, list):
        raise RowFault("wrong_type", name, show(value), expected)
    boxes = []
    for box in value:
        if not isinstance(box, list) or len(box) != count or not set(map(type, box)) <= {int, float}:
            raise RowFault("wrong_type", name, show(box), expected)
        for x in box:
            if not -1e9 < x < 1e9:  # NaN, infinities, and integers too large for a float
                raise RowFault("box_outside", name, show(box), "finite pixel coordinates")
        boxes.append([float(x) for x in box])
    return boxes


def _around(
    quads: list[list[float]], boxes: list[list[float]] | None, size: tuple[int, int] | None
) -> list[list[float]]:
    """The boxes around quadrilaterals, cut to the image: a tilted object at its edge rightly overhangs it."""
    if boxes is not None and len(boxes) != len(quads):
        raise RowFault("wrong_type", "quads", f"{len(quads)} for {len(boxes)} boxes", "as many of both")
    if size is None:
        raise RowFault("missing_field", "size", "none", "an image or a size for the quads")
    width, height = size
    found = []
    for quad in quads:
        if not surrounds(quad):
            raise RowFault("box_inverted", "quads", str(quad), AROUND)
        x1, y1, x2, y2 = hull(quad)
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            raise RowFault("box_outside", "quads", str(quad), f"a shape that meets the image of {width} x {height}")
        found.append([max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))])
    return found


def surrounds(quad: list[float]) -> bool:
    """Whether the corners go around an area: a simple polygon, which may be concave."""
    return _convex(quad) or quad_iou(quad, quad) > 0


def _convex(quad: list[float]) -> bool:
    """Whether all turns at the corners go one way. Such a shape is simple; others take the geometry library to tell."""
    x1, y1, x2, y2, x3, y3, x4, y4 = quad
    turns = (
        (x2 - x1) * (y3 - y2) - (y2 - y1) * (x3 - x2),
        (x3 - x2) * (y4 - y3) - (y3 - y2) * (x4 - x3),
        (x4 - x3) * (y1 - y4) - (y4 - y3) * (x1 - x4),
        (x1 - x4) * (y2 - y1) - (y1 - y4) * (x2 - x1),
    )
    return min(turns) > 0 or max(turns) < 0


def _cut(box: list[float], size: tuple[int, int], overhang: float) -> list[float]:
    """The part of a box inside the image; the box itself where more than the share `overhang` is outside."""
    x1, y1, x2, y2 = box
    inside = [max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1]))]
    if inside == box or x1 >= x2 or y1 >= y2 or inside[0] >= inside[2] or inside[1] >= inside[3]:
        return box
    share = (inside[2] - inside[0]) * (inside[3] - inside[1]) / ((x2 - x1) * (y2 - y1))
    return inside if share >= 1 - overhang else box


def _region(box: list[float], size: tuple[int, int] | None, field: str = "regions") -> list[float]:
    """The part of a region inside the image: it goes around what is asked about, and may rightly overhang."""
    assert size is not None  # without images it is a fault, and with them a header was read
    (x1, y1, x2, y2), (width, height) = box, size
    if x2 <= x1 or y2 <= y1:
        raise RowFault("box_inverted", field, f"{box}, inverted or empty", "x1 < x2 and y1 < y2")
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise RowFault("box_outside", field, str(box), f"a region that meets the image of {width} x {height}")
    return [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(x) is int and x > 0 for x in value):
        raise RowFault("wrong_type", "size", show(value), "[width, height] in pixels")
    return value[0], value[1]


def _verified(size: tuple[int, int] | None, images: list[str | bytes], place: Place) -> tuple[int, int] | None:
    """The first image's own size, after a look at every header; a stated size must agree with it."""
    actual = [place.size(image) for image in images]
    if actual and size is not None and size != actual[0]:
        raise RowFault("size_mismatch", "size", show(list(size)), f"the image's own {list(actual[0])}, width first")
    return actual[0] if actual else size


def _with_area(
    boxes: list[list[float]] | None, quads: list[list[float]] | None, place: Place, none: bool
) -> list[int] | None:
    """Numbers of the objects that are no line or point; None for all. none: whether there may be none."""
    shapes = quads if quads is not None else boxes
    if not shapes or (quads is not None and boxes is not None and len(quads) != len(boxes)):
        return None
    kept = [number for number, shape in enumerate(shapes) if not _flat(shape)]
    if len(kept) == len(shapes) or not (kept or none):
        return None
    for number, shape in enumerate(shapes):
        if number not in kept:
            place.dropped.append(("flat_object", f"object {number + 1}: {shape} has no area"))
    return kept


def _chosen(values: list[Any] | None, kept: list[int] | None) -> list[Any] | None:
    return values if values is None or kept is None else [values[number] for number in kept]


def _flat(shape: list[float]) -> bool:
    """Whether a box has no width or no height (and is not inverted), or all corners of a quadrilateral are in line."""
    if len(shape) == 4:
        x1, y1, x2, y2 = shape
        return x1 <= x2 and y1 <= y2 and (x1 == x2 or y1 == y2)
    x, y = shape[0], shape[1]
    arms = [(shape[place] - x, shape[place + 1] - y) for place in (2, 4, 6)]
    return all(ax * by == ay * bx for ax, ay in arms for bx, by in arms)


def _inside(boxes: list[list[float]], size: tuple[int, int] | None, flat: bool = False) -> None:
    for box in boxes:
        x1, y1, x2, y2 = box
        if (x2 < x1 or y2 < y1) if flat else (x2 <= x1 or y2 <= y1):
            raise RowFault("box_inverted", "boxes", f"{box}, inverted or empty", "x1 < x2 and y1 < y2")
        if size is None:
            raise RowFault("missing_field", "size", "none", "an image or a size for the boxes")
        if min(x1, y1) < -TOLERANCE or x2 > size[0] + TOLERANCE or y2 > size[1] + TOLERANCE:
            raise RowFault(
                "box_outside", "boxes", str(box), f"a box inside the image, 0 to {size[0]} and 0 to {size[1]}"
            )


def _answer(fields: dict[str, Any]) -> None:
    answer, task = fields["answer"], fields["task"]
    if task in CLOSED and (answer is None or not answers.normalise(answer)):
        raise RowFault("missing_field", "answer", show(answer), f"the answer's text: {task} is scored by it")
    if task == "choice" and answers.option(answer, fields["choices"]) is None:
        raise RowFault("not_a_choice", "answer", show(answer), f"a letter or text of {show(fields['choices'])}")
