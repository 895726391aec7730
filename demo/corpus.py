"""The pre-training corpus of the tiny base: unlimited scenes, three questions each, from easy to careless.

A curriculum of three phases, because a model this small finds nothing in crowded scenes from the start (LOG.md):

    one       scenes of one thing, exactly annotated: what it is, and *where*
    few       up to four things, exactly annotated: *which*
    careless  annotations as incomplete and loose as the web's, on purpose and measurably; SFT on truthful traces and
              GRPO with exact rewards can mend what this phase spoils:
        missing   each thing is left out of a scene's annotation with probability 0.2 (counts too low, "no" too often)
        loose     each side of a box is pushed outwards by up to 24% of the box's width or height
        format    under the R1-style system prompt, which comes up here, only half of the answers keep the tags
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import torch

from demo.render import render
from demo.tasks import ask, noun
from demo.tiny import SYSTEM, WORDING
from demo.world import SIDE, SPLIT_SEEDS, Scene, Thing, scene

MISSING, LOOSE, FORMATTED, R1_SHARE, TURNS = 0.2, 0.24, 0.5, 0.3, 3
PHASES = (("one", 25_600, 1), ("few", 48_000, 4))
"""(phase, up to this row of the corpus, most things in a scene); what comes after is `careless`."""
MIX = {
    "one": {"grounding": 0.50, "caption": 0.30, "vqa": 0.20},
    "few": {"grounding": 0.45, "caption": 0.15, "vqa": 0.28, "choice": 0.12},
    "careless": {"grounding": 0.45, "caption": 0.10, "vqa": 0.33, "choice": 0.12},
}
POOL = 4  # batches drawn together and sorted by length, so that little is padding


def box_text(box: tuple[float, float, float, float]) -> str:
    """Qwen2-VL's notation: 0–1000 of the image."""
    x1, y1, x2, y2 = (round(min(max(v / SIDE, 0.0), 1.0) * 1000) for v in box)
    return f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def loosen(thing: Thing, rng: random.Random, most: float = LOOSE) -> tuple[float, float, float, float]:
    """The thing's box with each side pushed outwards by up to `most` of its extent, clipped to the image."""
    x1, y1, x2, y2 = thing.box
    w, h = x2 - x1, y2 - y1
    a, b, c, d = (rng.uniform(0, most) for _ in range(4))
    return (max(x1 - a * w, 0), max(y1 - b * h, 0), min(x2 + c * w, SIDE), min(y2 + d * h, SIDE))


def annotated(full: Scene, rng: random.Random) -> Scene:
    """The scene as a careless annotator saw it: some things missing, at least one there."""
    kept = [t for t in full.things if rng.random() > MISSING] or [rng.choice(full.things)]
    return replace(full, things=kept)


def phase_of(row: int) -> tuple[str, int]:
    """(phase, most things in a scene) of a row of the corpus."""
    return next(((phase, most) for phase, end, most in PHASES if row < end), ("careless", 4))


def _turn(seen: Scene, rng: random.Random, phase: str) -> tuple[str, str]:
    """(question in words, answer)."""
    mix = MIX[phase]
    task = rng.choices(list(mix), list(mix.values()))[0]
    item = ask(seen, task, rng)
    if item is None:
        return _turn(seen, rng, phase)
    options = " ".join(f"{letter}. {text}" for letter, text in zip("ABCD", item.choices or [], strict=False))
    question = WORDING.get(task, "{question}").format(question=item.question, options=options)
    if task != "grounding":
        return question, item.answer
    thing = item.things[0]
    return question, box_text(loosen(thing, rng) if phase == "careless" else thing.box)


def conversation(row: int, start: int = SPLIT_SEEDS["pretrain"]) -> tuple[Scene, list[tuple[str, bool]]]:
    """Scene and chat of a row of the corpus, the chat as (text, learn) pieces in Qwen2-VL's chat template."""
    phase, most = phase_of(row)
    full = scene(start + row)
    rng = random.Random((start + row) ^ 0x5EED)
    full.things = full.things[:most]
    seen = annotated(full, rng) if phase == "careless" else full
    r1 = phase == "careless" and rng.random() < R1_SHARE
    pieces = [(f"<|im_start|>system\n{SYSTEM if r1 else 'You are a helpful assistant.'}<|im_end|>\n", False)]
    overview = "the scene shows " + ", ".join(f"a {noun(t)}" for t in seen.things) + "."
    for turn in range(TURNS):
        question, answer = _turn(seen, rng, phase)
        if r1 and rng.random() < FORMATTED:
            answer = f"<think>{overview}</think><answer>{answer}</answer>"
        image = "<|vision_start|><|image_pad|><|vision_end|>" if turn == 0 else ""
        pieces.append((f"<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n", False))
        pieces += [(f"{answer}<|im_end|>", True), ("\n", False)]
    return full, pieces


@dataclass
class Corpus(torch.utils.data.IterableDataset):
    """Endless batches ready for the model, from row `start` of the corpus on."""

    processor: object
    batch: int
    start: int = 0

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        step, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            first = self.start + step * self.batch * POOL
            rows = [conversation(row) for row in range(first, first + self.batch * POOL)]
            rows.sort(key=lambda row: sum(len(text) for text, _ in row[1]))
            starts = list(range(0, len(rows), self.batch))
            random.Random(first).shuffle(starts)
            for i in starts:
                yield collate(rows[i : i + self.batch], self.processor)
            step += stride


def collate(rows: list[tuple[Scene, list[tuple[str, bool]]]], processor) -> dict[str, torch.Tensor]:
    """Right-padded `input_ids`, `attention_mask`, `labels`, `mm_token_type_ids` (B, T) and the images' pixels."""
    images = processor.image_processor([render(s) for s, _ in rows], return_tensors="pt")
    words, pad = processor.tokenizer, processor.tokenizer.pad_token_id
    merge = processor.image_processor.merge_size**2
    texts, learns = [], []
    for (_, pieces), grid in zip(rows, images["image_grid_thw"], strict=True):
        visual = "<|image_pad|>" * int(grid.prod() // merge)
        encoded = words([text.replace("<|image_pad|>", visual) for text, _ in pieces]).input_ids
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
