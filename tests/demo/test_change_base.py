"""The change demo's shipped base: small, of the demo's tokenizer, able to do what the demo builds on, no more."""

import json
import random

import pytest
import torch
from transformers import AutoTokenizer

from demo.change import corpus
from demo.change.captions import gold, read
from demo.change.scene import mask, pair, scene
from demo.tiny import processor
from demo.world.render import render
from demo.world.tasks import noun
from tests.support.processes.commands import ROOT
from vlm.loading import load_model
from vlm.masks import read_mask, runs_of
from vlm.sections import ModelSection

BASE = ROOT / "demo/change/base"
COUNT = 64
FIRST = 900_000_000
"""Seeds that no split holds."""


def test_it_is_small_and_has_the_tokenizer_of_the_demo():
    assert sum(path.stat().st_size for path in BASE.iterdir()) < 8_000_000
    ours, demos = (json.loads((folder / "tokenizer.json").read_text()) for folder in (BASE, ROOT / "demo/base"))
    assert ours == demos


@pytest.fixture(scope="module")
def ask():
    """(question, pictures of each) → answers, greedy."""
    parts = processor(AutoTokenizer.from_pretrained(BASE))
    model = load_model(ModelSection(path=str(BASE), dtype="float32", attention="sdpa")).eval()

    def answers(texts, pictures, most):
        seen = [[picture.resize((112, 112)) for picture in of] for of in pictures]
        given = parts(text=texts, images=seen, return_tensors="pt", padding=True, padding_side="left")
        with torch.inference_mode():
            ids = model.generate(**given, max_new_tokens=most, do_sample=False)
        return parts.tokenizer.batch_decode(ids[:, given["input_ids"].shape[1] :], skip_special_tokens=True)

    return answers


def test_it_says_in_part_what_changed(ask):
    """Of 400 pairs: demo/change/base/README.md; bounds leave room for 64 of them."""
    pairs = [pair(FIRST + number) for number in range(COUNT)]
    question = corpus.PLAIN + corpus.TURN.format(corpus.PICTURE * 2 + corpus.CHANGED)
    said = ask([question] * COUNT, [[render(one.before), render(one.after)] for one in pairs], 28)
    assert 0.45 < sum(map(gold, said, pairs)) / COUNT < 0.75
    told = [(text, one) for text, one in zip(said, pairs, strict=True) if read(text).get("kind") in ("new", "gone")]
    assert sum(read(text)["kind"] == one.kind for text, one in told) > 0.65 * len(told)


def test_it_outlines_what_is_named(ask):
    scenes = [scene(FIRST + number) for number in range(COUNT)]
    things = [random.Random(one.seed).choice(one.things) for one in scenes]
    asked = [corpus.TOLD + corpus.TURN.format(corpus.PICTURE + corpus.SEGMENT.format(noun(t))) for t in things]
    said = ask(asked, [[render(one)] for one in scenes], 64)
    overlaps = [
        read_mask(text, corpus.FORM, (224, 224), (112, 112)).overlap(runs_of(mask(thing)))
        for text, thing in zip(said, things, strict=True)
    ]
    assert 0.2 < sum(i / u for i, u in overlaps) / COUNT < 0.32


def test_losses_are_kept():
    rows = [json.loads(line) for line in (BASE / "pretrain.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == 1400 and rows[-1]["phase"] == "chats"
