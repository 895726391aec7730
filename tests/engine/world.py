"""GRPO trainers with vLLM's real engine on the demo's model and questions."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
import trl
from PIL import Image
from trl.generation import vllm_generation

import rl
from demo import dataset
from demo.world.scene import SPLIT_SEEDS
from evals.asking.conversation import conversation
from evals.generate import complete
from rl.recipe import GRPORecipe
from samples import Sample, mixture
from samples.rows import prompt_rows
from samples.sections import DataSection, SourceSection
from stage.recipe.asking import GenerationSection
from stage.trainer.arguments import arguments
from tests.support.processes.commands import ROOT
from vlm.adapters import apply_lora
from vlm.loading import load_model, load_processor
from vlm.pictures.resizing import Resizing
from vlm.prefix.rollout import unsayable
from vlm.sections import ImageSection, LoraSection, ModelSection, PromptSection
from vlm.tools.toolbox import Toolbox

BASE = str(ROOT / "demo/base")
LIMITS = ImageSection(min_pixels=112 * 112, max_pixels=112 * 112)
PROMPT = PromptSection(style="r1", system="Think, then answer.", wording={"vqa": "{question}"})
TOKENS = 32
FILES = (
    ("vg_test.json", "vg_dior"),
    ("vqa_test.jsonl", None),
    ("choice_test.jsonl", None),
    ("caption_test.jsonl", None),
)


def questions(folder: Path, count: int) -> list[Sample]:
    """`count` of each task of the demo: grounding, VQA, choice, captions."""
    dataset.test(folder, SPLIT_SEEDS["test"], count)
    data = DataSection(eval=[SourceSection(path=str(folder / file), format=form) for file, form in FILES])
    return list(mixture.draw(data, "eval", 0).samples)


def odd_ones(folder: Path) -> list[Sample]:
    """Questions about two pictures of other sizes, one that is transparent, and none."""
    folder.mkdir(exist_ok=True)
    made = []
    for number, sizes in enumerate((((150, 90), (64, 64)), ((37, 300),), ())):
        paths = [folder / f"{number}-{place}.png" for place in range(len(sizes))]
        for path, size in zip(paths, sizes, strict=True):
            picture = Image.effect_noise(size, 60).convert("RGBA")
            picture.putalpha(128)
            picture.save(path)
        asked = [{"role": "user", "content": "How many ships" + " are there" * number + "?"}]
        made.append(Sample([str(path) for path in paths], asked, "vqa", answer="2", source="odd", id=str(number)))
    return made


def reward(completions, **columns) -> list[float]:
    """Letters of an answer: it spreads in a group, and moves the policy."""
    return [sum(map(str.isalpha, turns[0]["content"])) / 20 for turns in completions]


def trainer(
    samples: list[Sample],
    output: Path,
    cls=rl.GRPOTrainer,
    limits=LIMITS,
    lora=None,
    seed=42,
    base: str = BASE,
    toolbox: Toolbox | None = None,
    **training: Any,
):
    """A trainer of the demo's base, or of another; with vLLM where `use_vllm` says so, with tools where there are."""
    section = ModelSection(path=base, dtype="float32", attention="sdpa", lora=lora)
    recipe = GRPORecipe(model=section, output=str(output), seed=seed)
    recipe.training = {
        "per_device_train_batch_size": 16, "num_generations": 4, "max_completion_length": TOKENS, "max_steps": 1,
        "gradient_checkpointing": False, "learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no",
        "vllm_mode": "colocate", "vllm_enable_sleep_mode": False, "vllm_max_model_length": 512,
    } | training  # fmt: skip
    args = arguments(trl.GRPOConfig, recipe)
    model = load_model(section)
    if lora is not None:
        model = apply_lora(model, lora)
    processor = load_processor(base, limits)
    rows = prompt_rows(samples, PROMPT, Resizing(processor.sight))
    return cls(model, [reward], args, rows, processing_class=processor, toolbox=toolbox, notation="qwen2_vl")


class Engines:
    """Takes the place of `vllm.LLM`: engines of the same arguments are one, for a start takes long. Each trainer sends
    its weights before the first token."""

    def __init__(self):
        self.real, self.made = vllm_generation.LLM, {}

    def __call__(self, **given: Any):
        key = repr(sorted(given.items()))
        if key not in self.made:
            self.made[key] = self.real(**given)
        return self.made[key]


class Heard:
    """What TRL's `VLLMGeneration.generate` was told and returned while this one is in its place."""

    def __init__(self, monkeypatch):
        self.calls: list[tuple[dict[str, Any], tuple]] = []
        real = vllm_generation.VLLMGeneration.generate

        def generate(engine, *given, **named):
            told = inspect.signature(real).bind(engine, *given, **named).arguments
            found = real(engine, *given, **named)
            self.calls.append((told, found))
            return found

        monkeypatch.setattr(vllm_generation.VLLMGeneration, "generate", generate)


def asked(samples: list[Sample], processor) -> tuple[list[list[int]], list[list[Image.Image] | None]]:
    """(ids, pictures) of each question as our processor makes them."""
    ids, pictures = [], []
    for sample in samples:
        turns = conversation(sample, PROMPT, processor.sight)
        ids.append(
            processor.apply_chat_template([turns], add_generation_prompt=True, tokenize=True, return_dict=True)[
                "input_ids"
            ][0]
        )
        shown = [part["image"] for turn in turns for part in turn["content"] if part["type"] == "image"]
        pictures.append(shown or None)
    return ids, pictures


def greedy(made, samples: list[Sample]) -> tuple[list[list[int]], list[list[float]]]:
    """(token ids, their log-probabilities) by a trainer's engine, with the trainer's weights of now."""
    engine = made.vllm_generation
    engine.sync_weights()
    before, engine.temperature = engine.temperature, 0.0
    try:
        _, ids, logps, _ = engine.generate(*asked(samples, made.processing_class), 1)
    finally:
        engine.temperature = before
    return [list(row) for row in ids], [[each[0] for each in row] for row in logps]


def texts(made, ids: list[list[int]]) -> list[str]:
    return made._tokenizer.batch_decode(ids, skip_special_tokens=True)


def by_transformers(made, samples: list[Sample], tokens: int = TOKENS) -> list[str]:
    """Greedy texts of a trainer's model."""
    how = GenerationSection(batch_size=25, max_new_tokens=tokens)
    was = made.model.training
    made.model.eval()
    found = [text for _, text in complete(made.model, made.processing_class, samples, PROMPT, how)]
    made.model.train(was)
    return found


@torch.no_grad()
def log_probabilities(made, sample: Sample, completion: list[int]) -> list[float]:
    """Of the tokens of a completion, from one pass over question and completion; what is never sampled has no share."""
    processor = made.processing_class
    turns = conversation(sample, PROMPT, processor.sight)
    inputs = processor.apply_chat_template(
        [turns], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    said = torch.tensor([completion])
    width = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], said], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(said)], 1)
    logits = logits_of(made.model, inputs)[0, width - 1 : -1].float()
    logits[:, unsayable(made.model.config, processor.tokenizer)] = float("-inf")
    return logits.log_softmax(-1).gather(1, said[0, :, None])[:, 0].tolist()


def logits_of(model, inputs) -> torch.Tensor:
    """(1, L, vocabulary): TRL has replaced the head of a model in training, so the head's weights are used."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    hidden = base.model(**inputs).last_hidden_state
    return hidden @ base.get_output_embeddings().weight.T


LORA = LoraSection(r=4)
