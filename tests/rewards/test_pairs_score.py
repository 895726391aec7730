"""Exchanges about two pictures: the score model's shortcuts score and learn what whole exchanges do."""

from __future__ import annotations

import json

import pytest
import torch

from rewards.score import Exchange, ScoreModel, encode
from rewards.score.model.passes import passes, run
from rewards.score.model.prefixes import sharing
from rewards.score.placement import InProcess, Served
from rewards.score.training import stage
from rewards.score.training.preferences import Preference, write
from rewards.score.training.recipe import ScoreRecipe
from rewards.score.training.trainer import Collator, preference_loss
from stage.recipe import config
from tests.support.sample_rows import pairs
from tests.support.scores.score_servers import services
from vlm.loading import stored_limits

pytestmark = pytest.mark.versions

MODELS = [("qwen2_vl", "mrope"), ("qwen2_vl", "sequential"), ("qwen2_5_vl", "mrope"), ("qwen3_vl", "mrope")]
ANSWERS = ("Two are new.", "", "Nothing has changed, as far as one can see it from here.")
SQUARE = 32 * 32
"""Qwen3-VL's, the larger one."""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Four questions, three about pairs: of one size, of two sizes, one picture, and the two the other way round."""
    return pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def models(family_checkpoints):
    def load(kind, positions="mrope", row=None):
        limits = {"min_pixels": 2 * SQUARE, "max_pixels": 16 * SQUARE}
        model = ScoreModel.from_backbone(family_checkpoints(kind), positions, dtype="float32", **limits).eval()
        model.processor.share_rows(row)
        return model

    return load


def exchanges(records, answers=ANSWERS):
    return [Exchange.of(row["messages"][0]["content"], said, row["images"]) for row in records for said in answers]


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize("row", [None, 16 * SQUARE])
@pytest.mark.parametrize("kind", MODELS)
def test_scores_are_those_of_whole_exchanges(models, records, kind, row):
    """Each alone, without what it shares; whatever the batch. Every question and answer has its own."""
    model, found = models(*kind, row), exchanges(records)
    whole = [model.score([one], share_prefix=False)[0] for one in found]
    assert len({round(score, 4) for score in whole}) == len(found) == 12
    for size in (2, 5, 100):
        close(model.score(found, size), whole)
        close(model.score(found, size, share_prefix=False), whole)
    close(model.score(found[::-1], 4), whole[::-1])


@pytest.mark.parametrize("row", [None, 16 * SQUARE])
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl"])
def test_gradients(models, records, kind, row):
    """Of a training batch, which encodes each picture once, and of packed rows, against exchanges one by one."""
    model, words = models(kind, row=row), ANSWERS[:2]
    ranked = [Preference(one["images"], one["messages"][0]["content"], list(words)) for one in records]
    batch = Collator(model.processor, model.config)(list(enumerate(ranked)))
    batch = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    candidates, margins = batch.pop("candidates").tolist(), batch.pop("margin")
    batch.pop("index")
    assert len(batch["image_grid_thw"]) == (4 if row is None else 5)  # "after" alone is seen at another size
    asked = [exchange for record in ranked for exchange in record.exchanges()]
    assert sharing(model, True)
    one = next(passes(asked, model.processor, 100, True))
    order = torch.tensor(one.rows).argsort()

    def single():
        return torch.cat([model(**encode([exchange], model.processor)).logits[:, 0] for exchange in asked])

    grads = []
    for scores in (single, lambda: model(**batch).logits[:, 0], lambda: run(model, one, {})[0][order]):
        model.zero_grad()
        preference_loss(scores(), candidates, margins, 0.0).backward()
        grads.append({name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None})
    model.zero_grad()
    expected, *others = grads
    assert len(expected) > 10
    for found in others:
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert (found[name] - value).norm() <= 1e-5 * value.norm() + 1e-7, name


def test_from_training_to_a_service(records, tiny_model, tmp_path):
    """The budget of a recipe goes with the score model, into a reward's process and behind an address."""
    write(tmp_path / "rows.jsonl", [Preference(one["images"], one["messages"][0]["content"], ["four", "five"])
                                    for one in records])  # fmt: skip
    images = {"min_pixels": 1568, "max_pixels": 12544, "row_pixels": 12544}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({
        "output": str(tmp_path / "run"), "images": images, "data": {"train": [{"path": str(tmp_path / "rows.jsonl")}]},
        "model": {"path": str(tiny_model), "dtype": "float32", "attention": "sdpa"},
        "training": {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_checkpointing": False},
    }))  # fmt: skip
    final = stage.train(config.load(path, ScoreRecipe))
    assert stored_limits(str(final)).row_pixels == 12544
    scorer, asked = InProcess(str(final), batch_size=5), exchanges(records)
    found = scorer.score(asked)
    other = ScoreModel.from_pretrained(str(final))
    assert other.processor.sight.among(2).most == 6272
    close(other.eval().score(asked, share_prefix=False), found)
    other.processor.share_rows(None)
    assert max(abs(a - b) for a, b in zip(other.score(asked), found, strict=True)) > 1e-4
    with services() as serve:
        server = serve(scorer=scorer, model=scorer.fingerprint())
        close(Served([server.url]).score(asked), found)
