"""SFT of every family by the stage itself: what is learned, what moves, and what is saved."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoTokenizer

from samples import Sample
from samples.readers.rows import RowFault
from sft import stage
from sft.recipe import SFTRecipe
from sft.teaching import Teaching
from stage.recipe import config
from stage.runs import read_metrics
from stage.trainer import finish
from tests.support.families import base, listed
from tests.support.sample_rows import dump
from tests.support.tiny_checkpoints import picture
from vlm.adapters import PARTS, part_of
from vlm.families import FAMILIES
from vlm.loading import load_model, load_processor
from vlm.sections import ImageSection, ModelSection

pytestmark = pytest.mark.xdist_group("sft")
SAID = {0: ["4"], 1: ["two ships", "one tank"], 2: ["a dam"]}
"""Pictures of a row → what its assistant says."""
END = {"llava": "</s>", "glm4v": "<|user|>"}
OPENED = {"qwen3_5": "<think>\n\n</think>\n\n"}
LIMITS = ImageSection(min_pixels=56 * 56, max_pixels=112 * 112)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Three rows, of 0, 1 and 2 pictures, one of them in the middle of the text and one of two turns."""
    folder = tmp_path_factory.mktemp("rows")
    for number, size in enumerate([(60, 60), (112, 56)]):
        picture(*size, seed=number).save(folder / f"{number}.png")
    asked = {0: ["2 + 2?"], 1: ["ships?", "tanks?"], 2: ["Before <image> after <image>. What was built?"]}
    return dump(
        folder / "rows.jsonl",
        [
            {
                "images": [f"{n}.png" for n in range(count)], "task": "vqa", "answer": "x", "id": str(count),
                "messages": [
                    {"role": role, "content": text}
                    for question, answer in zip(asked[count], SAID[count], strict=True)
                    for role, text in (("user", question), ("assistant", answer))
                ],
            }
            for count in asked
        ],
    )  # fmt: skip


@pytest.mark.parametrize("kind", listed(FAMILIES, but=("qwen2_vl",)))  # which test_sft.py has
def test_a_family_is_taught(kind, family_checkpoints, rows, tmp_path, monkeypatch):
    kept, save, seen = [], finish.save_model, {}
    monkeypatch.setattr(finish, "save_model", lambda trainer, *rest: kept.append(trainer) or save(trainer, *rest))
    step = torch.optim.AdamW.step

    def stepping(self, *rest):
        seen.setdefault("gradients", {id(p): p.grad for group in self.param_groups for p in group["params"]})
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", stepping)
    path = family_checkpoints(kind)
    given = {
        "model": {"path": path, "dtype": "float32", "attention": "sdpa"},
        "output": str(tmp_path / "run"),
        "data": {"train": [{"path": str(rows)}], "shuffle": False, "cache": str(tmp_path / "cache")},
        "images": LIMITS.model_dump(),
        "prompt": {"style": "direct"},
        "watchdog": None,
        "training": {
            "per_device_train_batch_size": 3, "max_steps": 3, "learning_rate": 3e-3, "gradient_checkpointing": False,
            "lr_scheduler_type": "constant", "optim": "adamw_torch",
        },
    }  # fmt: skip
    final = stage.train(config.build(given, SFTRecipe))
    (trainer,) = kept
    words = trainer.processing_class.tokenizer

    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(3)])
    for row, expected in enumerate(SAID.values()):
        learned, labels = [[]], batch["labels"][row].tolist()
        for label, token in zip(labels, batch["input_ids"][row].tolist(), strict=True):
            assert label in (-100, token)
            if label != -100:
                learned[-1].append(label)
            elif learned[-1]:
                learned.append([])
        found = [words.decode(run, skip_special_tokens=False).strip() for run in learned if run]
        assert found == [OPENED.get(base(kind), "") + text + END.get(kind, "<|im_end|>") for text in expected]

    if base(kind) not in OPENED:  # whose template for training has an empty trace in each reply, not only in the last
        check_teaching(config.build(given, SFTRecipe, ["training.max_length=1"]), rows, batch, trainer.model.config)

    losses = [line["loss"] for line in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in line]
    assert len(losses) == 3 and losses[-1] < losses[0] - 0.3
    gradients = {name: seen["gradients"].get(id(p)) for name, p in trainer.model.named_parameters()}
    assert {part_of(name) for name, grad in gradients.items() if grad is not None and grad.any()} == set(PARTS)

    trained = trainer.model.state_dict()
    again = load_model(ModelSection(path=str(final), dtype="float32", attention="sdpa")).state_dict()
    assert trained.keys() == again.keys() and all(torch.equal(trained[name], again[name]) for name in trained)
    own, before = AutoTokenizer.from_pretrained(final), AutoTokenizer.from_pretrained(path)
    assert own("a <b> 12", add_special_tokens=False) == before("a <b> 12", add_special_tokens=False)
    assert own.get_vocab() == before.get_vocab() and type(own) is type(before)
    assert load_processor(str(final), LIMITS).chat_template == trainer.processing_class.chat_template


def check_teaching(recipe, rows, batch, model):
    """Under every limit that cuts a row, what is said of it before weights load is what its ids and labels say."""
    teaching = Teaching(recipe)
    for line, ids, mask, labels in zip(
        rows.read_text().splitlines(), batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        row = json.loads(line)
        shown = [str(rows.parent / name) for name in row["images"]]
        sample = Sample(shown, row["messages"], row["task"], answer=row["answer"])
        pictures, learned = ((found.nonzero() + 1).flatten() for found in (ids == model.image_token_id, labels != -100))
        for limit in range(1, int(mask.sum()) + 1):
            expected = "cut" if limit < mask.sum() else None
            expected = expected if (learned <= limit).any() else "cut_reply"
            expected = "cut_picture" if (pictures > limit).any() else expected
            teaching.limit, found = limit, None
            teaching.tally.clear()
            try:
                teaching(sample)
                found = "cut" if teaching.tally["cut"] else None
            except RowFault as fault:
                found = fault.kind
            assert found == expected, (row["id"], limit)
