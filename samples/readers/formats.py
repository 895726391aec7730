"""The registry of formats: how each is recognised, walked over and converted.

A new format is an entry here and a file beside this one. Its `convert` turns a row into a record (the keys of a Sample,
unchecked) or raises RowFault, or LeftOut for a row that asks nothing; its `walk`, where it has one, gives (where, row)
from something else than rows of one file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from samples.readers import (
    captions,
    choice,
    conversations,
    eurosat,
    geochat,
    geovista,
    large,
    lhrs_bench,
    lrs_vqa_zoom,
    million_aid,
    questions,
    rl_rows,
    rsvg,
    rsvqa,
    scenes,
    vrsbench,
    zoomearth,
)
from samples.readers.detection import coco, dior, dota, fair1m, vhr10, yolo_obb
from samples.readers.look import Look
from samples.readers.masked import geopixel
from samples.readers.masked import refgeo as masked_refgeo
from samples.readers.rows import Place, RowFault, Rows
from samples.readers.temporal import cdvqa, change_masks, dubai_cc, earthdial, geobench_vlm, teochatlas
from vlm.boxes import Frame
from vlm.common.errors import DataError

OVERHANG = 0.5
"""Share of a box's area that may lie outside the image in published annotations; it is cut off, and counted."""

WHOLE = 1 << 26
"""Bytes of a file that is read whole to say what it is."""

Walk = Callable[[Look], Iterator[tuple[int | str, dict[str, Any] | RowFault]]]


@dataclass(frozen=True)
class Format:
    name: str
    about: str
    "One line, for messages and the documentation."
    convert: Callable[[dict[str, Any], Place, str | None], dict[str, Any]]
    "(row, where images are, the source's task or None) → record."
    fits: Callable[[Look], bool]
    "Whether a path looks like it. Several formats may fit: then the reader asks."
    walk: Walk | None = None
    "None: the rows of the file."
    splits: bool = False
    "Whether `split` chooses among the files of a folder."
    row_splits: bool = False
    "Whether `split` chooses among the rows of a file."
    folders: bool = False
    "Whether it is read from a folder."
    absolute: bool = False
    "Whether its rows may name images by any absolute path: only what our own stages write."
    overhang: float = 0.0
    "Share of a box's area that is cut off where it exceeds the image; more is a fault."
    any_frame: bool = False
    "Whether its layout leaves the frame of boxes open: pixels, or what the source's `frame` says."
    flat: Callable[[dict[str, Any]], bool] | None = None
    "Whether a row's boxes may be without area."
    detects: bool = False
    "Whether its rows may be of the task `detection`, so that a source may say which `classes` they ask for."
    series: bool = False
    "Whether its rows may show one place many times, so that a source may say how many `frames` at most."


def _ours(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    place.check(row.get("images"))
    if "messages" not in row and isinstance(row.get("question"), str):
        row = row | {"messages": [{"role": "user", "content": row["question"]}]}
    return row if task is None else row | {"task": task}


def _talk(name: str) -> Callable[[dict[str, Any], Place, str | None], dict[str, Any]]:
    return lambda row, place, task: conversations.convert(row, name, place, task)


def _has(*names: str) -> Callable[[Look], bool]:
    """Some of the first rows has all of these keys."""
    return lambda look: any(all(name in row for name in names) for row in look.first)


def _without(other: Callable[[Look], bool], fits: Callable[[Look], bool], look: Look) -> bool:
    """Whether a format fits, and another one, whose rows have all of its keys and more, does not."""
    return fits(look) and not other(look)


def _talks(look: Look) -> str | None:
    """Which family of conversations the file holds: by its first row that has turns."""
    first = next((row for row in look.first if conversations.turns(row) is not None), None)
    if first is None or look.key is not None:
        return None
    if teochatlas.fits(look):
        return "series"
    if earthdial.fits(look):
        return "shard"
    if look.once("calls", lambda: geovista.fits(look)):
        return "calls"
    if look.once("masks", lambda: geopixel.fits(look)):
        return "masks"
    if "messages" not in first:
        return "conversations"
    if conversations.uses_from(first):
        return "sharegpt"
    return "nadir" if "task" in first else "roles"


def _is_ours(look: Look) -> bool:
    """Role and content: a Sample, which may lack its task in JSONL; in a list that is ShareGPT."""
    if _talks(look) is None and isinstance(look.rows, Rows) and look.key is None:
        return any({"images", "question"} <= row.keys() and not {"ranked", "chosen"} & row.keys() for row in look.first)
    return _talks(look) == "nadir" or (
        _talks(look) == "roles" and isinstance(look.rows, Rows) and not look.rows.is_list
    )


def _sharegpt(look: Look) -> bool:
    return _talks(look) in ("sharegpt", "roles")


def _boxes_said(look: Look) -> tuple[bool, bool]:
    """Whether answers anywhere in the file hold boxes as lists, and whether turns are GeoChat's; it is read whole."""

    def scan() -> tuple[bool, bool]:
        lists = tagged = False
        for row in look.good():
            lists, tagged = lists or conversations.boxed(row), tagged or geochat.marked(row)
            if lists and tagged:
                break
        return lists, tagged

    return look.once("boxes_said", scan) if _talks(look) == "conversations" else (False, False)


def _framed(look: Look) -> bool:
    return _boxes_said(look)[0] and not lhrs_bench.fits(look)


def _instruct(look: Look) -> bool:
    return _boxes_said(look)[1] and not lhrs_bench.fits(look)


def _conversations(look: Look) -> bool:
    return _talks(look) == "conversations" and not lhrs_bench.fits(look) and not _instruct(look)


def _bench(look: Look) -> bool:
    return any(_bench_row(row) for row in look.first) and not _has("abs_size")(look)


def _bench_row(row: dict[str, Any]) -> bool:
    if {"question_id", "image", "text"} <= row.keys():
        return "image_size" not in row
    if {"image_id", "question", "description"} <= row.keys():
        return True
    asked, truth = row.get("question"), row.get("ground_truth")
    region = isinstance(asked, str) and geochat.BOX.match(asked) is not None
    return {"image_id", "question_id"} <= row.keys() and truth is not None and (region or isinstance(truth, list))


def _evaluated(look: Look) -> bool:
    return any({"image_id", "ground_truth", "question_id"} <= row.keys() for row in look.first) and not _bench(look)


def _scorers(boxed: bool) -> Callable[[Look], bool]:
    def fits(look: Look) -> bool:
        if not _has("problem", "answer", "type")(look):
            return False
        return not boxed or look.once("iou", lambda: any(row.get("type") == "iou" for row in look.good()))

    return fits


def _trl(look: Look) -> bool:
    return _has("prompt")(look) and _talks(look) is None


def _sources() -> Iterable[Format]:
    ours = partial(Format, absolute=True, any_frame=True, detects=True)
    yield ours("nadir", "our JSONL, one Sample per line", _ours, _is_ours)
    frames = {
        "vg_dior": "conversations, boxes in pixels: [10,20,90,80]",
        "vhm": "conversations, boxes in per mille: [[012,025,112,100]]",
    }
    for name, about in frames.items():
        yield Format(name, about, _talk(name), _framed)
    about = "conversations with text answers only (RS-GPT4V, LLaVA lists)"
    yield Format("conversations", about, _talk("conversations"), _conversations)
    yield Format("sharegpt", "messages[{from, value}] and images[]", _talk("sharegpt"), _sharegpt, any_frame=True)
    about = (
        "GeoChat-Instruct and VRSBench_train.json: conversations with tags, boxes in percent: {<10><20><40><50>|<30>}"
    )
    yield Format("geochat", about, geochat.instruct, _instruct)
    yield Format("geochat_bench", "GeoChat-Bench's JSONL files", geochat.bench, _bench, geochat.walk)
    about = "VRSBench_EVAL_*.json, boxes in percent"
    yield Format("vrsbench", about, vrsbench.evaluated, _evaluated, flat=vrsbench.asks)
    about = "VRSBench's annotation of each image (a folder of them, or one)"
    folder = partial(Format, splits=True, folders=True)
    annotated = vrsbench.annotated
    yield folder("vrsbench_annotations", about, annotated, vrsbench.fits, vrsbench.walk, overhang=OVERHANG)
    about = "DIOR-RSVG: folder with Annotations/*.xml, or a split file of object indices; boxes in pixels"
    yield folder("dior_rsvg", about, rsvg.convert, rsvg.fits, rsvg.walk, overhang=OVERHANG)
    about = "RSVQA: …_questions.json with …_answers.json next to it, or their folder"
    yield folder("rsvqa", about, rsvqa.convert, partial(_without, cdvqa.fits, rsvqa.fits), rsvqa.walk)
    about = "LHRS-Bench, choices in the row or in the question"
    yield Format("lhrs_bench", about, lhrs_bench.convert, lhrs_bench.fits, lhrs_bench.walk, folders=True)
    yield Format("choice", "CHOICE's JSON lists, one for each task", choice.convert, choice.fits)
    about = "RSICD, UCM, Sydney, RSITMD, NWPU-Captions, LEVIR-CC: all captions of an image"
    fits = partial(_without, dubai_cc.fits, captions.fits)
    yield Format("captions", about, captions.convert, fits, captions.walk, row_splits=True)
    about = "RSICap and RSIEval (RSGPT): {'annotations': […]}"
    yield Format("rsgpt", about, captions.convert_rsgpt, captions.fits_rsgpt, captions.walk_rsgpt)
    about = "refGeo's JSONL: bbox and poly in pixels"
    yield Format("refgeo", about, questions.refgeo, _has("question", "bbox", "image_id"), overhang=OVERHANG)
    about = "the same rows with refGeo's masks (RSCoVLM's metainfo_v2), asked for by masks"
    yield Format("refgeo_seg", about, masked_refgeo.convert, masked_refgeo.fits)
    about = "GeoPixelD: descriptions with masks inside, its JSON or a folder of its polygons' files"
    yield folder("geopixel", about, geopixel.convert, geopixel.fits, geopixel.walk)
    yield Format("lrs_vqa", "LRS-VQA's JSONL", questions.lrs_vqa, _has("text", "ground_truth", "image", "image_size"))
    about = "LRS-VQA-Zoom (RSCoVLM): a question, a look at its one region, the answer"
    yield Format("lrs_vqa_zoom", about, lrs_vqa_zoom.convert, lrs_vqa_zoom.fits)
    gro = _has("image_name", "question", "ground_truth", "bbox", "higher_level")
    asks = partial(_without, zoomearth.fits, gro)
    yield Format("lrs_gro", "LRS-GRO's JSONL (ZoomEarth)", questions.lrs_gro, asks)
    about = "LRS-GRO's rows for SFT: thoughts, a look at the box, the answer"
    yield Format("lrs_gro_sft", about, zoomearth.convert, zoomearth.fits)
    about = "APEX-GRO (GeoVista): ShareGPT with calls of zoom_in in per mille, crops stored"
    yield Format("apex_gro", about, geovista.convert, lambda look: _talks(look) == "calls")
    about = "MME-RealWorld's JSON list; `split` is a Subtask"
    mme = _has("Question_id", "Image", "Text", "Answer choices", "Ground truth")
    yield Format("mme_realworld", about, large.convert_mme, mme, large.walk_mme, row_splits=True)
    xlrs = _has("question", large.OPTIONS, "answer", "category")
    yield Format("xlrs_bench", "XLRS-Bench's table of the hub, questions with options", large.convert_xlrs, xlrs)
    objects = partial(folder, detects=True, overhang=1.0)
    about = "DOTA: folder with labelTxt and images, or label files; quadrilaterals in pixels"
    yield objects("dota", about, dota.convert, dota.fits, dota.walk)
    for kind, name, said in (("bndbox", "dior_hbb", "boxes"), ("robndbox", "dior_obb", "quadrilaterals")):
        convert = partial(dior.convert, kind)
        about = f"DIOR: folder with Annotations, {said} in pixels"
        yield objects(name, about, convert, partial(dior.fits, kind), partial(dior.walk, kind))
    about = "FAIR1M: folder with labelXml and images; quadrilaterals in pixels"
    yield objects("fair1m", about, fair1m.convert, fair1m.fits, fair1m.walk)
    about = "NWPU VHR-10: folder with 'ground truth' and 'positive image set'; boxes in pixels"
    yield objects("vhr10", about, vhr10.convert, vhr10.fits, vhr10.walk)
    about = "YOLO-OBB: the dataset's YAML with `names`, or its folder; quadrilaterals"
    yield objects("yolo_obb", about, yolo_obb.convert, yolo_obb.fits, yolo_obb.walk, row_splits=True)
    joined = partial(Format, detects=True, overhang=1.0)
    for oriented, name, said in ((False, "coco", "boxes"), (True, "coco_obb", "quadrilaterals from `segmentation`")):
        convert = partial(coco.convert, oriented)
        yield joined(name, f"COCO's JSON: {said}", convert, partial(coco.fits, oriented), partial(coco.walk, oriented))
    about = "a folder of images for each class: AID, UCMerced, NWPU-RESISC45, METER-ML, WHU-RS19, SIRI-WHU"
    own = partial(_without, million_aid.fits, partial(_without, eurosat.fits, scenes.fits))
    yield folder("scenes", about, scenes.convert, own, scenes.walk)
    about = "Million-AID: folders of classes in two or three levels"
    yield folder("million_aid", about, million_aid.convert, million_aid.fits, million_aid.walk)
    about = "EuroSAT: folders of its ten classes (.jpg, or .tif of 13 bands), and lists of splits"
    yield folder("eurosat", about, eurosat.convert, eurosat.fits, eurosat.walk)
    about = "ScoreRS's rows for RL (problem, answer, type em, open_ended or math), no boxes"
    yield Format("scorers_rl", about, rl_rows.scorers, lambda look: _scorers(False)(look) and not _scorers(True)(look))
    units: dict[Frame, str] = {"pixel": "pixels", "per_mille": "per mille", "unit": "fractions of the image"}
    for frame, said in units.items():
        convert = partial(rl_rows.scorers, frame=frame)
        yield Format(f"scorers_rl_{frame}", f"the same with boxes in {said}: [[…]]", convert, _scorers(True))
    about = "TEOChatlas: conversations about a list of pictures, `video`, with dates; boxes in percent: [10, 20, …]"
    yield Format("teochatlas", about, teochatlas.convert, lambda look: _talks(look) == "series", series=True)
    about = "EarthDial's saved tables: pictures jpg, jpg_A, jpg_B …, with turns or questions; boxes in percent"
    yield Format("earthdial", about, earthdial.convert, earthdial.fits, lambda look: look.each(), series=True)
    about = "GEOBench-VLM's qa.json, questions with options in several paraphrases"
    yield Format("geobench_vlm", about, geobench_vlm.convert, geobench_vlm.fits, geobench_vlm.walk, series=True)
    about = "CDVQA: …_questions.json with …_answers.json and …_images.json next to it"
    yield Format("cdvqa", about, cdvqa.convert, cdvqa.fits, cdvqa.walk)
    about = "Dubai-CC's captions of change, pictures in 500_2000 and 500_2010"
    yield Format("dubai_cc", about, dubai_cc.convert, dubai_cc.fits, lambda look: look.each())
    masked = partial(Format, splits=True, folders=True)
    about = "LEVIR-CD: folder with A, B and label, of each split; masks of change"
    yield masked("levir_cd", about, change_masks.convert, change_masks.fits_cd, change_masks.walk_cd)
    about = "LEVIR-MCI: folder with LevirCCcaptions.json and images/SPLIT/label; masks of changed roads and buildings"
    yield masked("levir_mci", about, change_masks.convert, change_masks.fits_mci, change_masks.walk_mci)
    about = "TRL's rows: prompt, image or images, and columns for rewards"
    yield Format("trl", about, rl_rows.trl, _trl, any_frame=True, detects=True)


FORMATS: dict[str, Format] = {one.name: one for one in _sources()}


def listed(names: Iterable[str]) -> str:
    return "".join(f"\n  {name}: {FORMATS[name].about}" for name in names)


def detect(look: Look) -> Format:
    """The one format that fits.

    Raises: DataError where none does, and where several do, which it names: a frame is never guessed.
    """
    fitting = [one.name for one in FORMATS.values() if one.fits(look)]
    if len(fitting) == 1:
        return FORMATS[fitting[0]]
    if fitting:
        raise DataError(f"{look.path}: its content fits several formats; name one of these:{listed(fitting)}")
    if look.wrong is not None:
        raise DataError(f"{look.path}: no row is an object; {look.wrong}{_one_object(look)}")
    if (odd := yolo_obb.odd(look) or scenes.odd(look)) is not None:
        raise DataError(odd)
    if look.rows is None:
        found = "a folder of no layout that is known"
    elif not look.is_hub and not look.path.stat().st_size:
        found = "an empty file"
    else:
        first = next(iter(look.first), {})
        found = f"keys of the first row: {', '.join(map(str, first)) or 'none'}"
        odd = _odd_row(first)
    raise DataError(f"{look.path}: unknown layout ({found}){odd or ''}; formats are:{listed(FORMATS)}")


def _odd_row(row: dict[str, Any]) -> str:
    """What rows of no format are that look like those of some."""
    if {"image_width", "image_height", "bbox", "question"} <= row.keys():
        return f"; XLRS-Bench's visual grounding looks like this: expected {large.UNREAD}"
    if "polygons" in row or "mask_path" in row:
        return "; masks are read of CHOICE, refGeo (refgeo_seg), GeoPixelD and our own rows (docs/rows.md)"
    if row and not any(word in str(key).lower() for key in row for word in ("im", "pic", "file", "prompt", "path")):
        truth = row.keys() & {"annotation", "caption0"}
        said = "; no key names a picture"
        if truth and "answer" in row:
            said += f": these are answers of a program beside the truth ({', '.join(sorted(truth))}), no questions. "
            said += "They are scored as predictions.jsonl (docs/rows.md)"
        return said
    return ""


def _one_object(look: Look) -> str:
    """What a file holds that is one object over many lines, which reads as many broken rows."""
    if look.path.stat().st_size > WHOLE:
        return ""
    try:
        found = json.loads(look.path.read_bytes())
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    return f"\nThe file is one JSON object, with the keys {', '.join(list(found)[:20])}: none whose list is read here"
