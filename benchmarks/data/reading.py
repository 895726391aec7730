"""How long reading data takes beyond parsing it, and what it holds in memory.

    python -m benchmarks.data.reading --rows 100000

Every layout is written once with `rows` questions about a tenth as many images. Then two ways take turns, in an order
that alternates: `json.loads` (or pyarrow, or the XML parser) on every row, and `samples.read`. The overhead is the
difference in the process's CPU time, in microseconds a row:

    named     format given, image headers not opened
    told      format by content, headers not opened
    verified  format given, headers opened (each image once: rows about an image stand together)

Peak memory is VmHWM of a process that reads all rows or a tenth of them, less that of one that reads ten.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

import samples

ROOT = Path(__file__).parents[2]
QUESTION, ANSWER = "How many ships lie at the pier near the red building?", "There are two of them at the left pier."
OBJECT = (
    "<object><name>dam</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>12</ymax></bndbox>"
    "<description>A dam on the left</description></object>"
)
FORMATS = {
    "nadir.jsonl": "nadir",
    "vg_dior.json": "vg_dior",
    "conversations.json": "conversations",
    "conversations.jsonl": "conversations",
    "refgeo.jsonl": "refgeo",
    "LR_split_test_questions.json": "rsvqa",
    "scorers.parquet": "scorers_rl",
    "rsvg": "dior_rsvg",
}
UNTOLD = ("vg_dior.json",)
"""Their frame cannot be told."""


def write(folder: Path, count: int) -> None:
    """All layouts."""
    import pyarrow as pa
    from pyarrow import parquet

    (folder / "images").mkdir()
    names = [f"{i // 10:06d}.jpg" for i in range(count)]
    for name in dict.fromkeys(names):
        Image.new("RGB", (40, 20)).save(folder / "images" / name)

    def dump(name: str, rows: Iterator[dict[str, Any]], key: str | None = None) -> None:
        if name.endswith("l"):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            (folder / name).write_text(json.dumps(list(rows) if key is None else {key: list(rows)}))

    def talk(answer: str) -> Iterator[dict[str, Any]]:
        turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": answer}]
        return ({"image": name, "image_path": "images", "conversations": turns} for name in names)

    user, box = [{"role": "user", "content": QUESTION}], [1, 2, 11, 12]
    dump("nadir.jsonl", ({"images": [f"images/{n}"], "messages": user, "task": "vqa", "answer": "2"} for n in names))
    dump("vg_dior.json", talk(str(box)))
    dump("conversations.json", talk(ANSWER))
    dump("conversations.jsonl", talk(ANSWER))
    poly = [[1, 2], [11, 2], [11, 12], [1, 12]]
    dump("refgeo.jsonl", ({"image_id": n, "question": QUESTION, "bbox": box, "poly": poly} for n in names))
    asked = ({"id": i, "img_id": n, "type": "count", "question": QUESTION, "active": True} for i, n in enumerate(names))
    dump("LR_split_test_questions.json", asked, "questions")
    dump("LR_split_test_answers.json", ({"question_id": i, "answer": "2"} for i in range(count)), "answers")
    table = [{"problem": QUESTION, "answer": "2", "type": "em", "image": f"images/{n}"} for n in names]
    parquet.write_table(pa.Table.from_pylist(table), folder / "scorers.parquet")
    (folder / "rsvg" / "Annotations").mkdir(parents=True)
    for name in dict.fromkeys(names):
        head = f"<filename>{name}</filename><size><width>40</width><height>20</height></size>"
        text = f"<annotation>{head}{OBJECT * names.count(name) if count < 100 else OBJECT * 10}</annotation>"
        (folder / "rsvg" / "Annotations" / f"{Path(name).stem}.xml").write_text(text)


def parse(path: Path) -> None:
    """Every row as the parser gives it, and no more."""
    if path.is_dir():
        for file in sorted((path / "Annotations").iterdir()):
            ElementTree.parse(file)
    elif path.suffix == ".parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(64):
                batch.to_pylist()
    elif path.suffix == ".jsonl":
        with path.open("rb") as file:
            for line in file:
                json.loads(line)
    else:
        json.loads(path.read_bytes())
        if path.name.endswith("questions.json"):
            json.loads(path.with_name(path.name.replace("questions", "answers")).read_bytes())


def read(path: Path, name: str | None, verify: bool, limit: int | None = None) -> None:
    task = "open_ended" if path.stem == "conversations" else None
    found = samples.read(path, name, images=path.parent / "images" if path.is_dir() else None, task=task,
                         verify_images=verify)  # fmt: skip
    for number, _ in enumerate(found):
        if number == limit:
            return


def seconds(way: Callable[[], None]) -> float:
    started = time.process_time()
    way()
    return time.process_time() - started


def memory(path: Path, name: str, limit: int) -> float:
    """MiB at the peak of a process of its own that reads this many rows."""
    code = (
        "from pathlib import Path; from benchmarks.data.reading import read\n"
        f"read(Path({str(path)!r}), {name!r}, False, {limit})\n"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def measure(path: Path, name: str, count: int, repeats: int) -> dict[str, Any]:
    ways: dict[str, Callable[[], None]] = {
        "parse": lambda: parse(path),
        "named": lambda: read(path, name, False),
        "told": lambda: read(path, None, False),
        "verified": lambda: read(path, name, True),
    }
    if path.name in UNTOLD:
        del ways["told"]
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats):
        for way in list(ways)[:: -1 if turn % 2 else 1]:
            times[way].append(seconds(ways[way]) / count * 1e6)
    over = {way: [a - b for a, b in zip(times[way], times["parse"], strict=True)] for way in ways if way != "parse"}
    row: dict[str, Any] = {"layout": path.name, "parse": spread(times["parse"])}
    row |= {way: spread(values) for way, values in over.items()}
    base, tenth, whole = (memory(path, name, limit) for limit in (10, count // 10, count))
    return row | {"MiB, a tenth": round(tenth - base, 1), "MiB, all": round(whole - base, 1)}


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=FORMATS, default=list(FORMATS), help="layouts")
    parser.add_argument("--out", type=Path, help="folder for reading.md")
    options = parser.parse_args()
    columns = ["layout", "parse", "named", "told", "verified", "MiB, a tenth", "MiB, all"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.rows)
        for name in options.only:
            row = measure(Path(folder) / name, FORMATS[name], options.rows, options.repeats)
            lines.append("| " + " | ".join(str(row.get(column, "–")) for column in columns) + " |")
            print(lines[-1], flush=True)
    about = f"{options.rows} rows, {options.repeats} repeats, Python {platform.python_version()}, {platform.machine()}"
    text = "\n".join([f"Microseconds of CPU a row, median (min–max); {about}.", "", *lines, ""])
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "reading.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
