"""Rollout and whole step of GRPO with vLLM in the trainer's process, against transformers' `generate`.

    python -m benchmarks.engine --shape 2b --prompts 2 --device cuda --dtype bfloat16 --attention auto

A model of random weights is saved to a temporary folder. `rl.GRPOTrainer` trains it for `--steps` steps without vLLM
and as many with it; every other prompt has a picture. In every batch `rl.engine` compares what the engine read with the
trainer's prompt, which ends the run where they differ, and logs how far the log-probabilities of both are apart. The
rollout includes the way of the weights to the engine. Figures are medians over all steps but the first, which warms up.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import GenerationConfig, Qwen2VLForConditionalGeneration

import rl
from benchmarks import report
from benchmarks.support import common, worlds
from benchmarks.support.trainers import quiet, vowels

VOCABULARY = 20_000  # at least, so that the two tokens that are never sampled weigh little
GAPS = ("vllm/logp_gap/images", "vllm/logp_gap/text")
FIGURES = {"time/rollout": "rollout, s", "step_time": "step, s", "tokens/s": "tokens/s of the rollout"}


def save(world: worlds.World, folder: str) -> None:
    """Weights and processor as a checkpoint.

    The demo's tokenizer gets as many tokens as the shape has (none is ever read): ids beyond it are never sampled.
    """
    model = worlds.build(Qwen2VLForConditionalGeneration, world.config, world.options)
    words = world.processor.tokenizer
    model.generation_config = GenerationConfig(pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id)
    model.save_pretrained(folder)
    world.processor.save_pretrained(folder)
    path = Path(folder, "tokenizer.json")
    content = json.loads(path.read_text())
    more = {token["content"]: token["id"] for token in content["added_tokens"]}  # they keep their ids where known
    unused = range(len(words), world.config.text_config.vocab_size)
    content["model"]["vocab"] |= more | {f"<unused{number}>": number for number in unused}
    path.write_text(json.dumps(content))


def arguments(world: worlds.World, folder: str, engine: bool) -> trl.GRPOConfig:
    """A micro-batch is one group; the prompts of a step are as many micro-batches. Every completion has R tokens."""
    options = world.options
    least = {"min_tokens" if engine else "min_new_tokens": options.answer}
    attention = worlds.resolve_attention(options.attention, options.dtype)
    return trl.GRPOConfig(
        f"{folder}/run", per_device_train_batch_size=options.group, gradient_accumulation_steps=options.prompts,
        num_generations=options.group, max_completion_length=options.answer, beta=0.0, temperature=1.0,
        generation_kwargs=least, learning_rate=1e-6, max_steps=options.steps, logging_steps=1, report_to="none",
        save_strategy="no", use_cpu=options.device == "cpu", bf16=options.dtype == "bfloat16", seed=0,
        gradient_checkpointing=options.checkpointing, disable_tqdm=True, use_vllm=engine, vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.3, vllm_max_model_length=world.length + options.answer + 8,
        model_init_kwargs={"dtype": options.dtype, "attn_implementation": attention},
    )  # fmt: skip


def train(world: worlds.World, folder: str, engine: bool) -> dict[str, Any]:
    """Figures of a run, and its peak in GiB on a GPU (the engine's memory included)."""
    options = world.options
    asked = zip(world.questions, world.pictures, strict=True)
    rows = [
        {
            "prompt": [{"role": "system", "content": worlds.SYSTEM}, {"role": "user", "content": question}],
            "images": [] if number % 2 else [picture],
        }
        for number, (question, picture) in enumerate(asked)
    ]
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    trainer = rl.GRPOTrainer(
        folder, vowels, arguments(world, folder, engine), Dataset.from_list(rows),
        processing_class=worlds.processor(world.side, Path(folder)),
    )  # fmt: skip
    ready = time.perf_counter() - start
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "step_time" in entry]
    found: dict[str, Any] = {"way": "vllm" if engine else "transformers", "start, s": ready}
    tokens = options.prompts * options.group * options.answer
    for entry in logs:
        entry["tokens/s"] = tokens / entry["time/rollout"]
    for key, name in FIGURES.items():
        found[name] = statistics.median(entry[key] for entry in logs[1:])
    if engine:
        found |= gaps(logs, options, world.config.text_config.vocab_size)
    if options.device == "cuda":
        found["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def gaps(logs: Sequence[Mapping[str, float]], options: argparse.Namespace, vocabulary: int) -> dict[str, float]:
    """The largest of a step. Raises: SystemExit where the trainer did not compare, or in float32 they are apart.

    Each step shows the same pictures: a gap that grows is of weights that do not reach the engine, or of what it keeps
    from older ones (vLLM's cache of encoded pictures). In float32 1e-3 nats are left for rounding. The engine's
    probabilities are of all tokens but the two of pictures and videos, which random weights give twice their share at
    most; log-probabilities differ by what those two have.
    """
    if missing := [name for name in GAPS if not all(name in entry for entry in logs)]:
        raise SystemExit(f"engine: {', '.join(missing)} missing in a step's log: nothing compared trainer and engine")
    found = {name: max(entry[name] for entry in logs) for name in GAPS}
    return common.differ("engine", found, options.dtype, 1e-3 + 4 / vocabulary)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = list(rows[-1])
    cells = [[f"{row[name]:.3g}" if name != "way" else row[name] for name in head if name in row] for row in rows]
    lines = [head, ["---"] * len(head), *(line + [""] * (len(head) - len(line)) for line in cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def line(rows: Sequence[Mapping[str, Any]]) -> str:
    plain, engine = rows
    found = [f"{name.removesuffix(', s')} {plain[name]:.3g} → {engine[name]:.3g}" for name in FIGURES.values()]
    return "; ".join([*found, *(f"{name} {engine[name]:.2g}" for name in GAPS)])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3, help="of each run; the first warms up")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    options = parser.parse_args(argv)
    if options.steps < 2 or options.prompts < 2:
        parser.error("--steps, --prompts: at least 2 expected, to warm up, and one prompt without a picture")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    torch.set_num_threads(options.threads)
    (case,) = common.cases(options)
    world, rows = worlds.World(case), []
    text = world.config.text_config
    text.vocab_size = max(text.vocab_size, VOCABULARY)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        save(world, folder)
        for engine in (False, True):
            gc.collect()  # a trainer is a circle of references
            torch.cuda.empty_cache()
            rows.append(train(world, folder, engine))
    notes = [
        f"{report.label(world.case())}, {world.visual} visual; every other prompt has no picture; rl.GRPOTrainer, "
        f"share_prefix true; medians of {options.steps - 1} steps",
    ]
    report.record("engine", options, rows, notes, table(rows), line(rows))


if __name__ == "__main__":
    main()
