"""Rows with two pictures in GRPO: what shared prefixes compute is what TRL's plain path does, picture by picture."""

from __future__ import annotations

import pytest
import torch
import trl

import rl
from rl.recipe import GRPORecipe
from rl.sharing import packed
from samples import Sample
from samples.rows import prompt_rows
from stage.trainer.arguments import arguments
from tests.support.groups import batch, furthest, gradients, plain, policy
from tests.support.sample_rows import pairs
from tests.support.sights import resizing
from tests.support.tiny_checkpoints import section
from vlm.adapters import apply_lora
from vlm.loading import load_model, load_processor
from vlm.pictures.resizing import header_size
from vlm.prefix import media
from vlm.sections import ImageSection, LoraSection, ModelSection, PromptSection

pytestmark = [pytest.mark.versions, pytest.mark.xdist_group("grpo")]
LIMITS = ImageSection(min_pixels=2 * 28**2, max_pixels=16 * 28**2, row_pixels=20 * 28**2)
"""Up to ten squares of 28 pixels for each of two pictures, up to 16 for one alone."""

# (words of the prompt, its pictures, lengths of its completions) by prompt
GROUPS = {
    "pairs of one size": [(7, (1, 1), (3, 7, 1)), (12, (2, 2), (4, 4))],
    "different sizes, and their order": [(9, (0, 1), (4, 2)), (9, (1, 0), (6, 1, 3)), (5, (2, 0), (8,))],
    "one picture, two, and none": [(5, (2,), (3, 5)), (11, (0, 2), (7, 2)), (6, (), (2, 6)), (4, (1, 0), (1, 9))],
}


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
@pytest.mark.parametrize("name", GROUPS)
def test_log_probabilities_and_gradients(family_checkpoints, kind, name):
    """|Δlogp| ≤ 1e-5 and relative gradient difference ≤ 1e-5 for every parameter, in float32."""
    model = policy(family_checkpoints(kind)).train()
    given = batch(model.config, GROUPS[name], seed=5)
    found = packed.log_probabilities(model, given.rows, given.ids, given.mask, given.keep, given.stored)
    got = gradients(model, found.logps, found.entropies, given.there)
    logps, entropies = plain(model, given)
    expected = gradients(model, logps, entropies, given.there)
    assert (found.logps - logps).abs().max() < 1e-5 and (found.entropies - entropies).abs().max() < 1e-5
    assert got.keys() == expected.keys() and len(got) > 10
    assert furthest(got, expected)[1] < 1e-5
    assert found.tokens < given.ids.numel() and media.rows(found.shown) == media.rows(given.stored)


def test_the_order_of_two_pictures_counts(tiny_model):
    """Else the comparison above would not see pictures exchanged."""
    model = policy(tiny_model).eval()
    given = batch(model.config, [(9, (1, 1), (4,))], seed=5)
    there = packed.log_probabilities(model, given.rows, given.ids, given.mask, given.keep, given.stored).logps
    first, second = given.stored[media.PIXELS].chunk(2)
    given.stored[media.PIXELS] = torch.cat([second, first])
    other = packed.log_probabilities(model, given.rows, given.ids, given.mask, given.keep, given.stored).logps
    assert (there - other).abs().max() > 1e-4


# whole runs


class Recording(rl.GRPOTrainer):
    """Keeps, of every training step, what was sampled and the log-probabilities that are held fixed."""

    def _compute_loss(self, model, inputs):
        kept = {name: inputs[name] for name in ("completion_ids", "old_per_token_logps", "ref_per_token_logps")}
        order = sorted(range(len(inputs["completion_ids"])), key=lambda n: inputs["completion_ids"][n].tolist())
        self.__dict__.setdefault("seen", []).append({name: value[order] for name, value in kept.items()})
        return super()._compute_loss(model, inputs)


class Twin(Recording):
    """The same order of rows, every row computed by TRL."""

    def _shared_logps(self, model, ids, *given):
        kinds = (ids == self.model.config.image_token_id).int()
        return self._plain_logps(model, ids, *given, mm_token_type_ids=kinds)


@pytest.fixture
def train(tiny_model, tmp_path):
    samples = []
    for row in pairs(tmp_path):
        asked = row | {"messages": row["messages"][:1], "size": header_size(row["images"][0])}
        samples.append(Sample(**asked))

    def run(cls=Recording, lora=False, limits=LIMITS, **training):
        small = {"per_device_train_batch_size": 8, "num_generations": 2, "max_completion_length": 5, "max_steps": 6}
        small |= {"gradient_checkpointing": False, "learning_rate": 0.05, "optim": "sgd", "beta": 0.1}
        small |= {"num_iterations": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 1}
        small |= {"lr_scheduler_type": "constant", "logging_steps": 1, "per_device_train_batch_size": 4} | training
        recipe = GRPORecipe(
            model=ModelSection(path=str(tiny_model), dtype="float32", attention="sdpa"), output=str(tmp_path / "run")
        )
        recipe.training = small
        torch.manual_seed(0)
        model = load_model(section(tiny_model))
        if lora:
            model = apply_lora(model, LoraSection(r=4, alpha=8, dropout=0.0))
        trainer = cls(
            model,
            [lambda completion_ids, **_: [sum(ids) % 7 / 7 for ids in completion_ids]],
            arguments(trl.GRPOConfig, recipe),
            prompt_rows(samples, PromptSection(system="Think."), resizing(limits)),
            processing_class=load_processor(tiny_model, limits),
        )
        trainer.train()
        return trainer

    return run


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_is_the_same_as_plain(train, tiny_model, lora):
    """Rollouts, old and reference log-probabilities, losses and weights, over six steps in two iterations of blocks."""
    ours, theirs = train(lora=lora), train(Twin, lora=lora)
    assert ours.share_prefix and len(ours.seen) == len(theirs.seen) == 6
    for found, expected in zip(ours.seen, theirs.seen, strict=True):
        assert found["completion_ids"].equal(expected["completion_ids"])
        for name in ("old_per_token_logps", "ref_per_token_logps"):
            assert (found[name] - expected[name]).abs().max() < 1e-5, name
    expected, found = weights(theirs), weights(ours)
    assert max((expected[name] - found[name]).abs().max() for name in found) < 1e-5
    for log, other in zip(ours.state.log_history[:-1], theirs.state.log_history[:-1], strict=True):
        for name in ("loss", "grad_norm", "kl"):
            assert log[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5)
    if not lora:
        start = load_model(section(tiny_model)).state_dict()
        assert max((expected[name] - start[name]).abs().max() for name in start) > 1e-3


def test_pictures_of_a_row_are_prepared_once_and_at_its_budget(train):
    """Seven pictures of four prompts are five to the model: one is shown in a pair and alone, and is two then; two are
    shown by two pairs."""
    trainer = train(
        rl.GRPOTrainer, max_steps=1, per_device_train_batch_size=8, steps_per_generation=1, num_iterations=1
    )
    (held,) = trainer._buffered_inputs
    squares = held["image_grid_thw"].prod(-1) // 4
    assert held["image_grid_thw"].prod(-1).sum() == len(held["pixel_values"])
    sizes = sorted(tuple(grid.tolist()) for grid in held["image_grid_thw"])
    # pairs, (height, width) in patches of 14, ten squares each: 120 × 90 as 3 × 2 squares, 150 × 60 and 60 × 130 as
    # they are but for rounding, 5 × 2 and 2 × 5; alone 120 × 90 as it is, 4 × 3
    assert sizes == sorted([(1, 4, 6)] * 2 + [(1, 4, 10), (1, 10, 4), (1, 6, 8)])
    assert squares.max() <= 16
