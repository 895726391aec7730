"""The pre-training corpus of the tiny base: unlimited scenes, from bare captions to careless annotation.

A curriculum of five phases, because a model this small learns *which* of several things is meant only where the name
stands right before what is said of it, and loses it in longer text unless it came first (LOG.md):

    index     "red ship upper left": every thing of a scene, in random order, no chat
    captions  the same things in short and in whole sentences, each with its box: dense supervision of *where*
    answers   Qwen2-VL's chat, three questions a scene, exactly annotated
    reasoning the same under the R1-style system prompt with truthful traces in tags
    careless  annotations as incomplete and loose as the web's, on purpose and measurably; SFT on truthful traces and
              GRPO with exact rewards can repair what this phase spoils:
        missing   each thing is left out of a scene's annotation with probability 0.35 (counts too low, "no" too often)
        loose     each side of a box is pushed outwards by up to 40% of the box's width or height
        wordy     three quarters of the counts and comparisons and 30% of the other VQA answers are sentences, which
                  exact match does not count
        format    under the R1-style system prompt only half of the answers keep the tags
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from demo.tiny import SYSTEM, WORDING
from demo.world.captions import facts_of
from demo.world.render import render
from demo.world.scene import SIDE, SPLIT_SEEDS, Scene, Thing, scene
from demo.world.tasks import ask, sentences_about, sighting

MISSING, LOOSE, TURNS = 0.35, 0.4, 3
WORDY = {"count": 0.75, "comparison": 0.75, "presence": 0.3, "color": 0.3}
"""Share of the answers that are sentences, by kind of VQA question."""
R1_SHARE = {"reasoning": 0.6, "careless": 0.4}
"""Share of the chats under the R1-style system prompt."""
FORMATTED = {"reasoning": 1.0, "careless": 0.5}
"""Share of the answers there that keep the tags."""
PHASES = (("index", 25_600), ("captions", 76_800), ("answers", 102_400), ("reasoning", 128_000))
"""(phase, up to this row of the corpus); what comes after is `careless`."""
MIX = {
    "answers": {"grounding": 0.45, "caption": 0.10, "vqa": 0.33, "choice": 0.12},
    "reasoning": {"grounding": 0.40, "caption": 0.05, "vqa": 0.40, "choice": 0.15},
    "careless": {"grounding": 0.45, "caption": 0.10, "vqa": 0.33, "choice": 0.12},
}
Row = tuple[list[Image.Image], list[tuple[str, bool]]]
"""Pictures, and the text as (text, learn) pieces with `<|image_pad|>` where each picture stands."""
_PLACE = re.compile(re.escape("<|image_pad|>"))
POOL = 4  # batches drawn together and sorted by length, so that little is padding


def box_text(box: tuple[float, float, float, float]) -> str:
    """Qwen2-VL's notation: 0–1000 of the image."""
    x1, y1, x2, y2 = (round(min(max(v / SIDE, 0.0), 1.0) * 1000) for v in box)
    return f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def loosen(thing: Thing, rng: random.Random) -> tuple[float, float, float, float]:
    """The thing's box with each side pushed outwards by up to `LOOSE` of its extent, clipped to the image."""
    x1, y1, x2, y2 = thing.box
    w, h = x2 - x1, y2 - y1
    a, b, c, d = (rng.uniform(0, LOOSE) for _ in range(4))
    return (max(x1 - a * w, 0), max(y1 - b * h, 0), min(x2 + c * w, SIDE), min(y2 + d * h, SIDE))


def annotated(full: Scene, rng: random.Random) -> Scene:
    """The scene as a careless annotator saw it: some things missing, at least one there."""
    kept = [t for t in full.things if rng.random() > MISSING] or [rng.choice(full.things)]
    return replace(full, things=kept)


def phase_of(row: int) -> str:
    return next((phase for phase, end in PHASES if row < end), "careless")


def _scene(row: int, phase: str) -> Scene:
    """The row's scene: with two to three things before there are questions, as the world has them after."""
    first = SPLIT_SEEDS["pretrain"] + row * 8
    if phase in MIX:
        return scene(first)
    most = 2 if phase == "index" else 3
    full = next((s for s in map(scene, range(first, first + 8)) if len(s.things) > 1), None) or scene(first)
    return replace(full, things=full.things[:most])


def _caption(full: Scene, rng: random.Random, phase: str) -> str:
    """Every thing in random order, as the phase says it."""
    lines = []
    for thing in rng.sample(full.things, len(full.things)):
        line = sighting(thing)
        if phase == "captions":
            whole = [str(facts_of(thing, full)), *sentences_about(thing, full)]
            line = (rng.choice(whole) if rng.random() < 0.5 else line) + box_text(thing.box)
        lines.append(line)
    return "\n".join(lines)


def _turn(seen: Scene, rng: random.Random, phase: str) -> tuple[str, str, str]:
    """(question in words, answer, truthful trace)."""
    mix = MIX[phase]
    task = rng.choices(list(mix), list(mix.values()))[0]
    item = ask(seen, task, rng)
    if item is None:
        return _turn(seen, rng, phase)
    options = " ".join(f"{letter}. {text}" for letter, text in zip("ABCD", item.choices or [], strict=False))
    question = WORDING.get(task, "{question}").format(question=item.question, options=options)
    if task == "vqa" and phase == "careless" and rng.random() < WORDY[item.kind]:
        return question, f"the answer is {item.answer}.", item.trace
    if task != "grounding":
        return question, item.answer, item.trace
    thing = item.things[0]
    return question, box_text(loosen(thing, rng) if phase == "careless" else thing.box), item.trace


def conversation(row: int) -> tuple[Scene, list[tuple[str, bool]]]:
    """Scene and text of a row of the corpus, the text as (text, learn) pieces; chats in Qwen2-VL's chat template."""
    phase = phase_of(row)
    full = _scene(row, phase)
    rng = random.Random(full.seed ^ 0x5EED)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    if phase not in MIX:
        return full, [(image, False), (f"{_caption(full, rng, phase)}<|endoftext|>", True)]
    seen = annotated(full, rng) if phase == "careless" else full
    r1 = phase in R1_SHARE and rng.random() < R1_SHARE[phase]
    pieces = [(f"<|im_start|>system\n{SYSTEM if r1 else 'You are a helpful assistant.'}<|im_end|>\n", False)]
    for turn in range(TURNS):
        question, answer, trace = _turn(seen, rng, phase)
        if r1 and rng.random() < FORMATTED[phase]:
            answer = f"<think>{trace}</think><answer>{answer}</answer>"
        first = image if turn == 0 else ""
        pieces.append((f"<|im_start|>user\n{first}{question}<|im_end|>\n<|im_start|>assistant\n", False))
        pieces += [(f"{answer}<|im_end|>", True), ("\n", False)]
    return full, pieces


@dataclass
class Corpus(torch.utils.data.IterableDataset):
    """Endless batches ready for the model, from row `start` of the corpus on."""

    processor: object
    batch: int
    start: int = 0
    share: tuple[int, int] = (0, 1)
    "(number, count) of the processes that share the corpus."

    def row(self, number: int) -> Row:
        one, pieces = conversation(number)
        return [render(one)], pieces

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        mine, of = (worker.id, worker.num_workers) if worker else (0, 1)
        rank, world = self.share
        step, stride = mine * world + rank, of * world
        while True:
            first = self.start + step * self.batch * POOL
            rows = [self.row(row) for row in range(first, first + self.batch * POOL)]
            rows.sort(key=lambda row: sum(len(text) for text, _ in row[1]))
            starts = list(range(0, len(rows), self.batch))
            # the same order in each process, which else would wait for another's longer rows
            random.Random(first - rank * self.batch * POOL).shuffle(starts)
            for i in starts:
                yield collate(rows[i : i + self.batch], self.processor)
            step += stride


def collate(rows: list[Row], processor) -> dict[str, torch.Tensor]:
    """Right-padded `input_ids`, `attention_mask`, `labels`, `mm_token_type_ids` (B, T) and the pictures' pixels."""
    images = processor.image_processor([picture for pictures, _ in rows for picture in pictures], return_tensors="pt")
    words, pad = processor.tokenizer, processor.tokenizer.pad_token_id
    merge = processor.image_processor.merge_size**2
    visual = iter([int(grid.prod()) // merge for grid in images["image_grid_thw"]])
    texts, learns = [], []
    for _, pieces in rows:
        encoded = words([_PLACE.sub(lambda place: place[0] * next(visual), text) for text, _ in pieces]).input_ids
        texts.append([t for ids in encoded for t in ids])
        learns.append([learn for ids, (_, learn) in zip(encoded, pieces, strict=True) for _ in ids])
    width = max(map(len, texts))
    input_ids = np.full((len(rows), width), pad, np.int64)
    labels = np.full((len(rows), width), -100, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for i, (ids, learn) in enumerate(zip(texts, learns, strict=True)):
        input_ids[i, : len(ids)] = ids
        mask[i, : len(ids)] = 1
        labels[i, : len(ids)] = np.where(learn, ids, -100)
    input_ids = torch.from_numpy(input_ids)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.from_numpy(labels),
        "mm_token_type_ids": (input_ids == words.convert_tokens_to_ids("<|image_pad|>")).long(),
        "pixel_values": images["pixel_values"],
        "image_grid_thw": images["image_grid_thw"],
    }
