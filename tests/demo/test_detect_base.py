"""The detection demo's shipped base: small, of the demo's tokenizer, able to do what the demo builds on, no more."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from demo.detect import corpus
from demo.detect.scene import scene
from demo.tiny import processor
from demo.world.render import render
from evals.predictions import Prediction
from evals.scoring.detecting.score import Detection
from evals.scoring.reading import Reading
from tests.support.processes.commands import ROOT
from vlm.boxes import corners
from vlm.loading import load_model
from vlm.sections import ModelSection

BASE = ROOT / "demo/detect/base"
COUNT = 48


def test_it_is_small_and_has_the_tokenizer_of_the_demo():
    assert sum(path.stat().st_size for path in BASE.iterdir()) < 8_000_000
    ours, demos = (json.loads((folder / "tokenizer.json").read_text()) for folder in (BASE, ROOT / "demo/base"))
    assert ours == demos


def test_it_lists_some_of_the_things_of_pictures_that_no_split_holds():
    """Of 400 it found 31.5%, two things a picture (demo/detect/base/README.md): bounds leave room for 48 of them."""
    parts = processor(AutoTokenizer.from_pretrained(BASE))
    model = load_model(ModelSection(path=str(BASE), dtype="float32", attention="sdpa")).eval()
    scenes = [scene(900_000_000 + number) for number in range(COUNT)]
    pictures = [render(one).resize((112, 112)) for one in scenes]
    given = parts(text=[corpus.ASKED] * COUNT, images=pictures, return_tensors="pt", padding=True, padding_side="left")
    with torch.inference_mode():
        ids = model.generate(**given, max_new_tokens=140, do_sample=False)
    texts = parts.tokenizer.batch_decode(ids[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
    classes = sorted({thing.name for one in scenes for thing in one.things})
    rows = [
        Prediction(
            str(one.seed), "x", "detection", text, quads=[corners(list(thing.box)) for thing in one.things],
            labels=[thing.name for thing in one.things], classes=classes, size=(224, 224),
        )
        for one, text in zip(scenes, texts, strict=True)
    ]  # fmt: skip
    found = Detection()(rows, Reading("qwen2_vl", "text")).metrics
    assert 0.2 < found["detection/recall@0.5"].value < 0.45
    assert 1.5 < found["detection/boxes_said"].value < 2.6
    assert found["detection/unreadable"].value < 0.1


def test_losses_are_kept():
    rows = [json.loads(line) for line in (BASE / "pretrain.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(50, 801, 50))
    assert rows[-1]["loss"] == pytest.approx(0.95, abs=0.05)
