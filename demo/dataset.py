"""Write the demo world to disk in the published layouts, for the same readers as real data.

    python -m demo.dataset runs/demo/data --seed 0

    sft/traces.json        ShareGPT: reasoning traces (the paper has 2,000)
    grpo/prompts.jsonl     Nadir's JSONL: closed questions on fresh scenes for GRPO, truth in columns, no traces
    grpo/captions.jsonl    the same, open: scenes to be described, for learned rewards
    test/vg_test.json      VG-DIOR: grounding, boxes in pixels of the original image
    test/vqa_test.jsonl    Nadir's JSONL: VQA of four kinds
    test/choice_test.jsonl Nadir's JSONL: multiple choice
    test/caption_test.jsonl Nadir's JSONL: scenes to be described (judged by `demo.world.captions`)
    */images/*.jpg

Splits come from disjoint scene seeds; the test split is the same for every seed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from demo.tiny import WORDING
from demo.world.render import render
from demo.world.scene import SIDE, SPLIT_SEEDS, Scene, scene
from demo.world.tasks import Item, ask
from samples import Sample, write
from vlm.boxes import write_boxes
from vlm.prompts import user_text

SEED_STRIDE = 100_000
MIX = {"grounding": 0.35, "vqa": 0.47, "choice": 0.18}
"""Share of each task among the closed training questions."""
TRACES = {"grounding": 0.3, "vqa": 0.4, "choice": 0.15, "caption": 0.15}
"""Share of each task among the traces."""


def questions(first: int, count: int, mix: dict[str, float] = MIX) -> Iterator[tuple[Scene, Item]]:
    """`count` questions on scenes of their own, from scene seed `first` on."""
    rng = random.Random(first)
    seed, made = first, 0
    while made < count:
        one = scene(seed)
        item = ask(one, rng.choices(list(mix), list(mix.values()))[0], rng)
        seed += 1
        if item is not None:
            made += 1
            yield one, item


def sample(one: Scene, item: Item, image: str, source: str) -> Sample:
    """A question as a `Sample`; a reference in the model's notation where it is a box."""
    boxes = [list(item.things[0].box)] if item.task == "grounding" else None
    answer = write_boxes(boxes, "qwen2_vl", (SIDE, SIDE)) if boxes else item.answer
    return Sample(
        images=[image],
        messages=[{"role": "user", "content": item.question}],
        task="open_ended" if item.task == "caption" else item.task,
        answer=answer,
        boxes=boxes,
        size=(SIDE, SIDE),
        choices=item.choices,
        source=source,
        id=str(one.seed),
        kind=item.kind,
    )


def save_image(one: Scene, folder: Path) -> str:
    """Write the scene as JPEG; returns its path."""
    path = folder / "images" / f"{one.seed}.jpg"
    render(one).save(path, quality=92)
    return str(path.resolve())


def traces(folder: Path, first: int, count: int) -> None:
    """Reasoning traces in ShareGPT layout, user texts in the demo's wording."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for one, item in questions(first, count, TRACES):
        image = save_image(one, folder)
        row = sample(one, item, image, "traces")
        rows.append(
            {
                "id": row.id,
                "images": [f"images/{one.seed}.jpg"],
                "messages": [
                    {"from": "human", "value": f"<image>{user_text(row, item.question, WORDING)}"},
                    {"from": "gpt", "value": f"<think>{item.trace}</think><answer>{row.answer}</answer>"},
                ],
            }
        )
    (folder / "traces.json").write_text(json.dumps(rows, indent=1))


def prompts(folder: Path, first: int, count: int) -> None:
    """Prompts with their truth for GRPO, in Nadir's JSONL: `count` closed ones, and as many scenes to describe."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, start, mix in (("prompts", first, MIX), ("captions", first + SEED_STRIDE // 2, {"caption": 1.0})):
        rows = (sample(one, item, save_image(one, folder), name) for one, item in questions(start, count, mix))
        write(folder / f"{name}.jsonl", rows)


def test(folder: Path, first: int, count: int) -> None:
    """`count` held-out questions per task: VG-DIOR layout for grounding, JSONL for VQA and choice."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for one, item in questions(first, count, {"grounding": 1.0}):
        save_image(one, folder)
        rows.append(
            {
                "id": str(one.seed),
                "image": f"{one.seed}.jpg",
                "image_path": "images",
                "size": [SIDE, SIDE],
                "conversations": [
                    {"from": "human", "value": f"<image>\n{item.question}"},
                    {"from": "gpt", "value": json.dumps([round(v, 1) for v in item.things[0].box])},
                ],
            }
        )
    (folder / "vg_test.json").write_text(json.dumps(rows, indent=1))
    for number, task in enumerate(("vqa", "choice", "caption"), 1):
        asked = questions(first + number * SEED_STRIDE, count, {task: 1.0})
        write(folder / f"{task}_test.jsonl", (sample(o, i, save_image(o, folder), task) for o, i in asked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="shifts the training scenes; the test set stays")
    parser.add_argument("--traces", type=int, default=256)
    parser.add_argument("--prompts", type=int, default=800)
    parser.add_argument("--test", type=int, default=400, help="held-out questions per task")
    arguments = parser.parse_args()
    shift = arguments.seed * SEED_STRIDE
    traces(arguments.out / "sft", SPLIT_SEEDS["sft"] + shift, arguments.traces)
    prompts(arguments.out / "grpo", SPLIT_SEEDS["grpo"] + shift, arguments.prompts)
    test(arguments.out / "test", SPLIT_SEEDS["test"], arguments.test)


if __name__ == "__main__":
    main()
