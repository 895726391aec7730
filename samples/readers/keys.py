"""The keys of a row: which ones its format reads, what others mean elsewhere, and which travel on to rewards.

Nothing is dropped in silence. A key that the format does not read is, in this order:

    near a field      `sise` for `size`, where the row has no `size`: a fault that names the field
    another project's converted where its meaning is clear, else a fault that says what to do (`FOREIGN`)
    a column          of the Sample: rewards get it under its name

LLaMA-Factory's and ms-swift's rows are conversations with more keys, and these are converted:

    system            text: becomes the system turn
    objects           {"ref": ["the ship"], "bbox": [[10, 20, 90, 80]], "bbox_type": "real"}: the names stand for
                      `<ref-object>` in the turns, the boxes for `<bbox>`. "real" (and none) is pixels of the original
                      image, "norm1" is fractions of it. An answer that is nothing but boxes becomes `boxes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from samples.readers.rows import SUFFIXES, Place, RowFault, show
from samples.sample import DETECTED
from vlm.boxes import convert
from vlm.common.errors import DataError

_TALK = "conversations conversation messages image images image_path task answer choices id question_id kind type size"
READ: dict[str, frozenset[str]] = {
    name: frozenset(keys.split())
    for name, keys in {
        "nadir": "images messages question task answer boxes quads size choices source id kind references regions "
        "labels difficult classes mask dates",
        "trl": "prompt completion images image task answer solution ground_truth boxes quads size choices kind source "
        "id regions labels difficult classes mask dates",
        "conversations": f"{_TALK} source",
        "vg_dior": f"{_TALK} source",
        "vhm": f"{_TALK} source",
        "sharegpt": f"{_TALK} source boxes regions",
        "apex_gro": f"{_TALK} source system",
        "geochat": "conversations conversation messages image images image_path id",
        "geochat_bench": "category type size_group question_id image text image_id question ground_truth joined "
        "description",
        "vrsbench": "image_id ground_truth type question_id question",
        "lhrs_bench": f"filename choices type id question answer {_TALK}",
        "refgeo": "image_id dataset question bbox poly question_id",
        "refgeo_seg": "image_id dataset question question_id image_width image_height mask_exists",
        "choice": "image_path question answer id mask_path",
        "lrs_gro_sft": "image_name question ground_truth question_id type category bbox scale cut global "
        "stage_1_reasoning stage_2_reasoning",
        "lrs_vqa_zoom": "image image_ori_width image_ori_height bbox_info question answer Text",
        "lrs_gro": "image_name question ground_truth question_id type category bbox",
        "geobench_vlm": "image_path prompts prompt id task cls_description options options_list ground_truth "
        "ground_truth_option",
        "teochatlas": "video image conversations conversation messages id task dataset timestamp timestamps metadata "
        "polygon original_input_polygon",
        "lrs_vqa": "image question_id category text ground_truth hbox image_size",
        **dict.fromkeys(
            ("scorers_rl", "scorers_rl_pixel", "scorers_rl_per_mille", "scorers_rl_unit"),
            "problem answer image images type id",
        ),
    }.items()
} | {
    "mme_realworld": frozenset(
        ["Question_id", "Image", "Text", "Answer choices", "Ground truth", "Subtask", "Category"]
    ),
    "xlrs_bench": frozenset(["index", "image", "question", "multi-choice options", "answer", "category"]),
}
READ["lrs_vqa_zoom"] |= {"Answer choices", "Ground truth"}
"""Format → the keys that it reads. A format that is not here makes its rows itself: nothing of them travels."""
TALKS = frozenset(["nadir", "trl", "conversations", "sharegpt", "vg_dior", "vhm", "geochat"])
"""Formats of conversations, in which other projects' keys are looked for."""
TRUTHS = ("solution", "ground_truth")
"""TRL's names of the answer: read, and passed on under their own name, too, as TRL's rewards ask for it."""
_TRLS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
_TURNS = ("prompt", "completion", "image", "images", "messages")
_FIELDS = (
    "task", "answer", "boxes", "quads", "size", "choices", "source", "id", "kind", "references", "regions", "columns",
    "written", "tooled", "mask", "dates", "form", "named", *DETECTED,
)  # fmt: skip
_TABLE = ("image_file", "resized", "copy", "row", "truth")
TAKEN = frozenset({*_TRLS, *_TURNS, *_FIELDS, *_TABLE})
"""Names that TRL, the table and the Sample use themselves: no column travels under them."""
CLOSE_LENGTH = 4
"""Letters of a field and of a key from which on a slip is looked for: `id` and `ids` are too short to tell."""
WORDS = frozenset(
    ["dated", "find", "mark", "mind", "rank", "rbox", "reasons", "region", "side", "site", "task", "tags", "wind"]
)
"""Words of their own that are as near to a field as a slip."""
_PREFERENCE = "it belongs to preferences (launch/score.py); take the key out, or train a score model on these rows"
_VIDEO = "pictures: no stage reads videos or sound; take frames out as `images`, or leave these rows out"
FOREIGN: dict[str, str] = {
    **dict.fromkeys(("rejected_response", "rejected_messages", "rejected", "chosen"), f"no such key: {_PREFERENCE}"),
    **dict.fromkeys(("video", "videos", "audio", "audios"), _VIDEO),
    "tools": "no tools: no stage calls any; leave these rows out, or write them into the system turn",
}
"""Key → what is expected instead; empty values ([] or "") pass."""
BAD = frozenset(["label", "kto_tag"])
"""KTO's keys, false of answers that are not to be learned."""
SPOKEN = frozenset(["messages", "conversations", "prompt"])
"""Keys of turns."""
VIDEO_TAGS = ("<video>", "<audio>")
_JSON_AROUND = re.compile(r'"(?:bbox_2d|bbox|label)"\s*:|[\s\[\]{}",:]|```(?:json)?')
REF, BOX = "<ref-object>", "<bbox>"
FRAMES: dict[Any, Any] = {None: "pixel", "real": "pixel", "norm1": "unit"}


def distance(one: str, other: str) -> int:
    """Edits between two texts: a letter put in, left out or replaced, or two neighbours swapped."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row = row, [i, *[0] * len(other)]
        for j, b in enumerate(other, 1):
            row[j] = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                row[j] = min(row[j], before[j - 2] + 1)
        before = last
    return row[-1]


def slip(key: str, fields: Iterable[str]) -> str | None:
    """The field that a key is probably a slip of, of those that the row lacks.

    Two edits, or one where the field has four or five letters: `file`, `time` and `tile` are two from `size`.
    """
    word = key.lower()
    if len(word) < CLOSE_LENGTH or word in WORDS:
        return None
    near = sorted((distance(word, name), name) for name in fields if len(name) >= CLOSE_LENGTH)
    return next((name for far, name in near if far <= (1 if len(name) < 6 else 2)), None)


def renamed(row: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The row under our names (ours ← theirs); what stood under such a name is replaced."""
    there = {ours: theirs for ours, theirs in names.items() if theirs in row}
    if not there:
        return row
    gone = set(there.values()) - TAKEN  # a field of ours stays one: `{solution: answer}` gives it a second name
    return {k: v for k, v in row.items() if k not in gone} | {ours: row[theirs] for ours, theirs in there.items()}


def check_names(names: Mapping[str, str], first: Iterable[Mapping[str, Any]], path: Any) -> None:
    """Refuse a renaming of columns that none of the first rows has. first: as the file has them.

    Raises: DataError naming the column and those at hand.
    """
    if not names:
        return
    there = dict.fromkeys(key for row in first for key in row)
    for ours, theirs in names.items():
        if there and theirs not in there:
            near = get_close_matches(theirs, map(str, there), 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(
                f"{path}: columns: {ours}: found no column {theirs!r} in its first rows; {hint}they have "
                f"{', '.join(map(str, there))}"
            )


class Keys:
    """What becomes of the keys of one source's rows.

    renames: the source's `columns`, our name ← theirs. optional: fields that are read here beside the format's own.
    """

    def __init__(self, format: str, renames: Mapping[str, str] | None = None, optional: Iterable[str] = ()):
        self.format, self.renames = format, dict(renames or {})
        read = READ.get(format)
        self.read = None if read is None else read | frozenset(optional)
        self.travelling: dict[str, None] = {}
        "Names of the columns seen, in the order of their first row."
        self.staying: dict[str, None] = {}
        "Names of those that cannot travel."
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._suspect: dict[tuple[str, ...], tuple[str, ...]] = {}

    def columns(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """What of a row travels; None for nothing. Raises: RowFault for a key that is probably a slip."""
        if self.read is None:
            return None
        names = tuple(row)
        if (found := self._known.get(names)) is None:
            found = self._known[names] = self._others(names)
        return {name: row[name] for name in found} if found else None

    def _others(self, names: tuple[str, ...]) -> tuple[str, ...]:
        assert self.read is not None
        said = {*self.renames, *self.renames.values()}
        absent = self.read - set(names)
        others = []
        for name in names:
            if name in self.read and not (self.format == "trl" and name in TRUTHS):
                continue
            if name in FOREIGN or (self.format in TALKS and name in ("system", "objects")):
                continue
            near = name not in self.read and name not in said and name not in BAD
            if near and (field := slip(name, absent)) is not None:
                raise unread(name, field)
            if name in TAKEN or not name:
                self.staying[name] = None
                continue
            others.append(name)
            self.travelling[name] = None
        return tuple(others)

    def refuse(self, row: dict[str, Any]) -> None:
        """Raises: RowFault for what other projects mean by a key and that cannot be trained on."""
        if self.read is None:
            return
        names = tuple(row)
        if (found := self._suspect.get(names)) is None:  # rows of a file have few sets of keys
            spoken = SPOKEN if self.format in TALKS else frozenset()
            found = self._suspect[names] = tuple(((FOREIGN.keys() - self.read) | BAD | spoken) & row.keys())
        for key in found:
            value = row[key]
            if key in SPOKEN:
                if isinstance(value, list):
                    _weighed(key, value)
            elif key in BAD:
                if value is False:
                    expected = "a good answer: this one is marked as bad, and would be learned"
                    raise RowFault("other_key", key, "false", expected)
            elif value not in (None, "", [], {}, "[]"):
                raise RowFault("other_key", key, show(value), FOREIGN[key])

    def meant(self, row: dict[str, Any], record: dict[str, Any], place: Place) -> dict[str, Any]:
        """The record with what keys of other projects say. Raises: RowFault where they do not fit it."""
        if self.format not in TALKS or self.read is None:
            return record
        if not record.get("images") and not {"image", "images"} & row.keys():
            refuse_hidden(row, self.read)
        turns = record.get("messages")
        if not isinstance(turns, list):
            return record
        for turn in turns:
            if not isinstance(turn, dict):
                return record
            content = turn.get("content")
            if isinstance(content, str) and (VIDEO_TAGS[0] in content or VIDEO_TAGS[1] in content):
                raise RowFault("other_key", "messages", show(content), _VIDEO)
        if row.get("system") not in (None, ""):
            record = _with_system(record, row["system"])
        if row.get("objects"):
            record = _with_objects(record, row["objects"], place)
        return record


def unread(key: str, field: str) -> RowFault:
    return RowFault(
        "unknown_key",
        key,
        "a key that is not read",
        f"{field!r}; if it is a column of its own, say so at the source: `columns: {{{key}: {key}}}`",
    )


def refuse_hidden(row: dict[str, Any], read: Iterable[str]) -> None:
    """Raises: RowFault where a row without pictures names one under a key that is not read."""
    for key, value in row.items():
        if key not in read and pictured(value):
            raise RowFault(
                "unknown_key",
                key,
                show(value),
                f"the picture under 'images' or 'image', or it is not seen: `columns: {{images: {key}}}` at the source "
                "renames it",
            )


def pictured(value: Any) -> bool:
    """Whether a value looks like pictures: names of image files, encoded bytes, {bytes, path}."""
    if isinstance(value, list):
        return bool(value) and all(map(pictured, value))
    if isinstance(value, dict):
        return "bytes" in value or pictured(value.get("path"))
    if isinstance(value, bytes):
        return value.startswith((b"\x89PNG", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"RIFF", b"BM"))
    if not isinstance(value, str) or "\n" in value:
        return False
    return value.startswith("data:image/") or value.lower().endswith(SUFFIXES)


def _weighed(name: str, turns: list[Any]) -> None:
    """Refuse turns that are marked as not to be learned: all of the assistant's would be."""
    for turn in turns:
        if not isinstance(turn, dict) or len(turn) == 2:  # who speaks, and what
            continue
        for key in ("loss", "weight"):
            if key in turn and turn[key] is not None and not turn[key]:
                raise RowFault("other_key", f"{name}.{key}", show(turn[key]), "turns that are all learned")
        if turn.get("tool_calls"):
            raise RowFault("other_key", f"{name}.tool_calls", show(turn["tool_calls"]), "turns of text alone")


def _with_system(record: dict[str, Any], said: Any) -> dict[str, Any]:
    if not isinstance(said, str):
        raise RowFault("wrong_type", "system", show(said), "the system turn's text")
    turns = record["messages"]
    if turns and turns[0].get("role") == "system":
        if turns[0].get("content") != said:
            raise RowFault("conversation", "system", show(said), "one system turn: `messages` begin with another")
        return record
    return record | {"messages": [{"role": "system", "content": said}, *turns]}


def _with_objects(record: dict[str, Any], objects: Any, place: Place) -> dict[str, Any]:
    expected = '{"ref": [texts], "bbox": [[x1, y1, x2, y2], …], "bbox_type": "real" or "norm1"}'
    if not isinstance(objects, dict) or not objects.keys() <= {"ref", "bbox", "bbox_type", "image_id"}:
        raise RowFault("wrong_type", "objects", show(objects), expected)
    names, boxes = objects.get("ref") or [], objects.get("bbox") or []
    fits = isinstance(names, list) and all(isinstance(name, str) for name in names) and isinstance(boxes, list)
    if not fits or not all(isinstance(box, list) and len(box) == 4 and _finite(box) for box in boxes):
        raise RowFault("wrong_type", "objects", show(objects), expected)
    if objects.get("bbox_type") not in FRAMES:
        expected = "'real' (pixels of the original image) or 'norm1' (fractions of it)"
        raise RowFault("box_text", "objects.bbox_type", show(objects["bbox_type"]), expected)
    if any(number for number in objects.get("image_id") or ()):
        raise RowFault("box_text", "objects.image_id", show(objects["image_id"]), "boxes of the first image (0)")
    turns = [dict(turn) for turn in record["messages"]]
    for tag, given, field in ((REF, names, "ref"), (BOX, boxes, "bbox")):
        count = sum(turn["content"].count(tag) for turn in turns)
        if count != len(given):
            raise RowFault("wrong_type", f"objects.{field}", f"{len(given)} for {count} {tag}", "one for each of them")
    if boxes:
        last = turns.pop()
        said = last["content"].replace(REF, "").replace(BOX, "")
        if last["role"] != "assistant" or any(BOX in turn["content"] for turn in turns):
            expected = "<bbox> in the last answer alone: a box in a question has no notation here"
            raise RowFault("box_text", "objects.bbox", BOX, expected)
        if _JSON_AROUND.sub("", said):
            raise RowFault("box_text", "messages", show(last["content"]), "an answer that is nothing but its boxes")
        if not record.get("images"):
            raise RowFault("missing_image", "images", "none", "an image: boxes need one")
        images = record["images"] = [place.image(image) for image in record["images"]]
        frame, size = FRAMES[objects.get("bbox_type")], place.size(images[0])
        record = record | {
            "boxes": [
                list(map(float, box)) if frame == "pixel" else convert(box, frame, "pixel", size) for box in boxes
            ],
            "answer": None,
        }
        record["task"] = record["task"] if record.get("task") not in (None, "open_ended") else "grounding"
    left = iter(names)
    for turn in turns:
        turn["content"] = re.sub(re.escape(REF), lambda _: next(left), turn["content"])
    return record | {"messages": turns}


def _finite(box: list[Any]) -> bool:
    return all(type(x) in (int, float) and abs(x) < 1e9 for x in box)
