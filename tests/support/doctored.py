"""Small data for the doctor: textured pictures, a training and a held-out file, and a recipe of them."""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from samples.doctor.command import command
from tests.support.processes.commands import ROOT
from tests.support.sample_rows import dump

SIDE = 64


def texture(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Blurred noise: no two seeds look alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return (
        Image.fromarray(noise)
        .filter(ImageFilter.GaussianBlur(4))
        .point(lambda v: max(0, min(255, (v - 127) * 6 + 127)))
    )


def asked(image: str, number: int, **changes) -> dict:
    row = {"images": [image], "messages": [{"role": "user", "content": f"question {number}"}], "task": "vqa"}
    return row | {"answer": "two words", "id": str(number), "kind": "count"} | changes


def put_data(folder: Path) -> Path:
    """Six training rows about a.png, b.png, c.png and three held-out ones about d.png; a GRPO recipe of them."""
    for number, name in enumerate("abcd"):
        texture(number).save(folder / f"{name}.png")
    dump(folder / "train.jsonl", [asked(f"{'abc'[n % 3]}.png", n) for n in range(6)])
    dump(folder / "test.jsonl", [asked("d.png", n) for n in range(3)])
    (folder / "recipe.yaml").write_text(
        f"stage: grpo\noutput: {folder}/run\nmodel: {{path: {ROOT}/demo/base, dtype: float32}}\n"
        "images: {min_pixels: 12544, max_pixels: 12544}\n"
        f"data:\n  train: [{{path: {folder}/train.jsonl}}]\n  eval: [{{path: {folder}/test.jsonl}}]\n"
    )
    return folder


def launcher():
    """launch/data.py as a module."""
    spec = importlib.util.spec_from_file_location("launch_data", ROOT / "launch/data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def doctor(folder: Path, *overrides: str, **options) -> int:
    """The command's exit code, in this process."""
    given = {"against": None, "out": folder / "out", "workers": 1, "strict": False, **options}
    doctor = launcher()
    return command(
        doctor.recipe_of, Namespace(recipe=str(folder / "recipe.yaml"), overrides=overrides, **given), doctor.subject_of
    )
