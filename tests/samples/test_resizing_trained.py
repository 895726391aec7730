"""Drawn picture sizes in real training steps: what GRPO's rewards see, and what supervised training learns from."""

from __future__ import annotations

import json

import pytest
import torch
import trl
from PIL import Image

import rl
from rl.recipe import GRPORecipe
from samples import Sample
from samples.rows import prompt_rows
from samples.sections import DataSection, SourceSection
from sft import stage
from sft.recipe import SFTRecipe
from stage.trainer.arguments import arguments
from stage.trainer.callbacks import PassCallback
from tests.support.sights import resizing
from tests.support.tiny_checkpoints import section
from vlm.loading import load_model, load_processor
from vlm.sections import ImageSection, ModelSection, PromptSection, ResizeSection

pytestmark = pytest.mark.xdist_group("resizing")
DRAWN = ImageSection(
    min_pixels=56 * 56, max_pixels=168 * 168, random_resize=ResizeSection(min_pixels=56 * 56, max_pixels=168 * 168)
)
STEPS = {"max_steps": 3, "gradient_checkpointing": False, "learning_rate": 1e-4, "logging_steps": 1}


@pytest.fixture
def samples(tmp_path):
    found = []
    for number, size in enumerate([(200, 120), (90, 130)]):
        path = tmp_path / f"{number}.png"
        Image.effect_noise(size, 60).convert("RGB").save(path)
        turns = [{"role": "user", "content": f"the dam {number}"}]
        found.append(Sample([str(path)], turns, "grounding", boxes=[[10.0, 20, 60, 80]], size=size, id=str(number)))
    return found


def test_a_group_is_rewarded_at_the_one_size_it_saw(samples, tiny_model, tmp_path):
    """Three steps are three passes over two prompts: within one a prompt has one size, in all its completions."""
    recipe = GRPORecipe(
        model=ModelSection(path=str(tiny_model), dtype="float32", attention="sdpa"), output=str(tmp_path / "run")
    )
    recipe.training = STEPS | {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4}
    calls = []

    def reward(completions, id, resized, images, **columns):
        calls.append(list(zip(id, map(tuple, resized), (row[0].size for row in images), strict=True)))
        return [float(place % 2) for place in range(len(completions))]

    sizes = resizing(DRAWN, seed=2, train=True)
    trainer = rl.GRPOTrainer(
        load_model(section(tiny_model)),
        [reward],
        arguments(trl.GRPOConfig, recipe, num_completions_to_print=0),
        train_dataset=prompt_rows(samples, PromptSection(system="Think."), sizes),
        processing_class=load_processor(tiny_model, DRAWN),
        callbacks=[PassCallback(sizes)],
    )
    trainer.train()
    assert len(calls) == 3
    for passed, call in enumerate(calls):
        assert sorted(name for name, *_ in call) == ["0", "0", "1", "1"]
        assert all(told == picture for _, told, picture in call)
        expected = resizing(DRAWN, seed=2, train=True)
        expected.passed = passed
        assert dict((name, told) for name, told, _ in call) == {
            sample.id: expected.drawn(sample.size, row, among=1) for row, sample in enumerate(samples)
        }
    assert len({told for call in calls for name, told, _ in call if name == "0"}) > 1


def test_supervised_training_learns_boxes_at_the_size_drawn(samples, tiny_model, tmp_path, monkeypatch):
    """Through the stage: rows of box truth alone, a text of another size in each pass."""
    rows = [
        {
            "images": sample.images,
            "task": "grounding",
            "boxes": sample.boxes,
            "messages": sample.messages,
            "id": sample.id,
        }
        for sample in samples
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = SFTRecipe(
        model=ModelSection(path=str(tiny_model), dtype="float32", attention="sdpa"),
        output=str(tmp_path / "run"),
        images=DRAWN,
        prompt=PromptSection(style="direct", notation="rscovlm"),
        data=DataSection(train=[SourceSection(path=str(tmp_path / "rows.jsonl"))]),
        training=STEPS | {"per_device_train_batch_size": 2},
    )
    learnt, plain = [], trl.SFTTrainer.compute_loss

    def spied(self, model, inputs, *rest, **named):
        for tokens, labels in zip(inputs["input_ids"], inputs["labels"], strict=True):
            learnt.append(
                self.processing_class.tokenizer.decode(tokens[labels != -100], skip_special_tokens=True).strip()
            )
        assert torch.all(inputs["labels"][inputs["input_ids"] == self.processing_class.image_token_id] == -100)
        return plain(self, model, inputs, *rest, **named)

    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", spied)
    stage.train(recipe)
    assert len(learnt) == 6
    for passed in range(3):
        expected = set()
        sizes = resizing(DRAWN, recipe.seed, train=True)
        sizes.passed = passed
        for row, sample in enumerate(samples):
            width, height = sizes.drawn(sample.size, row, among=1)
            x, y = width / sample.size[0], height / sample.size[1]
            expected.add(f"{round(10 * x)},{round(20 * y)},{round(60 * x)},{round(80 * y)}")
        assert set(learnt[2 * passed : 2 * passed + 2]) == expected
