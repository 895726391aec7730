"""The files that docs/reproduce/ names, tiny: a picture or two a set, a few rows, under the names of the pages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BOX, QUAD = [20, 30, 80, 70], [20, 40, 60, 30, 80, 60, 40, 70]
SHIP = [5, 5, 35, 5, 35, 25, 5, 25]
LABELS = "20 40 60 30 80 60 40 70 small-vehicle 0\n5 5 35 5 35 25 5 25 ship 1\n"
XML = (
    "<annotation><filename>{0}.jpg</filename><size><width>112</width><height>112</height><depth>3</depth></size>"
    "<object><name>dam</name><bndbox><xmin>20</xmin><ymin>30</ymin><xmax>80</xmax><ymax>70</ymax></bndbox>"
    "<description>the dam {0}</description></object></annotation>"
)


def build(root: Path) -> None:
    """All below root/data."""
    data = root / "data"
    _talks(data)
    _teochatlas(data / "TEOChatlas/train")
    _levir(data)
    _refgeo(data / "refGeo")
    _detection(data)
    _lrs(data)
    _rsvg(data / "DIOR-RSVG")
    _rsvqa(data / "RSVQA-HR")


def _picture(path: Path, side: int = 112) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _lines(path: Path, rows: Iterable[Any]) -> None:
    _text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _talk(image: str, asked: str, said: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": said}]
    return {"id": asked, "image": image, "conversations": turns}


def _talks(data: Path) -> None:
    for folder, file, rows in (
        ("VHM", "vhm_sft", [("the dam", "[[012,025,112,100]]"), ("Is there water?", "yes")]),
        ("LLaVA-OneVision", "vl", [(f"What is this, {number}?", "a dog") for number in range(10)]),
    ):
        _picture(data / folder / "a.png")
        _text(data / folder / f"{file}.json", json.dumps([_talk("a.png", *row) for row in rows]))


def _teochatlas(folder: Path) -> None:
    shown = [f"xBD/{number}.png" for number in range(9)]
    for name in shown:
        _picture(folder / name)
    box = "This is a pair of satellite images: <video>\nIdentify the changed buildings."
    for name, dataset, asked, said in (
        ("GeoChat_modified", "geochat", "This is a satellite image: <video>\nIs there water?", "yes"),
        ("fMoW", "fmow_high_res", "This is a sequence of images: <video>\nWhich class is this?", "dam"),
        ("QFabric", "qfabric_rqa2", "This is a sequence of images: <video>\nWhat was built?", "Road"),
        ("S2Looking", "s2looking", box, "[20, 30, 70, 60]"),
        ("xBD", "xbd", box, "[20, 30, 70, 60], [0, 0, 10, 10]"),
    ):
        pictures = shown[: 1 if "a satellite image" in asked else 2 if "pair" in asked else 9]
        row = {"video": pictures, "dataset": dataset, "task": "question_answering"}
        if "[" in said:
            row["task"] = "change_detection_localization"
        row["timestamp"] = [f"2019-0{number + 1}-01" for number in range(len(pictures))][::-1]
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
        rows = [row | {"id": str(number), "conversations": turns} for number in range(2)]
        _text(folder / f"instruct_{name}.json", json.dumps(rows))


def _levir(data: Path) -> None:
    said = ("A {} was built.", "There is a new {}.", "Nothing has changed.", "The {} is new.", "A new {}.")
    rows, things = [], ("road", "house", "dam", "pier", "barn")
    for number, split in enumerate(("train", "train", "train", "test", "test")):
        name = f"{split}_{number}.png"
        for side in "AB":
            _picture(data / f"LEVIR-MCI/images/{split}/{side}/{name}")
        label = np.zeros((112, 112), dtype=np.uint8)
        label[20:60, 30:80], label[70:90] = 255, 128
        path = data / f"LEVIR-MCI/images/{split}/label/{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(path)
        sentences = [{"raw": text.format(things[number])} for text in said]
        rows.append({"filepath": split, "filename": name, "split": split, "changeflag": 1, "sentences": sentences})
    _text(data / "LEVIR-MCI/LevirCCcaptions.json", json.dumps({"images": rows}))
    (data / "LEVIR-CC").symlink_to("LEVIR-MCI")


def _refgeo(folder: Path) -> None:
    for name in ("avvg", "dior_rsvg", "geochat", "rsvg", "vrsbench"):
        poly = [] if name in ("dior_rsvg", "rsvg") else [QUAD[place : place + 2] for place in range(0, 8, 2)]
        row = {"image_id": "a.png", "dataset": name, "bbox": BOX, "poly": poly}
        rows = [row | {"question_id": number, "question": f"the dam {number}"} for number in range(2)]
        _lines(folder / "metainfo_v2" / f"{name}_train_v2.jsonl", rows)
        _lines(folder / "metainfo" / f"{name}_test.jsonl", rows)
        _picture(folder / "images" / name / "a.png")
    _picture(folder / "images/geochat_test/a.png")


def _detection(data: Path) -> None:
    tiles = data / "split_ss_dota_512"
    names = ["small-vehicle", "ship", "plane"]
    objects = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 30, 60, 40], "segmentation": [QUAD], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [5, 5, 30, 20], "segmentation": [SHIP]},
    ]  # fmt: skip
    images = [
        {"id": number, "file_name": f"{name}.png", "width": 112, "height": 112} for number, name in enumerate("ab", 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    _text(tiles / "trainval.json", json.dumps({"images": images, "annotations": objects, "categories": categories}))
    for name in "ab":
        _picture(tiles / "trainval/images" / f"{name}.png")
        _picture(data / "DOTA/images" / f"{name}.png")
        _picture(data / "DOTA/train/images" / f"{name}.png", 600)
        _picture(data / "DOTA/test/images" / f"{name}.png", 600)
        for folder in ("DOTA", "DOTA/train"):
            _text(data / folder / "labelTxt" / f"{name}.txt", LABELS if name == "a" else "imagesource:GoogleEarth\n")


def _lrs(data: Path) -> None:
    folder = data / "LRS_VQA"
    row = {"image": "LRS_VQA/images/train/a.png", "image_ori_width": 1200, "image_ori_height": 1200}
    region = {"bbox_info": {"crop_hbox": [[300, 400, 700, 800]]}}
    asked = [row | region | {"question": "What colour is the roof?", "answer": "red"}]
    asked.append(row | {"bbox_info": {"crop_hbox": []}, "question": "Is it rural?", "answer": "no"})
    choice = {"Text": "Which is larger?", "Answer choices": ["(A) left", "(B) right"], "Ground truth": "A"}
    for name, rows in (("gpt4v", asked), ("template", asked[:1]), ("mcq", [row | region | choice])):
        _text(folder / f"annotations/train/{name}.json", json.dumps(rows))
    _picture(folder / "images/train/a.png", 1200)
    _picture(folder / "image/a.png", 1200)
    shown = {"image": "LRS_VQA/image/a.png", "image_size": [1200, 1200]}
    question = shown | {"question_id": "FAIR_1", "category": "object color", "ground_truth": "red"}
    question |= {"text": "What colour is the roof?", "hbox": [300, 400, 700, 800]}
    counted = shown | {"question_id": "STAR_1", "category": "count", "ground_truth": "2"}
    _lines(folder / "LRS_VQA_merged.jsonl", [question, counted | {"text": "How many?"}])
    gro = {
        "question_id": "LRS-GRO-1",
        "image_name": "a.png",
        "category": "color",
        "question": "What colour is the roof?",
    }
    gro |= {"higher_level": "perception", "ground_truth": "red", "bbox": [256, 341, 597, 683], "type": "object"}
    _lines(data / "LRS-GRO/rl.jsonl", [gro | {"question_id": f"LRS-GRO-{number}"} for number in range(2)])
    _picture(data / "LRS-GRO/image/a.png", 1200)


def _rsvg(folder: Path) -> None:
    for number, split in enumerate(("train", "val", "test"), 1):
        _text(folder / f"Annotations/0000{number}.xml", XML.format(f"0000{number}"))
        _picture(folder / f"JPEGImages/0000{number}.jpg")
        _text(folder / f"{split}.txt", f"{number - 1}\n")


def _rsvqa(folder: Path) -> None:
    question = {
        "id": 5,
        "img_id": 3,
        "type": "presence",
        "question": "Is there water?",
        "answers_ids": [6],
        "active": True,
    }
    answer = {"id": 6, "question_id": 5, "answer": "yes", "active": True}
    _text(folder / "USGS_split_train_questions.json", json.dumps({"questions": [question | {"active": True}]}))
    _text(folder / "USGS_split_train_answers.json", json.dumps({"answers": [answer]}))
    _picture(folder / "Data/3.tif")
