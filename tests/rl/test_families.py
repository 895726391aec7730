"""GRPO of every family that shares prompts: whole steps against stock TRL's, from the files of a checkpoint on."""

import pytest
import torch
import trl
from trl.trainer import grpo_trainer

import rl
from rl.arguments import heads_as_stored
from rl.recipe import GRPORecipe
from samples import Sample
from samples.rows import prompt_rows
from samples.sections import DataSection, SourceSection
from stage.trainer.arguments import arguments
from tests.support.families import listed
from tests.support.tiny_checkpoints import picture, section
from vlm.families import FAMILIES
from vlm.loading import load_model, load_processor
from vlm.pictures.processing import ImagesOnly
from vlm.sections import ImageSection, ModelSection, PromptSection

pytestmark = pytest.mark.xdist_group("grpo")
SHARING = [kind for kind, family in FAMILIES.items() if family.unshared is None]
LIMITS = ImageSection(min_pixels=56 * 56, max_pixels=112 * 112)
SIZES = {"a.png": (100, 100), "b.png": (200, 70), "c.png": (60, 90)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Prompts of unequal length with one, two (one of them the first prompt's) and no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (name, size) in enumerate(SIZES.items()):
        picture(*size, seed=number).save(folder / name)
    asked = [("a.png",), ("b.png", "a.png"), (), ("c.png",)]
    texts = ["the red ship", "Before: <image> after: <image> the tank in the corner", "2 + 2?", "a bridge over water"]
    return [
        Sample([str(folder / one) for one in shown], [{"role": "user", "content": text}], "vqa", answer="yes", id=text)
        for shown, text in zip(asked, texts, strict=True)
    ]


def step(cls, path, samples, output, **named):
    """Loss, gradient norm and weights after one step of G = 2 over all rows."""
    data = DataSection(train=[SourceSection(path="nowhere.jsonl")])  # the trainer is given rows
    made = GRPORecipe(model=ModelSection(path=path, dtype="float32", attention="sdpa"), output=str(output), data=data)
    made.training = {
        "per_device_train_batch_size": 2 * len(samples), "num_generations": 2, "max_completion_length": 5, "beta": 0.1,
        "max_steps": 1, "learning_rate": 1e-3, "optim": "sgd", "max_grad_norm": 1e9, "gradient_checkpointing": False,
        "logging_steps": 1, "save_strategy": "no",
    }  # fmt: skip
    if path.rstrip("0").endswith(
        "moe"
    ):  # its balancing loss counts every completion's tokens, so prompts are not shared
        made.training["router_aux_loss_coef"] = 0.0
    args = arguments(trl.GRPOConfig, made)
    processor = load_processor(path, LIMITS)
    processor.tokenizer.padding_side = "left"

    def reward(completions, **_):
        return [float(n % 2) for n in range(len(completions))]

    if cls is trl.GRPOTrainer:  # ours never samples a placeholder
        from rl.arguments import ban, banned_tokens

        ban(args, banned_tokens(path, args, processor))
    table = prompt_rows(samples, PromptSection(system="Think."))
    torch.manual_seed(3)
    trainer = cls(load_model(section(path)), [reward], args, table, processing_class=processor, **named)
    trainer.train()
    log = next(line for line in trainer.state.log_history if "grad_norm" in line)
    return trainer, log, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("kind", listed(SHARING, but=("qwen2_vl",)))  # which test_stock_pairs.py has
def test_a_step_is_stock_trls(kind, family_checkpoints, rows, tmp_path):
    """Rows with one and two pictures: the same completions, loss, KL, gradient norm and weights."""
    shown = [row for row in rows if row.images]
    path = family_checkpoints(kind)
    ours, mine, weights = step(rl.GRPOTrainer, path, shown, tmp_path / "ours")
    _, theirs, others = step(trl.GRPOTrainer, path, shown, tmp_path / "stock")
    assert ours.share_prefix, ours.not_shared
    assert isinstance(ours.processing_class, ImagesOnly)
    for key in ("loss", "kl", "grad_norm", "completions/mean_length"):
        assert mine[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key
    before = dict(load_model(section(path)).named_parameters())
    moved = max((before[name] - weight).abs().max() for name, weight in weights.items())
    assert moved > 1e-4
    assert max((others[name] - weight).abs().max() for name, weight in weights.items()) < 1e-3 * moved
    sight = ours.processing_class.sight  # rollout, reference and update see each of the three pictures once
    units = sum(sight.tiles(size) if hasattr(sight, "tiles") else 1 for size in SIZES.values())
    assert mine["images/ideal"] == 3 * units


@pytest.mark.parametrize("kind", listed(SHARING, but=("qwen2_vl", "qwen2_5_vl", "qwen3_vl")))  # as in test_sharing.py
def test_rows_with_and_without_pictures(kind, family_checkpoints, rows, tmp_path):
    """Shared and plain alike, which stock TRL refuses."""
    path = family_checkpoints(kind)
    _, shared, weights = step(rl.GRPOTrainer, path, rows, tmp_path / "shared")
    _, plain, others = step(rl.GRPOTrainer, path, rows, tmp_path / "plain", share_prefix=False)
    for key in ("loss", "kl", "grad_norm", "completions/mean_length"):
        assert shared[key] == pytest.approx(plain[key], rel=1e-4, abs=1e-6), key
    assert max((others[name] - weight).abs().max() for name, weight in weights.items()) < 1e-5


def test_the_reference_has_a_head_of_its_own(family_checkpoints, monkeypatch):
    """An InternVL says so in its text model's section; transformers looks elsewhere, and under ZeRO-3 at no weights."""
    asked = []
    monkeypatch.setattr(grpo_trainer, "create_model_from_path", lambda name, **options: asked.append(options))
    stock = grpo_trainer.create_model_from_path
    for kind in ("internvl", "qwen3_vl"):
        with heads_as_stored():
            grpo_trainer.create_model_from_path(family_checkpoints(kind), dtype="float32")
    assert asked == [{"dtype": "float32", "tie_word_embeddings": False}, {"dtype": "float32"}]
    assert grpo_trainer.create_model_from_path is stock
