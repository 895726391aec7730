"""Make the shipped base: a tiny Qwen2-VL pre-trained on `demo.corpus` (under an hour on two cores).

    python -m demo.pretrain demo/base --steps 2200 --seed 0

Muon on the matrices and AdamW on the rest: AdamW alone, at the usual initialisation, stayed at mIoU 0.05 for ten
minutes in an earlier trial. float32 throughout: not every CPU computes in bfloat16. Saved in bfloat16.

Muon, momentum whose update is orthogonalised, is Jordan et al.'s ("Muon: An optimizer for hidden layers in neural
networks", 2024). `torch.optim.Muon` runs its Newton–Schulz iteration in bfloat16, which a CPU without bfloat16
instructions emulates at 1 GFLOP/s (measured: fewer than 50 steps of the tiny base in 100 s); this one stays in the
parameter's own type.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer

from demo.corpus import Corpus, phase_of
from demo.tiny import processor, random_model, tokenizer

WARMUP, DECAY_FROM = 50, 0.5


COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic x ↦ a·x + b·x³ + c·x⁵ that pushes singular values towards one (Jordan et al., 2024)."""


def orthogonalize(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The matrix with its singular values pushed into about [0.7, 1.2] and its singular vectors kept; same shape."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.size(0) > matrix.size(1) else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; every parameter is a matrix.

    The update is scaled by sqrt(max(1, rows / columns)), so that one learning rate serves every shape.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                kept = self.state[p]["momentum"]
                kept.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalize(p.grad.lerp(kept, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.size(0) / p.size(1)) ** 0.5)


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


def arguments_of(text: str, steps: int) -> argparse.ArgumentParser:
    """What each of the bases is made by. text: the module's docstring."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--resume", type=Path, help="pretrain-STEP.pt to go on from")
    return parser


def pretrain(model, parts, corpus: type[Corpus], arguments: argparse.Namespace, phase: Callable[[int], str]) -> None:
    """`train` from the start, or from where `--resume` was written, and save it in bfloat16 with its processor.

    Under `torch.distributed.run` processes of one thread each halve a batch between them: where other work runs beside,
    two threads of one process wait for each other (14.7 s with one thread, 21.1 s with two, for the same eight steps).
    """
    rank, world, first = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)), 0
    torch.set_num_threads(1 if world > 1 else torch.get_num_threads())
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not rank:
        parts.save_pretrained(arguments.out)
    if arguments.resume:
        kept = torch.load(arguments.resume, weights_only=True)
        model.load_state_dict({name.removeprefix("module."): value for name, value in kept.items()})
        first = int(arguments.resume.stem.split("-")[1])
    rows = corpus(parts, arguments.batch // world, first * arguments.batch, (rank, world))
    batches = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=1)
    trained: torch.nn.Module = model
    if world > 1:
        torch.distributed.init_process_group("gloo")
        trained = torch.nn.parallel.DistributedDataParallel(model)
    with tempfile.TemporaryDirectory() as unseen:
        out = Path(unseen) if rank else arguments.out
        train(trained, batches, first, arguments.steps, arguments.batch, out, phase=phase)
    if not rank:
        model.to(torch.bfloat16).save_pretrained(arguments.out)


def main() -> None:
    parser = arguments_of(__doc__, 2200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # a tokenizer trained again on reworded sentences gives other ids to the same words: the checkpoint's own is used
    words = AutoTokenizer.from_pretrained(arguments.resume.parent) if arguments.resume else tokenizer()
    pretrain(random_model(words, arguments.seed), processor(words), Corpus, arguments, phase_of)


if __name__ == "__main__":
    main()
