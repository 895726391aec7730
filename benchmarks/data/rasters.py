"""Reading pictures that are too large to be decoded whole: time, and memory above that of the imports.

    python -m benchmarks.data.rasters --folder /tmp/pictures            # 26,176 x 24,832 pixels, and 10,000 x 10,000
    python -m benchmarks.data.rasters --folder /tmp/pictures --side 4000 --square 3000

The files are made once, from waves and noise of a fixed seed, and stay in the folder until you delete it (2.5 GB). What
is kept of reduced pictures goes to a folder of its own, which ends with the run. Each line is a process:

    window       2,000 x 2,000 pixels near the lower right corner, as they are stored
    reduced      the whole picture at what a model sees of 1,048,576 pixels
    reduced, 2nd the same once more, in another process
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
TILES = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "BIGTIFF": "IF_SAFER"}
MODEL = (262144, 1048576)


def make(path: Path, width: int, height: int, **options: object) -> None:
    """Waves with noise, 512 rows at a time."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    noise = np.random.default_rng(0).integers(0, 48, (3, 512, width), np.uint8)
    across = np.sin(np.arange(width) / 300) * 60 + 100
    with rasterio.open(path, "w", width=width, height=height, count=3, dtype="uint8", **TILES, **options) as file:
        for top in range(0, height, 512):
            rows = min(512, height - top)
            wave = across + np.sin(np.arange(top, top + rows) / 200)[:, None] * 40
            file.write(noise[:, :rows] + wave.astype(np.uint8), window=Window(0, top, width, rows))


def files(folder: Path, width: int, height: int, square: int) -> list[Path]:
    """All kinds; those that are there already are taken as they are."""
    import rasterio
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    folder.mkdir(parents=True, exist_ok=True)
    deflate, jpeg, overviews = (folder / f"{name}.tif" for name in ("deflate", "jpeg", "overviews"))
    if not deflate.exists():
        make(deflate, width, height, compress="deflate", zlevel=1, photometric="RGB")
    for path in (jpeg, overviews):
        if not path.exists():
            make(path, width, height, compress="jpeg", photometric="YCBCR")
            if path == overviews:
                with rasterio.open(path, "r+") as file:
                    file.build_overviews([2, 4, 8, 16, 32], rasterio.enums.Resampling.average)
    made = [folder / name for name in ("square.png", "square.jpg", "progressive.jpg")]
    if not all(path.exists() for path in made):
        make(folder / "square.tif", square, square, photometric="RGB")
        with Image.open(folder / "square.tif") as picture:
            picture.save(made[0], compress_level=1)
            picture.save(made[1], quality=90)
            picture.save(made[2], quality=90, progressive=True)
        (folder / "square.tif").unlink()
    return [deflate, jpeg, overviews, *made]


def peak() -> int:
    """KiB: VmHWM of this process."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))


def measured(path: str, case: str) -> dict[str, float]:
    """One reading in this process."""
    from vlm.pictures import images, rasters, resizing
    from vlm.sections import PictureSection

    images.use(PictureSection(limit=2**31))
    rasters.library()
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    width, height = images.size(path)
    if case == "window":
        images.window(path, (width - 2500, height - 2500, width - 500, height - 500))
    else:
        resizing.shown(path, MODEL)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "MiB": (peak() - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/rasters"))
    parser.add_argument("--side", type=int, default=26176, help="width of the TIFFs; their height is 0.949 of it")
    parser.add_argument("--square", type=int, default=10000, help="side of the PNG and the JPEGs")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.one:
        print(json.dumps(measured(*given.one)))
        return
    found = files(given.folder, given.side, round(given.side * 24832 / 26176), given.square)
    print("| file | MB | | s | CPU s | MiB |\n|---|---:|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as kept:
        environment = os.environ | {"XDG_CACHE_HOME": kept}
        for path in found:
            for case in ("window", "reduced", "reduced, 2nd"):
                command = [sys.executable, "-m", "benchmarks.data.rasters", "--one", str(path), case]
                done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
                one = json.loads(done.stdout)
                told = f"{one['wall']:.2f} | {one['cpu']:.2f} | {one['MiB']:.0f}"
                print(f"| {path.name} | {path.stat().st_size / 1e6:.0f} | {case} | {told} |", flush=True)


if __name__ == "__main__":
    main()
