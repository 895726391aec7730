"""Make the shipped base: a tiny Qwen2-VL pre-trained on `demo.corpus` (about 20 minutes on two cores).

    python -m demo.pretrain demo/base --steps 2200 --seed 0

Muon on the matrices and AdamW on the rest: AdamW alone, at the usual initialisation, stayed at mIoU 0.05 for ten
minutes in an earlier trial. bf16 compute with float32 master weights: 1.6 times as fast here as bf16 autocast.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from demo.corpus import Corpus
from demo.tiny import PIXELS, processor, random_model, tokenizer

WARMUP, DECAY_FROM = 100, 0.5


def optimizers(masters: dict[str, torch.Tensor]) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices; AdamW for embeddings, head, norms, biases and the patch convolution."""
    matrices, others = [], []
    for name, parameter in masters.items():
        hidden = parameter.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
        (matrices if hidden else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, a plateau, linear decay to 2%."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    left = (steps - step) / (steps * (1 - DECAY_FROM))
    return max(min(1.0, left), 0.02)


def train(model, batches, steps: int, out: Path, every: int = 100) -> None:
    """Plain causal language modelling on the assistant's turns."""
    masters = {name: p.detach().float() for name, p in model.named_parameters()}
    model.to(torch.bfloat16)
    opts = optimizers(masters)
    peaks = [[g["lr"] for g in o.param_groups] for o in opts]
    model.train()
    began, total = time.time(), 0.0
    for step, batch in zip(range(steps), batches, strict=False):
        for optimizer, peak in zip(opts, peaks, strict=True):
            for group, lr in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = lr * rate(step, steps)
        batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for name, parameter in model.named_parameters():
            masters[name].grad, parameter.grad = parameter.grad.float(), None
        for optimizer in opts:
            optimizer.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(masters[name])
        total += loss.item()
        if (step + 1) % every == 0:
            row = {"step": step + 1, "loss": round(total / every, 4), "seconds": round(time.time() - began)}
            with open(out / "pretrain.jsonl", "a") as log:
                print(json.dumps(row), file=log)
            print(row, flush=True)
            total = 0.0
        if (step + 1) % (every * 5) == 0:
            torch.save(model.state_dict(), out / "pretrain.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", type=Path, help="a pretrain.pt to start from (weights only)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    words = tokenizer()
    model = random_model(words, arguments.seed)
    model.set_attn_implementation("eager")  # on CPU in bf16, faster than SDPA both ways
    if arguments.resume:
        model.load_state_dict(torch.load(arguments.resume, weights_only=True))
    parts = SimpleNamespace(
        tokenizer=words, image_processor=Qwen2VLImageProcessorPil(min_pixels=PIXELS, max_pixels=PIXELS)
    )
    batches = torch.utils.data.DataLoader(Corpus(parts, arguments.batch), batch_size=None, num_workers=1)
    train(model, batches, arguments.steps, arguments.out)
    model.save_pretrained(arguments.out)
    processor(words).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
