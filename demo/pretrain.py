"""Make the shipped base: a tiny Qwen2-VL pre-trained on `demo.corpus` (under an hour on two cores).

    python -m demo.pretrain demo/base --steps 2200 --seed 0

Muon on the matrices and AdamW on the rest: AdamW alone, at the usual initialisation, stayed at mIoU 0.05 for ten
minutes in an earlier trial. float32 throughout: not every CPU computes in bfloat16. Saved in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer

from demo.corpus import Corpus, phase_of
from demo.muon import Muon
from demo.tiny import processor, random_model, tokenizer

WARMUP, DECAY_FROM = 50, 0.5


def optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices; AdamW for embeddings, head, norms, biases and the patch convolution."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
        (matrices if hidden else others).append(parameter)
    return [Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)]


def rate(step: int, steps: int, first: int = 0) -> float:
    """Share of the peak learning rate: linear warm-up from step `first`, a plateau, linear decay to 2%."""
    left = (steps - step) / (steps * (1 - DECAY_FROM))
    return max(min(1.0, left), 0.02) * min((step - first + 1) / WARMUP, 1.0)


def train(
    model,
    batches,
    first: int,
    steps: int,
    batch: int,
    out: Path,
    every: int = 50,
    phase: Callable[[int], str] = phase_of,
) -> None:
    """Plain causal language modelling on captions and on the assistant's turns, from step `first` to `steps`.

    phase: of a row of the corpus.
    """
    opts = optimizers(model)
    peaks = [[g["lr"] for g in o.param_groups] for o in opts]
    model.train()
    began, total = time.time(), 0.0
    for step, rows in zip(range(first, steps), batches, strict=False):
        for optimizer, peak in zip(opts, peaks, strict=True):
            for group, lr in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = lr * rate(step, steps, first)
        loss = model(**rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in opts:
            optimizer.step()
            optimizer.zero_grad()
        total += loss.item()
        if (step + 1) % every == 0:
            done = {"step": step + 1, "phase": phase(step * batch), "loss": round(total / every, 4)}
            row = {**done, "seconds": round(time.time() - began)}
            with open(out / "pretrain.jsonl", "a") as log:
                print(json.dumps(row), file=log)
            print(row, flush=True)
            total = 0.0
        if (step + 1) % (every * 4) == 0:
            torch.save(model.state_dict(), out / f"pretrain-{step + 1}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", type=Path, help="pretrain-STEP.pt to resume from (weights, and the tokenizer next to it)"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    # a tokenizer trained again on reworded sentences gives other ids to the same words: the checkpoint's own is used
    words = AutoTokenizer.from_pretrained(arguments.resume.parent) if arguments.resume else tokenizer()
    parts = processor(words)
    parts.save_pretrained(arguments.out)
    model, first = random_model(words, arguments.seed), 0
    if arguments.resume:
        model.load_state_dict(torch.load(arguments.resume, weights_only=True))
        first = int(arguments.resume.stem.split("-")[1])
    corpus = Corpus(parts, arguments.batch, first * arguments.batch)
    batches = torch.utils.data.DataLoader(corpus, batch_size=None, num_workers=1)
    train(model, batches, first, arguments.steps, arguments.batch, arguments.out)
    model.to(torch.bfloat16).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
