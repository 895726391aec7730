"""A corpus of captions as the web has them, to be curated: a third are true, the others wrong, short or vague.

python -m demo.noisy runs/demo/noisy --count 1200

captions.json   ShareGPT layout: the question, and the caption as its answer
images/*.jpg
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from demo.dataset import SEED_STRIDE, save_image
from demo.preferences import falsify, invent
from demo.world.captions import QUESTION, caption, truth
from demo.world.scene import Scene, scene

FIRST = 600_000_000
TRUE = 1 / 3
"""Share of captions that are left as they are."""


def noisy(full: Scene, rng: random.Random) -> str:
    """A caption of the scene, spoilt one to three times with probability 1 - TRUE."""
    clauses = truth(full)
    if rng.random() < TRUE:
        return caption(clauses)
    for _ in range(rng.randint(1, 3)):
        how = rng.random()
        if how < 0.6:
            clauses = falsify(clauses, rng)
        elif how < 0.8 or len(clauses) == 1:
            clauses = invent(clauses, rng)
        else:
            clauses = rng.sample(clauses, len(clauses) - 1)
    return caption(clauses)


def write(out: Path, first: int, count: int) -> None:
    (out / "images").mkdir(parents=True, exist_ok=True)
    rng, rows = random.Random(first), []
    for seed in range(first, first + count):
        one = scene(seed)
        save_image(one, out)
        turns = [
            {"from": "human", "value": f"<image>{QUESTION}"},
            {"from": "gpt", "value": noisy(one, rng)},
        ]
        rows.append({"id": str(seed), "images": [f"images/{seed}.jpg"], "messages": turns})
    (out / "captions.json").write_text(json.dumps(rows, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1200)
    arguments = parser.parse_args()
    write(arguments.out, FIRST + arguments.seed * SEED_STRIDE, arguments.count)


if __name__ == "__main__":
    main()
