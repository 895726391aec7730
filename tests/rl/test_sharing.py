"""GRPO with each prompt computed once against TRL's plain path: log-probabilities, gradients, whole runs."""

import pytest
import torch
import trl
from datasets import Dataset

import rl
from rl.recipe import GRPORecipe
from rl.sharing import packed, parity
from rl.sharing.rows import Rows, prompts_of, split
from stage.origins import provenance
from stage.trainer.arguments import arguments
from tests.support.groups import batch, furthest, gradients, plain, policy
from tests.support.tiny_checkpoints import picture, section
from vlm.adapters import apply_lora, freeze, part_of
from vlm.common.errors import UserError
from vlm.families import FAMILIES
from vlm.loading import load_model, load_processor
from vlm.prefix import media
from vlm.prefix.pictures import Contents
from vlm.sections import ImageSection, LoraSection, ModelSection

pytestmark = [pytest.mark.versions, pytest.mark.xdist_group("grpo")]
LIMITS = ImageSection(min_pixels=56 * 56, max_pixels=112 * 112)

# (words of the prompt, its pictures, lengths of its completions) by prompt
BATCHES = [
    [(5, (0,), (3, 7, 1)), (9, (1, 2), (4, 4)), (6, (), (2, 6, 5, 1))],
    [(12, (2, 0), (6, 6, 6, 6))],
    [(4, (), (1, 1)), (30, (), (9,))],
    [(7, (1,), (2, 8, 3, 5, 1, 9, 4, 2)), (3, (1,), (5,)), (3, (2,), (7, 2))],
]
SETUPS = {
    "all weights": {},
    "checkpointing": {"checkpointing": True},
    "vision frozen": {"frozen": ["vision_tower", "merger"]},
    "LoRA": {"lora": True},
    "LoRA, checkpointing, vision frozen": {"lora": True, "checkpointing": True, "frozen": ["vision_tower"]},
}


SHARING = [kind for kind, family in FAMILIES.items() if family.unshared is None]
TRIED = ("qwen2_vl", "qwen2_5_vl")
OTHERS = [kind for kind in SHARING if kind not in TRIED]
CASES = [(kind, setup, number) for kind in TRIED for setup in SETUPS for number in range(4)]
CASES += [(kind, "all weights", 0) for kind in OTHERS]
CASES += [(kind, "LoRA, checkpointing, vision frozen", 3) for kind in OTHERS]
"""What of attention and packing is the same in each family is tried with two of them."""


def prepared(path, checkpointing=False, frozen=(), lora=False):
    model = policy(path)
    freeze(model, frozen)
    if lora:
        adapters = LoraSection(r=4, alpha=8, dropout=0.0, target_modules=["q_proj", "v_proj", "o_proj"])
        model = apply_lora(model, adapters)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zeros at first, and so would be the gradients of A
                torch.nn.init.normal_(parameter, std=0.05)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model.train()


@pytest.mark.parametrize(("kind", "setup", "number"), CASES)
def test_log_probabilities_and_gradients(family_checkpoints, kind, setup, number):
    """|Δlogp| ≤ 1e-5 and relative gradient difference ≤ 1e-5 for every parameter, in float32."""
    model = prepared(family_checkpoints(kind), **SETUPS[setup])
    given = batch(model.config, BATCHES[number], seed=number)
    found = packed.log_probabilities(model, given.rows, given.ids, given.mask, given.keep, given.stored)
    got = gradients(model, found.logps, found.entropies, given.there)
    logps, entropies = plain(model, given)
    expected = gradients(model, logps, entropies, given.there)
    assert (found.logps - logps).abs().max() < 1e-5 and (found.entropies - entropies).abs().max() < 1e-5
    assert found.logps[~given.there].eq(0).all()
    assert got.keys() == expected.keys() and len(got) > 10
    name, worst = furthest(got, expected)
    assert worst < 1e-5, name
    assert found.tokens < given.ids.numel() and media.rows(found.shown) == media.rows(given.stored)


def test_frozen_vision_keeps_no_graph(tiny_model):
    model = prepared(tiny_model, frozen=["vision_tower", "merger"])
    seen = []
    model.model.visual.register_forward_hook(lambda module, args, output: seen.append(output.pooler_output))
    given = batch(model.config, BATCHES[1])
    packed.log_probabilities(
        model,
        given.rows,
        given.ids,
        given.mask,
        given.keep,
        given.stored,
    )
    assert len(seen) == 1 and not seen[0].requires_grad


@pytest.mark.parametrize("kind", SHARING)
def test_every_process_runs_the_vision_tower(family_checkpoints, kind, monkeypatch):
    """Among several processes, also for text alone: results stay, the tower's gradients are there and are 0."""
    model = prepared(family_checkpoints(kind))
    given = batch(model.config, BATCHES[2])
    expected, _ = plain(model, given)
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = packed.log_probabilities(model, given.rows, given.ids, given.mask, given.keep, {})
    assert (found.logps - expected).abs().max() < 1e-5
    got = gradients(model, found.logps, found.entropies, given.there)
    assert got.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(value.eq(0).all() == (part_of(name) != "language_model") for name, value in got.items())


def test_rows_without_tokens_stay_connected(tiny_model):
    """TRL masks truncated completions: some rows, or all of a micro-batch."""
    model = prepared(tiny_model)
    given = batch(model.config, BATCHES[1])
    logps, _ = plain(model, given)
    given.mask[[0, 2], -given.keep :] = 0
    found = packed.log_probabilities(model, given.rows, given.ids, given.mask, given.keep, given.stored).logps
    assert (found[[1, 3]] - logps[[1, 3]]).abs().max() < 1e-5 and found[[0, 2]].eq(0).all()
    given.mask[:, -given.keep :] = 0
    found = packed.log_probabilities(model, given.rows, given.ids, given.mask, given.keep, given.stored).logps
    found.sum().backward()
    assert found.eq(0).all() and all(p.grad is not None and p.grad.eq(0).all() for p in model.parameters())


# the batch


def test_groups_stay_whole():
    rows = Rows([0] * 3 + [1] * 3 + [2] * 3 + [3] * 3, [[0]] * 3 + [[1, 2]] * 3 + [[]] * 3 + [[2]] * 3)
    grid = torch.tensor([[1, 2, 2], [1, 2, 4], [1, 4, 4]])
    pixels = torch.cat([torch.full((n, 2), float(n)) for n in (4, 8, 16)])
    made = {"prompt_ids": torch.arange(12)[:, None], "num_images": rows, "pixel_values": pixels, "image_grid_thw": grid}
    made |= {"num_items_in_batch": torch.tensor(5), "notes": list("abcdefghijkl")}
    torch.manual_seed(0)
    parts = split(made, 2)
    after = torch.rand(1)
    torch.manual_seed(0)
    torch.randperm(12)
    assert after.equal(torch.rand(1))  # the random numbers that TRL's shuffle draws, and no more
    order = torch.cat([part["prompt_ids"] for part in parts])[:, 0].tolist()
    assert sorted(order) == list(range(12)) and order != sorted(order)
    assert all(order[n : n + 3] == list(range(order[n], order[n] + 3)) for n in range(0, 12, 3))
    for part in parts:
        assert part["notes"] == ["abcdefghijkl"[n] for n in part["prompt_ids"][:, 0]]
        sizes = part["image_grid_thw"].prod(-1).tolist()
        assert len(set(sizes)) == len(sizes)  # each picture once
        stored = part["pixel_values"].split(sizes)
        for row, shown in zip(part["prompt_ids"][:, 0].tolist(), part["num_images"].pictures, strict=True):
            assert [int(stored[n][0, 0]) for n in shown] == [(4, 8, 16)[n] for n in rows.pictures[row]]


def test_equal_questions_about_different_pictures_are_not_one_prompt():
    a, b, question = picture(50, 50), picture(50, 50, seed=1), [{"role": "user", "content": "Where?"}]
    asked = [
        (question, [a]),
        (question, [b]),
        (list(question), [a.copy()]),
        ([*question, *question], [a]),
        (question, []),
    ]
    inputs = [{"prompt": prompt, "images": images, "answer": n} for n, (prompt, images) in enumerate(asked)]
    assert prompts_of(inputs, Contents()) == [0, 1, 0, 2, 3]


# whole runs


def table(mixed: bool):
    """Four prompts: the same question about three pictures, one of them in two sizes of prompt; or text too."""
    shown = {0: [0], 1: [1], 2: [0, 2], 3: [] if mixed else [2]}
    asked = ["where is it", "where is it", "and where is the small red tank", "where is it"]
    rows = [{"prompt": [{"role": "user", "content": text}], "number": n} for n, text in enumerate(asked)]

    def show(found):  # a picture of its own in each row, as from a data set that decodes anew
        found["images"] = [[picture(60 + 30 * n, 90, seed=n) for n in shown[row]] for row in found["number"]]
        return found

    return Dataset.from_list(rows).with_transform(show)


class Recording(rl.GRPOTrainer):
    """Keeps the completions of every training step, sorted by their tokens."""

    def _compute_loss(self, model, inputs):
        self.__dict__.setdefault("seen", []).append(sorted(map(tuple, inputs["completion_ids"].tolist())))
        return super()._compute_loss(model, inputs)


class Twin(Recording):
    """The same order of rows, every row computed by TRL."""

    def _shared_logps(self, model, ids, *given):
        kinds = (ids == self.model.config.image_token_id).int()
        return self._plain_logps(model, ids, *given, mm_token_type_ids=kinds)


@pytest.fixture
def train(tiny_model, tmp_path):
    def run(cls=Recording, share=True, check=True, mixed=False, model=None, rollout=None, **training):
        small = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 5, "max_steps": 4}
        small |= {"gradient_checkpointing": False, "learning_rate": 0.05, "optim": "sgd", "beta": 0.1}
        small |= {"lr_scheduler_type": "constant", "logging_steps": 1} | training
        recipe = GRPORecipe(
            model=ModelSection(path=str(tiny_model), dtype="float32", attention="sdpa"), output=str(tmp_path / "run")
        )
        recipe.training = small
        torch.manual_seed(0)
        trainer = cls(
            model or load_model(section(tiny_model)),
            [lambda completion_ids, **_: [sum(ids) % 7 / 7 for ids in completion_ids]],
            arguments(trl.GRPOConfig, recipe),
            table(mixed),
            processing_class=load_processor(tiny_model, LIMITS),
            share_prefix=share,
            check_sharing=check,
            rollout_func=rollout,
        )
        trainer.train()
        return trainer

    return run


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    ("twin", "training"),
    [
        ({"share": False}, {"max_steps": 20}),  # TRL itself
        ({"cls": Twin}, {"steps_per_generation": 2, "num_iterations": 2, "gradient_accumulation_steps": 1}),
    ],
)
def test_a_run_is_the_same_as_plain(train, tiny_model, twin, training):
    """Same rollouts, losses and weights to 1e-4 over twenty steps that move them by far more; 1e-5 over four."""
    ours, theirs = train(**training), train(**twin, **training)
    assert ours.share_prefix and ours.seen == theirs.seen
    start, expected, found = load_model(section(tiny_model)).state_dict(), weights(theirs), weights(ours)
    assert max((expected[name] - start[name]).abs().max() for name in start) > 1e-3
    bound = 1e-4 if "max_steps" in training else 1e-5
    assert max((expected[name] - found[name]).abs().max() for name in start) < bound
    for log, other in zip(ours.state.log_history[:-1], theirs.state.log_history[:-1], strict=True):
        for name in ("loss", "grad_norm", "kl"):
            assert log[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4)


def test_pictures_are_prepared_and_held_once(train, monkeypatch):
    """8 rows of 4 prompts with 3 pictures: 3 preparations, 3 pictures held; text-only rows among them."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    calls, real = [], Qwen2VLImageProcessorPil.__call__
    monkeypatch.setattr(
        Qwen2VLImageProcessorPil, "__call__", lambda self, images, **kw: calls.append(1) or real(self, images, **kw)
    )
    trainer = train(mixed=True, max_steps=1, per_device_train_batch_size=8)
    (held,) = trainer._buffered_inputs
    assert len(calls) == len(held["image_grid_thw"]) == 3
    assert held["image_grid_thw"].prod(-1).sum() == len(held["pixel_values"])
    log = trainer.state.log_history[0]
    assert (log["images/encoded"], log["images/ideal"]) == (3 * 4, 3 * 3)  # one of two prompts, in three phases


def test_a_rollout_function_of_the_users(train, tiny_model):
    """It writes the tokens itself: TRL prepares pictures once, for training alone, and the check compares."""
    processor = load_processor(tiny_model, LIMITS)

    def rollout(prompts, trainer):
        found = processor.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
        texts = [[30 + n, 40, 50 + n] for n in range(len(prompts))]
        return {"prompt_ids": found["input_ids"], "completion_ids": texts, "logprobs": None}

    log = train(max_steps=1, rollout=rollout).state.log_history[0]
    assert log["tokens/update"] == log["tokens/update_ideal"] and "tokens/rollout" not in log


def test_evaluation_and_lora_share_too(train, tiny_model):
    """The reference comes from disabled adapters; dropout of the adapters does not disturb the check."""
    model = apply_lora(load_model(section(tiny_model)), LoraSection(r=4, alpha=8, dropout=0.5))
    trainer = train(model=model, max_steps=1)
    trainer.args.per_device_eval_batch_size = 4
    seen = []
    trainer.model.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    assert "eval_reward" in trainer.evaluate(table(True))
    passes = [given for given in seen if given.get("fused_lm_head")]
    assert passes and all("shared_prefix" in given for given in passes)


def test_the_check_stops_a_run_that_differs(train, monkeypatch):
    real = packed.rope_positions
    monkeypatch.setattr(packed, "rope_positions", lambda *given: [2 * places for places in real(*given)])
    with pytest.raises(UserError, match=r"the largest difference of a token is \S+ nats.*share_prefix: false"):
        train(max_steps=1)
    train(max_steps=1, check=False)


@pytest.mark.parametrize(("others", "compared"), [(None, 2), (0.0, 2), (1.0, 1)])
def test_the_check_waits_where_all_completions_were_cut(train, tiny_model, monkeypatch, others, compared):
    """The first batch has nothing to compare; the second has. others: whether a second process has something at the
    first, so that both compare then: none computes what the others do not."""
    end, made, judged = load_processor(tiny_model, LIMITS).tokenizer.eos_token_id, [], []
    judge, check = parity.judge, rl.GRPOTrainer._check_sharing

    def rollout(prompts, trainer):
        made.append(len(prompts))
        ids = trainer.processing_class.apply_chat_template(
            prompts, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]
        texts = [[30 + n, 40, 41 if len(made) == 1 else end] for n in range(len(prompts))]
        return {"prompt_ids": ids, "completion_ids": texts, "logprobs": None}

    def beside_another(self, *given):
        def gather(here):  # facts of both are (processes, 2); what they found is a number of each
            return torch.cat([here, torch.tensor([[1.0, others]])]) if here.dim() else here

        with monkeypatch.context() as patch:
            if others is not None:
                patch.setattr(self.accelerator, "gather", gather)
            return check(self, *given)

    monkeypatch.setattr(parity, "judge", lambda *given: (judged.append(len(made)), judge(*given)))
    monkeypatch.setattr(rl.GRPOTrainer, "_check_sharing", beside_another)
    train(rollout=rollout, mask_truncated_completions=True, max_steps=2, max_completion_length=3)
    assert judged == [compared]


def test_what_cannot_share_says_so_and_trains_plainly(train, tiny_model, capsys):
    """On the first screen, and in the run's record."""
    trainer = train(model=load_model(section(tiny_model, attention="eager")), max_steps=1)
    told = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("note: share_prefix: "))
    assert not trainer.share_prefix and "as in TRL: its attention is eager" in told
    kept = provenance.shared(trainer)["sharing"]
    assert kept["share_prefix"] is False and kept["why_not"].startswith("its attention is eager")
    trainer = train(max_steps=1, num_generations=4, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    told = capsys.readouterr().err
    assert "note: share_prefix: " in told and "2 is no multiple of num_generations 4" in told and "; 4 would" in told
    assert provenance.shared(trainer) == {"sharing": {"share_prefix": True, "why_not": None}}


@pytest.mark.parametrize("how", ["share_prefix", "eager"])
def test_pictures_and_text_in_one_batch_train_plainly_too(train, tiny_model, how):
    """Rows without a picture beside rows with one: the plain path takes them, and learns what the shared one does."""
    model = load_model(section(tiny_model, attention="eager")) if how == "eager" else None
    plain = train(mixed=True, share=how != "share_prefix", model=model, per_device_train_batch_size=8, max_steps=2)
    assert not plain.share_prefix
    shared = train(mixed=True, per_device_train_batch_size=8, max_steps=2)
    assert shared.share_prefix and plain.seen == shared.seen
    expected, found = weights(shared), weights(plain)
    assert max((expected[name] - found[name]).abs().max() for name in expected) < 1e-5
