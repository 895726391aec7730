"""Make the change demo's base: the demo's base, pretrained further on `demo.change.corpus`.

    python -m demo.change.pretrain OUT --steps 800

Optimizers and schedule are `demo.pretrain`'s; float32 throughout, saved in bfloat16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer

from demo.change.corpus import SIDE, Corpus, phase_of
from demo.pretrain import train
from demo.tiny import processor
from vlm.loading import load_model
from vlm.sections import ModelSection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", default="demo/base", help="the checkpoint to begin with")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--resume", type=Path, help="pretrain-STEP.pt to go on from")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    parts = processor(AutoTokenizer.from_pretrained(arguments.start), SIDE * SIDE)
    parts.save_pretrained(arguments.out)
    model, first = load_model(ModelSection(path=arguments.start, dtype="float32", attention="sdpa")), 0
    if arguments.resume:
        model.load_state_dict(torch.load(arguments.resume, weights_only=True))
        first = int(arguments.resume.stem.split("-")[1])
    corpus = Corpus(parts, arguments.batch, first * arguments.batch)
    batches = torch.utils.data.DataLoader(corpus, batch_size=None, num_workers=1)
    train(model, batches, first, arguments.steps, arguments.batch, arguments.out, phase=phase_of)
    model.to(torch.bfloat16).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
