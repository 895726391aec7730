"""Preferences from policies' own captions, judged by the world: what a score model must tell apart in GRPO.

    python -m demo.dataset runs/demo/judged --seed 9 --prompts 1000
    accelerate launch launch/bon.py recipes/demo/bon.yaml output=runs/demo/judged/drawn selectors=[random] \
        data.eval=[{path: runs/demo/judged/grpo/captions.jsonl}]
    python -m demo.judged runs/demo/judged/grpo/captions.jsonl runs/demo/judged/preferences.jsonl \
        runs/demo/judged/drawn/completions.jsonl

The captions of a scene that differ in their gold (`demo.world.captions`) are ranked by it, one for each value. Several
files of completions give a list each: those of the SFT policy, and of one that GRPO with an earlier score model has led
astray (model.path=runs/demo/grpo_score/final above), so that the next one is not fooled in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path

import samples
from demo.world.captions import QUESTION, gold
from demo.world.scene import scene
from vlm import answers


def ranked(completions: list[str], seed: int) -> list[str]:
    """Answers of different gold, the truest first; fewer than two where all are equally true."""
    full, found = scene(seed), {}
    said = list(dict.fromkeys(answers.parse(text).answer or "" for text in completions))
    random.Random(seed).shuffle(said)  # which of several equally true ones stands for its value
    for text in filter(str.strip, said):
        found.setdefault(round(gold(text, full), 6), text)
    return [found[value] for value in sorted(found, reverse=True)]


def rows(prompts: Path, completions: Path, folder: Path):
    """Records of `rewards.score.training.preferences`, images relative to `folder`."""
    images = {sample.id: sample.images[0] for sample in samples.read(prompts)}
    for line in completions.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = ranked(row["completions"], int(row["id"]))
        if len(texts) > 1:
            image = os.path.relpath(images[row["id"]], folder)
            yield {"images": [image], "question": QUESTION, "ranked": texts, "id": row["id"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("prompts", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("completions", type=Path, nargs="+")
    arguments = parser.parse_args()
    folder = arguments.out.parent.absolute()
    found = [row for file in arguments.completions for row in rows(arguments.prompts, file, folder)]
    arguments.out.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    print(f"{len(found)} ranked lists in {arguments.out}")


if __name__ == "__main__":
    main()
