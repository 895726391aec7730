"""Make the change demo's base: the demo's base, pretrained further on `demo.change.corpus`.

    python -m torch.distributed.run --nproc_per_node 2 -m demo.change.pretrain OUT --steps 1200

Optimizers and schedule are `demo.pretrain`'s; float32 throughout, saved in bfloat16. Two processes of one thread each
halve a batch between them, as with `demo.zoom.pretrain`; `python -m demo.change.pretrain` alone is one process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer

from demo.change.corpus import Corpus, phase_of
from demo.pretrain import train
from demo.tiny import processor
from vlm.loading import load_model
from vlm.sections import ModelSection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", default="demo/base", help="the checkpoint to begin with")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--resume", type=Path, help="pretrain-STEP.pt to go on from")
    arguments = parser.parse_args()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(1 if world > 1 else torch.get_num_threads())
    arguments.out.mkdir(parents=True, exist_ok=True)
    parts = processor(AutoTokenizer.from_pretrained(arguments.start))
    if not rank:
        parts.save_pretrained(arguments.out)
    model, first = load_model(ModelSection(path=arguments.start, dtype="float32", attention="sdpa")), 0
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
