"""Models and processors of the tiny families, each loaded once a session; prompts, questions and trainers for them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import pytest
import trl

import rl
from samples import Sample
from samples.rows import prompt_rows
from tests.support.tiny_checkpoints import picture, pixels, section
from vlm import loading
from vlm.sections import PromptSection

SHAPES = [[(112, 70)], [], [(60, 112), (112, 60)], [(90, 90)]]
"""Sizes of the pictures of four prompts, and of four questions."""
TEXTS = ("Where?", "How many ships?", "First: <image>\nThen: <image>\nWhat is new?", "Why? " * 5)
LIMITS = pixels(64 * 64, 128 * 128)


class Loaded(NamedTuple):
    kind: str
    path: str
    model: Any
    processor: Any

    def prompts(self, rows=range(4)) -> dict:
        """The four prompts, of unequal length, or those named: padded on the left, as keywords of a model."""
        texts, pictures = [], []
        for row in rows:
            content = [{"type": "image"} for _ in SHAPES[row]]
            content.append({"type": "text", "text": "Where is the ship? " * (row + 1)})
            turn = [{"role": "user", "content": content}]
            texts.append(self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
            pictures.append([picture(*shape, seed=10 * row + n) for n, shape in enumerate(SHAPES[row])])
        shown: list | None = pictures if any(pictures) else None
        if shown and self.kind != "idefics3":  # which wants a list for each row
            shown = [one for row in pictures for one in row]
        return dict(self.processor(text=texts, images=shown, padding=True, padding_side="left", return_tensors="pt"))


@pytest.fixture(scope="session")
def loaded(family_checkpoints):
    """Kind → `Loaded`, in float32 under SDPA. Weights and configs are left as they are."""

    @functools.cache
    def load(kind: str) -> Loaded:
        path = family_checkpoints(kind)
        return Loaded(kind, path, loading.load_model(section(path)).eval(), loading.load_processor(path, LIMITS))

    return load


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> list[Sample]:
    """Four of unequal length: with one picture, none, two in the midst of the text, and one again."""
    folder, made = tmp_path_factory.mktemp("questions"), []
    for number, (text, shapes) in enumerate(zip(TEXTS, SHAPES, strict=True)):
        paths = [folder / f"{number}{n}.png" for n in range(len(shapes))]
        for n, path in enumerate(paths):
            picture(*shapes[n], seed=10 * number + n).save(path)
        asked = [{"role": "user", "content": text}]
        made.append(Sample([str(path) for path in paths], asked, "vqa", answer="2", source="q", id=str(number)))
    return made


def letters(completions, **_):
    """A reward in which random models spread."""
    return [sum(c.isalpha() for c in turns[0]["content"]) / 20 for turns in completions]


def grpo(model, processor, samples, folder, cls=rl.GRPOTrainer, **training):
    """A trainer of two prompts × two completions a step."""
    given = {
        "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4, "max_steps": 2,
        "optim": "sgd", "learning_rate": 0.5, "beta": 0.1, "save_strategy": "no", "logging_steps": 1, "seed": 3,
    } | training  # fmt: skip
    fixed = {"use_cpu": True, "bf16": False, "report_to": "none", "remove_unused_columns": False, "disable_tqdm": True}
    args = trl.GRPOConfig(str(folder), gradient_checkpointing=False, **fixed, **given)
    rows = prompt_rows(samples, PromptSection(style="direct", wording={"vqa": "{question}"}))
    return cls(model, letters, args, rows, processing_class=processor)


def steps(trainer) -> list[dict]:
    """The rows of the log of each step that it trains."""
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]
