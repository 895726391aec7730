"""Benchmarks of a few questions in the layouts that their projects publish."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image


def picture(path: Path, number: int, size: tuple[int, int] = (112, 112)) -> Path:
    """A picture of noise that is smooth enough to compress, different for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 20 + 5 * number).convert("RGB").save(path)
    return path


def vg_dior(root: Path, count: int = 6) -> None:
    """VG-DIOR: conversations, truth in pixels; boxes of 20 + 10 n pixels a side."""
    rows = []
    for number in range(count):
        name = picture(root / "VG-DIOR/VG_DOIR_RSVG_test" / f"{number:05}.jpg", number).name
        turns = [
            {"from": "human", "value": f"<image>\nthe dam number {number}"},
            {"from": "gpt", "value": f"[10,10,{30 + 10 * number},{30 + 10 * number}]"},
        ]
        rows.append({"image": name, "conversations": turns})
    (root / "VG-DIOR/VG_DOIR_RSVG_test.json").write_text(json.dumps(rows))


def aid(root: Path, count: int = 2) -> None:
    """AID: a folder for each class; two of its thirty."""
    for kind in ("Airport", "DenseResidential"):
        for number in range(count):
            picture(root / "AID" / kind / f"{kind.lower()}_{number}.jpg", number)


def lhrs_bench(root: Path) -> None:
    """LHRS-Bench: three questions about two pictures, one of them of two types."""
    pairs = [
        {"question": "What is it?", "choices": "A. harbor B. airport", "answer": "A", "type": ["1"]},
        {"question": "How many ships?", "choices": "A. 1 B. 2 C. 3", "answer": "B", "type": ["5", "11"]},
    ]
    other = {"question": "Which colour?", "choices": "A. red B. blue", "answer": "B", "type": ["2"]}
    data = [{"filename": "a.png", "qa_pairs": pairs}, {"filename": "b.png", "qa_pairs": [other]}]
    folder = root / "LHRS-Bench"
    for number, name in enumerate(("a.png", "b.png")):
        picture(folder / "images" / name, number)
    names = {"1": "identity", "2": "color", "5": "quantity", "11": "reasoning"}
    (folder / "LHRS-Bench.json").write_text(json.dumps({"qtype": names, "data": data}))


def dota(root: Path) -> None:
    """DOTA: two tiles; a plane and two ships, one of them difficult, then a ship."""
    folder = root / "DOTA"
    labels = {
        "P0001": "imagesource:GoogleEarth\ngsd:0.1\n10 10 50 10 50 30 10 30 plane 0\n60 60 80 60 80 80 60 80 ship 0\n"
        "90 90 100 90 100 100 90 100 ship 1\n",
        "P0002": "20 20 60 20 60 60 20 60 ship 0\n",
    }
    (folder / "labelTxt").mkdir(parents=True)
    for number, (name, text) in enumerate(labels.items()):
        (folder / "labelTxt" / f"{name}.txt").write_text(text)
        picture(folder / "images" / f"{name}.png", number)
