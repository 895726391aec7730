"""`rl.sharing.prefill`: TRL's own trainer with and without a shared prefill; and best-of-N's draws."""

import copy

import pytest
import torch
import trl

import rl
from evals.generate import complete
from rl.sharing.prefill import first_rows, shared_prefill
from samples import Sample
from samples.rows import prompt_rows
from stage.recipe.asking import GenerationSection
from tests.support import tiny_checkpoints as tiny
from vlm import loading
from vlm.adapters import apply_lora
from vlm.families.sight import Grid
from vlm.prefix import media, rollout
from vlm.sections import LoraSection, PromptSection

pytestmark = pytest.mark.versions

G = 4


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Four questions of unequal length, with 1, 0, 2 and 1 pictures."""
    folder, made = tmp_path_factory.mktemp("asked"), []
    for number, count in enumerate((1, 0, 2, 1)):
        paths = [folder / f"{number}{n}.png" for n in range(count)]
        for n, path in enumerate(paths):
            tiny.picture(90 + 20 * n, 100, seed=10 * number + n).save(path)
        asked = [{"role": "user", "content": "Where is it?" + " Is it red?" * number}]
        made.append(Sample([str(path) for path in paths], asked, "vqa", answer="2", source="q", id=str(number)))
    return made


def trained(folder, samples, output, lora, share_prefix):
    """Two steps; returns the completions (token ids, by row) of each step, the losses and the weights."""
    steps = []

    class Recording(rl.GRPOTrainer):
        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            mask = inputs["completion_mask"].bool()
            rows = zip(inputs["prompt_ids"], inputs["completion_ids"], mask, strict=True)
            steps.append(([(prompt.tolist(), said[kept].tolist()) for prompt, said, kept in rows], loss.item()))
            return loss

    args = trl.GRPOConfig(
        str(output), per_device_train_batch_size=2 * G, num_generations=G, max_completion_length=8, max_steps=2,
        optim="sgd", learning_rate=1.0, beta=0.0, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
        gradient_checkpointing=True, remove_unused_columns=False, disable_tqdm=True, seed=3,
    )  # fmt: skip
    model = loading.load_model(tiny.section(folder))
    if lora:
        torch.manual_seed(5)
        model = apply_lora(model, lora)
    # TRL itself stops where only some rows of a batch have pictures
    rows = prompt_rows([sample for sample in samples if sample.images], PromptSection(system="Think."))
    trainer = Recording(
        model,
        lambda completion_ids, **_: [float(sum(ids) % 7) for ids in completion_ids],
        args,
        rows,
        processing_class=loading.load_processor(folder, tiny.pixels()),
        share_prefix=share_prefix,
    )
    trainer.train()
    assert "generate" not in vars(trainer.model) and "_prefill" not in vars(trainer.model)
    return steps, {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("adapters", [None, LoraSection(r=4, alpha=8, dropout=0.0)], ids=["full", "lora"])
def test_two_steps_of_grpo_are_the_same(tiny_model, samples, tmp_path, adapters, monkeypatch):
    """Same rollouts, losses and weights as without; each rollout prefills two prompts."""
    plain, weights = trained(tiny_model, samples, tmp_path, adapters, share_prefix=False)
    calls, real = [], rollout._Prefill.__call__

    def counted(self, *given, **named):
        calls.append(len(self.inputs["input_ids"]))
        return real(self, *given, **named)

    monkeypatch.setattr(rollout._Prefill, "__call__", counted)
    shared, changed = trained(tiny_model, samples, tmp_path, adapters, share_prefix=True)
    assert calls == [2, 2]
    assert [sorted(rows) for rows, _ in shared] == [sorted(rows) for rows, _ in plain]  # groups stay together
    said = [tuple(completion) for rows, _ in plain for _, completion in rows]
    assert len(set(said)) > G  # sampling, not one answer throughout
    assert [loss for _, loss in shared] == pytest.approx([loss for _, loss in plain], abs=1e-6)
    assert weights and all(torch.allclose(changed[name], weights[name], atol=1e-5) for name in weights)


def batch(folder, samples, rows):
    """Inputs as TRL makes them: rows repeated, and their pictures."""
    from evals.asking.conversation import conversation

    asked = [conversation(samples[row], PromptSection(system="Think."), Grid(28, 784, 784 * 1000)) for row in rows]
    return dict(
        loading.load_processor(folder, tiny.pixels()).apply_chat_template(
            asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
    )  # fmt: skip


def test_pictures_of_the_rows_or_of_the_prompts(tiny_model, samples):
    model = loading.load_model(tiny.section(tiny_model)).eval()
    index, patches = [0, 0, 1, 2, 0, 2], []
    inputs = batch(tiny_model, samples, [2, 2, 1, 3, 2, 3])
    pictures = {key: batch(tiny_model, samples, [2, 1, 3])[key] for key in media.NAMES}
    expected = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    hook = model.model.visual.register_forward_pre_hook(lambda module, args: patches.append(len(args[0])))
    with hook, shared_prefill(model, index):
        for given in (inputs, inputs | pictures):
            assert model.generate(**given, max_new_tokens=5, do_sample=False).equal(expected)
    assert patches == [len(pictures["pixel_values"])] * 2 and "generate" not in vars(model)
    with pytest.raises(ZeroDivisionError), shared_prefill(model, index):
        raise ZeroDivisionError
    assert "generate" not in vars(model)


def test_rows_that_do_not_fit_are_refused(tiny_model, samples):
    inputs = batch(tiny_model, samples, [0, 0, 1])
    config = loading.load_model(tiny.section(tiny_model)).config
    assert len(first_rows(inputs, [0, 0, 1], config)["image_grid_thw"]) == 1
    with pytest.raises(ValueError, match="rows that are said to be one prompt differ"):
        first_rows(inputs, [0, 1, 1], config)
    for index in ([0, 0], [1, 1, 0]):
        with pytest.raises(ValueError, match="expected 3 numbers, by first appearance"):
            first_rows(inputs, index, config)
    three = {key: torch.cat([inputs[key], inputs[key][: len(inputs[key]) // 2]]) for key in media.NAMES}
    with pytest.raises(ValueError, match="3 pictures, and image tokens for 1"):
        first_rows(inputs | three, [0, 0, 1], config)


def test_best_of_n_draws_what_it_drew(tiny_model, samples):
    """Equal seeds, equal completions; the picture is prepared, encoded and prefilled once."""
    model, processor = (
        loading.load_model(tiny.section(tiny_model)).eval(),
        loading.load_processor(tiny_model, tiny.pixels()),
    )
    how, patches = GenerationSection(batch_size=6, max_new_tokens=6, temperature=1.2, top_p=0.9), []

    def draw(asked):
        torch.manual_seed(11)
        return [text for _, text in complete(model, processor, asked, PromptSection(), how)]

    hook = model.model.visual.register_forward_pre_hook(lambda module, args: patches.append(len(args[0])))
    with hook:
        shared = draw([samples[2]] * 6)
        plain = draw([copy.copy(samples[2]) for _ in range(6)])  # another object each: nothing to share
    assert shared == plain and len(set(plain)) > 1
    assert len(patches) == 2 and patches[1] == 6 * patches[0]
