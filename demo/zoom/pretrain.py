"""Make the zoom demo's shipped base: a tiny Qwen2-VL pretrained on `demo.zoom.corpus`.

    python -m torch.distributed.run --nproc_per_node 2 -m demo.zoom.pretrain OUT --steps 1700 --seed 0

Optimizers and schedule are `demo.pretrain`'s; float32 throughout, saved in bfloat16. Two processes of one thread each
halve a batch between them: where other work runs beside, two threads of one process wait for each other (14.7 s with
one thread, 21.1 s with two, for the same eight steps). `python -m demo.zoom.pretrain` alone is one process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch

from demo.pretrain import train
from demo.zoom.corpus import Corpus, phase_of
from demo.zoom.tiny import processor, random_model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1700)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", type=Path, help="pretrain-STEP.pt to go on from")
    arguments = parser.parse_args()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(1 if world > 1 else torch.get_num_threads())
    arguments.out.mkdir(parents=True, exist_ok=True)
    words = tokenizer()
    parts = processor(words)
    if not rank:
        parts.save_pretrained(arguments.out)
    model, first = random_model(words, arguments.seed), 0
    if arguments.resume:
        kept = torch.load(arguments.resume, weights_only=True)
        model.load_state_dict({name.removeprefix("module."): value for name, value in kept.items()})
        first = int(arguments.resume.stem.split("-")[1])
    corpus = Corpus(parts, arguments.batch // world, first * arguments.batch, (rank, world))
    batches = torch.utils.data.DataLoader(corpus, batch_size=None, num_workers=1)
    trained: torch.nn.Module = model
    if world > 1:
        torch.distributed.init_process_group("gloo")
        trained = torch.nn.parallel.DistributedDataParallel(model)
    with tempfile.TemporaryDirectory() as unseen:
        out = Path(unseen) if rank else arguments.out
        train(trained, batches, first, arguments.steps, arguments.batch, out, phase=phase_of)
    if not rank:
        model.to(torch.bfloat16).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
