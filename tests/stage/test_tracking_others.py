"""One run of GRPO that reports to trackio and to tensorboard, read back from the files that both leave."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageColor

from stage.runs import read_metrics
from stage.tracking import overlays
from stage.tracking.pictures import small
from stage.tracking.samples import NAME
from stage.tracking.table import Asked, Batch, Reading, row
from tests.support.processes.commands import ROOT, grpo, run
from vlm.pictures.drawing import PREDICTED, TRUE

TRACKING = (
    "tracking={report_to: [trackio, tensorboard], project: rewards, name: first, group: g, "
    "axes: {start: zero, seed: 0}, samples: {rows: 2, every: 1}, alerts: {window: 2, patience: 1}}"
)


@pytest.fixture(scope="module")
def ran(tiny_model, demo_data, tmp_path_factory):
    """Two steps of a random model, whose completions come to no end: an alert."""
    folder = tmp_path_factory.mktemp("trackers")
    argv = grpo(tiny_model, demo_data, folder / "run", TRACKING)
    # started, not forked: trackio reads the variable where it is imported
    run([sys.executable, ROOT / "launch/grpo.py", *argv], cwd=folder, TRACKIO_DIR=str(folder / "trackio"))
    return SimpleNamespace(folder=folder / "run", trackio=folder / "trackio")


@pytest.fixture(scope="module")
def base(ran):
    """trackio's data base of the project."""
    connection = sqlite3.connect(ran.trackio / "rewards.db")
    yield connection
    connection.close()


def logged(folder: Path) -> list[dict]:
    return [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def close(expected: float):
    return pytest.approx(expected, rel=1e-6)


def test_trackio_has_the_metrics_and_what_to_group_by(ran, base):
    rows = base.execute("select run_name, metrics from metrics order by id").fetchall()
    assert {name for name, _ in rows} == {"first"}
    steps = [found for found in (json.loads(text) for _, text in rows) if "train/loss" in found]
    assert len(steps) == 2
    for found, expected in zip(steps, logged(ran.folder), strict=True):
        for key in ("loss", "reward", "rewards/gated/mean", "entropy", "guards/skipped_steps"):
            assert found[f"train/{key}"] == close(expected[key]), key
    (told,) = (json.loads(text) for (text,) in base.execute("select config from configs"))
    assert (told["axes"], told["cell"], told["group"]) == ({"start": "zero", "seed": 0}, "start=zero", "g")
    assert told["recipe"]["training"]["max_steps"] == 2 and told["stage"] == "grpo"


def test_trackio_has_tables_with_pictures(ran, base):
    found = [json.loads(text) for (text,) in base.execute("select metrics from metrics order by id")]
    tables = [(one["train/global_step"], one[NAME]["_value"]) for one in found if NAME in one]
    kept = [json.loads(line) for line in (ran.folder / "samples.jsonl").read_text().splitlines()]
    assert [step for step, _ in tables] == [1, 2] and [len(cells) for _, cells in tables] == [2, 2]
    for cell, line in zip((cell for _, cells in tables for cell in cells), kept, strict=True):
        assert (cell["step"], cell["id"], cell["completion"]) == (line["step"], line["id"], line["completion"])
        assert cell["gated"] == close(line["rewards"]["gated"]) and cell["advantage"] == close(line["advantage"])
        with Image.open(ran.trackio / "media" / cell["image"]["file_path"]) as shown:
            assert shown.convert("RGB").tobytes() == overlays.drawn(line, ran.folder).convert("RGB").tobytes()


def test_trackio_is_alerted(ran, base):
    told = base.execute("select title, text, level from alerts order by id").fetchall()
    lines = [json.loads(line) for line in (ran.folder / "alerts.jsonl").read_text().splitlines()]
    assert told == [(line["title"], line["text"], "warn") for line in lines]
    assert any("cut off" in title for title, _, _ in told)


def test_tensorboard_has_the_metrics(ran):
    (path,) = ran.folder.glob("**/events.out.tfevents.*")
    found: dict[tuple[int, str], float] = {}
    for event in events(path):
        found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    for expected in logged(ran.folder):
        for key in ("loss", "reward", "rewards/gated/mean", "entropy"):
            assert found[expected["step"], f"train/{key}"] == close(expected[key]), key


def events(path: Path):
    """Of a TFRecord file: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event  # make test-oldest has none, and collects this file

    content, place = path.read_bytes(), 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield Event.FromString(content[place + 12 : place + 12 + length])
        place += 16 + length


def test_boxes_are_drawn_for_trackio(tmp_path):
    """A black picture; the true box in green, the answer's in orange and dashed."""
    truth = {"answer": None, "boxes": [[100.0, 100.0, 300.0, 300.0]], "quads": None, "size": (400, 400)}
    columns = {"task": "grounding", "source": "s", "id": "1", "resized": None, **truth}
    found = Asked(0, columns, [small(Image.new("RGB", (400, 400)), 10_000)])
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / found.pictures[0].name).write_bytes(found.pictures[0].content)
    line = row(found, Batch(3, 1, 9, 2), Reading(tagged=False), ("Q", "(500,500),(900,900)"), {"iou": 0.1}, 0.0)
    assert overlays.truth(line) == "100, 100, 300, 300"
    assert overlays.truth(line | {"truth": line["truth"] | {"boxes": [], "quads": None}}) == "There are none."
    drawn = overlays.drawn(line, tmp_path)  # 100 × 100 pixels: true box from 25 to 75, the answer's from 50 to 90
    assert drawn.size == (100, 100)
    assert near(drawn.getpixel((25, 40)), TRUE)
    assert [near(drawn.getpixel((x, 90)), PREDICTED) for x in (52, 88)] == [True, True]
    assert sum(drawn.getpixel((10, 10))) < 30


def near(found, colour: str) -> bool:
    return all(abs(one - other) < 40 for one, other in zip(found, ImageColor.getrgb(colour), strict=True))
