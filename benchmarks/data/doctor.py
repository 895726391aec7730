"""The data doctor on made-up data of real size:  python -m benchmarks.data.doctor --rows 100000 --pictures 15000

Writes pictures (fractal terrain with buildings, 256², half PNG, half JPEG) and rows that ask several questions about
each (boxes, counts, sentences) into a folder, runs `launch/data.py` on them as a user would, and prints wall time,
CPU time of all its processes, and the main process's peak memory. The data stays and is used again.

Known things are planted, and must be found: one missing picture, one cut short, one copied into the evaluation, one
re-encoded there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.support.common import ROOT

SIDE = 256
BASES = 64
"""Terrains made by FFT; pictures are cuts of them, turned and coloured, for an FFT each would take longer than the
examination."""


def terrains(rng: np.random.Generator) -> list[np.ndarray]:
    """(2·SIDE, 2·SIDE) brightness with a power spectrum of 1/f² to 1/f³, as landscapes have from above."""
    found = []
    frequency = np.fft.fftfreq(2 * SIDE)
    radius = np.hypot(frequency[:, None], frequency[None])
    radius[0, 0] = 1
    for _ in range(BASES):
        noise = np.fft.fft2(rng.normal(size=radius.shape))
        field = np.fft.ifft2(noise / radius ** rng.uniform(1.0, 1.5)).real
        found.append(((field - field.mean()) / field.std()).astype(np.float32))
    return found


def picture(bases: list[np.ndarray], rng: np.random.Generator) -> tuple[Image.Image, list[list[int]]]:
    """A picture, and the boxes of its buildings."""
    left, top = rng.integers(0, SIDE, 2)
    field = np.rot90(bases[rng.integers(BASES)][top : top + SIDE, left : left + SIDE], rng.integers(4))
    shade = field[..., None] * rng.uniform(15, 40) * rng.uniform(0.7, 1.2, 3) + rng.uniform(70, 150, 3)
    pixels = (shade + rng.normal(0, 3, shade.shape)).clip(0, 255).astype(np.uint8)  # sensor noise
    boxes = []
    for _ in range(rng.integers(2, 8)):
        (x, y), (w, h) = rng.integers(0, SIDE - 40, 2).tolist(), rng.integers(6, 40, 2).tolist()
        pixels[y : y + h, x : x + w] = rng.integers(40, 230, 3)
        boxes.append([x, y, x + w, y + h])
    return Image.fromarray(pixels), boxes


def rows_of(name: str, boxes: list[list[int]], count: int, first: int, rng: np.random.Generator):
    """Questions about one picture, in turn: a box, a count, a sentence."""
    for number in range(first, first + count):
        row = {"images": [f"images/{name}"], "size": [SIDE, SIDE], "id": str(number)}
        if number % 3 == 0:
            box = boxes[rng.integers(len(boxes))]
            text = f"the building near {box[0]} metres east and {box[1]} metres south of the corner"
            row |= {"task": "grounding", "boxes": [box]}
        elif number % 3 == 1:
            text = "How many buildings are there in this image?"
            row |= {"task": "vqa", "answer": str(len(boxes)), "kind": "count"}
        else:
            text = "Describe the land between the buildings, and how they are arranged."
            row |= {"task": "open_ended", "answer": f"{len(boxes)} buildings stand on open, undulating land."}
        yield row | {"messages": [{"role": "user", "content": text}]}


def make(folder: Path, rows: int, pictures: int) -> None:
    """The data: nine of ten pictures are trained on, the others held out."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    bases = terrains(rng)
    made = {"train": 0, "eval": 0}
    with open(folder / "train.jsonl", "w") as train, open(folder / "eval.jsonl", "w") as held_out:
        for number in tqdm(range(pictures), desc="pictures"):
            role, file = ("eval", held_out) if number % 10 == 9 else ("train", train)
            image, boxes = picture(bases, rng)
            name = f"{number}.{'png' if number % 2 else 'jpg'}"
            image.save(folder / "images" / name, quality=90)
            count = rows * (number + 1) // pictures - rows * number // pictures
            for row in rows_of(name, boxes, count, made[role], rng):
                file.write(json.dumps(row) + "\n")
                made[role] += 1
    images = folder / "images"
    (images / "0.jpg").unlink()
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:20_000])
    shutil.copy(images / "3.png", images / "9.png")
    Image.open(images / "5.png").save(images / "19.png.jpg", quality=80)
    (images / "19.png.jpg").rename(images / "19.png")  # Pillow goes by content
    (folder / "recipe.yaml").write_text(
        f"stage: grpo\noutput: {folder}/run\nmodel: {{path: {ROOT}/demo/base, dtype: float32, attention: sdpa}}\n"
        f"images: {{min_pixels: 65536, max_pixels: 65536}}\n"
        f"data:\n  train: [{{path: {folder}/train.jsonl}}]\n  eval: [{{path: {folder}/eval.jsonl}}]\n"
    )
    (folder / "made.json").write_text(json.dumps([rows, pictures]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=15_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/doctor"))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    folder = options.folder.absolute()
    made = folder / "made.json"
    if not made.exists() or json.loads(made.read_text()) != [options.rows, options.pictures]:
        make(folder, options.rows, options.pictures)
    command = [sys.executable, ROOT / "launch/data.py", folder / "recipe.yaml", "--workers", str(options.workers)]
    begun = time.perf_counter()
    done = subprocess.run([str(part) for part in command], check=False)
    wall = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads((folder / "run/doctor/report.json").read_text())
    found = (report["pictures"]["unfit"]["cannot be decoded"]["count"], report["contamination"]["pictures"])
    assert done.returncode == 1 and found == (1, {"same pixels": 1, "alike": 1}), found
    cpu = used.ru_utime + used.ru_stime
    print(f"{options.rows:,} rows, {options.pictures:,} pictures, {options.workers} workers, {os.cpu_count()} cores:")
    print(f"wall {wall:.1f} s, CPU {cpu:.1f} s, peak memory of a process {used.ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
