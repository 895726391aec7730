"""Sampling is what the recipe says: a checkpoint's generation_config.json steers neither evaluation nor best-of-N nor
GRPO's rollout, on any backend."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
import trl
from transformers import GenerationConfig

import rl
from evals import stage as evaluation
from evals.comparing import compare
from evals.generate import complete
from evals.recipe import EvalRecipe
from rewards.select.recipe import BonRecipe
from samples import Sample
from samples.rows import prompt_rows
from stage.recipe import config
from stage.recipe.asking import GenerationSection
from stage.recipe.decoding import DecodingSection
from stage.runs import RECORD
from tests.support import tiny_checkpoints as tiny
from tests.support.processes.commands import ROOT
from vlm import loading
from vlm.adapters import apply_lora
from vlm.common.errors import RecipeError
from vlm.prefix import rollout
from vlm.prefix.rollout import neutral, steering
from vlm.sections import LoraSection, PromptSection

POISON = {
    "do_sample": True,
    "temperature": 0.01,
    "top_k": 1,
    "top_p": 0.1,
    "min_p": 0.9,
    "typical_p": 0.2,
    "epsilon_cutoff": 0.3,
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(20, 300)),
    "begin_suppress_tokens": list(range(300, 400)),
    "bad_words_ids": [[400], [401]],
    "min_new_tokens": 4,
    "num_beams": 2,
    "max_length": 3,
}


@pytest.fixture(scope="module")
def poisoned(tiny_model, tmp_path_factory):
    """The tiny model, whose generation_config.json steers wherever it is asked."""
    folder = tmp_path_factory.mktemp("poisoned") / Path(tiny_model).name
    shutil.copytree(tiny_model, folder)
    there = json.loads((folder / "generation_config.json").read_text())
    assert set(there) <= {"eos_token_id", "pad_token_id", "transformers_version"}  # of the clean one
    (folder / "generation_config.json").write_text(json.dumps(there | POISON))
    return str(folder)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("asked"), []
    for number in range(3):
        path = folder / f"{number}.png"
        tiny.picture(90 + 20 * number, 100, seed=number).save(path)
        turn = {"role": "user", "content": "Where is it?" + " Is it red?" * number}
        made.append(Sample([str(path)], [turn], "vqa", answer="2", source="q", id=str(number)))
    return made


def answers(folder, asked, **how):
    torch.manual_seed(11)
    model = loading.load_model(tiny.section(folder)).eval()
    processor = loading.load_processor(folder, tiny.pixels())
    section = GenerationSection(**({"batch_size": 4, "max_new_tokens": 8} | how))
    return [text for _, text in complete(model, processor, asked, PromptSection(), section)]


def test_the_poison_acts_where_nobody_minds(tiny_model, poisoned):
    said = []
    for folder in (tiny_model, poisoned):
        model = loading.load_model(tiny.section(folder)).eval()
        said.append(model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False, num_beams=1))
    assert not said[0].equal(said[1])


@pytest.mark.versions
@pytest.mark.parametrize("how", [{}, {"temperature": 1.3}, {"temperature": 1.1, "top_k": 30, "top_p": 0.9}])
def test_evaluation(tiny_model, poisoned, asked, how):
    rows = [*asked, asked[0], asked[0]]  # shared prompts and single ones
    assert answers(poisoned, rows, **how) == answers(tiny_model, rows, **how)


def test_the_recipes_own_keys_act(tiny_model, asked):
    plain = answers(tiny_model, asked)
    assert answers(tiny_model, asked, repetition_penalty=5.0) != plain  # greedily, too
    # the likeliest token alone is greedy, whatever the temperature
    assert answers(tiny_model, asked, temperature=3.0, top_k=1) == plain
    assert answers(tiny_model, asked, temperature=3.0, min_p=0.9999) == plain
    assert answers(tiny_model, asked, temperature=3.0) != plain


def drawn(folder, asked, size=6):
    changes = (
        f"model.path={folder}",
        "selectors=[random]",
        "generation={samples: 3, max_new_tokens: 6, batch_size: 6}",
    )
    recipe = config.load(ROOT / "recipes/demo/bon.yaml", BonRecipe, changes)
    draw = runpy.run_path(str(ROOT / "launch/bon.py"), run_name="launcher")["drawer"](recipe, size)
    texts = [text for _, text in draw([(sample, number) for sample in asked for number in range(3)])]
    return [texts[start : start + 3] for start in range(0, len(texts), 3)]


@pytest.mark.versions
def test_best_of_n(tiny_model, poisoned, asked):
    found = drawn(poisoned, asked)
    assert found == drawn(tiny_model, asked) and len(set(found[0])) > 1
    for size in (2, 9):  # a batch holds part of a question's answers, or those of several questions
        assert drawn(tiny_model, asked, size) == found
    assert drawn(tiny_model, asked[1:]) == found[1:]


def rolled_out(folder, asked, output, share, lora=False):
    """Completions, by prompt and row, of a step of GRPO; and the trained model's generation config."""
    said = []

    class Recording(rl.GRPOTrainer):
        def _compute_loss(self, model, inputs):
            said.extend((inputs["completion_ids"] * inputs["completion_mask"]).tolist())
            return super()._compute_loss(model, inputs)

    args = trl.GRPOConfig(
        str(output), per_device_train_batch_size=6, num_generations=3, max_completion_length=8, max_steps=1,
        beta=0.0, use_cpu=True, bf16=False, report_to="none", save_strategy="no", gradient_checkpointing=False,
        remove_unused_columns=False, disable_tqdm=True, seed=3,
    )  # fmt: skip
    model = loading.load_model(tiny.section(folder))
    stored = model.generation_config
    if lora:
        torch.manual_seed(5)
        model = apply_lora(model, LoraSection(r=4, alpha=8, dropout=0.0))
    trainer = Recording(
        model,
        lambda completion_ids, **_: [float(sum(ids) % 7) for ids in completion_ids],
        args,
        prompt_rows(asked, PromptSection(system="Think.")),
        processing_class=loading.load_processor(folder, tiny.pixels()),
        share_prefix=share,
    )
    trainer.train()
    base = trainer.model.get_base_model() if lora else trainer.model
    assert base.generation_config is stored and base.generation_config.repetition_penalty == stored.repetition_penalty
    return sorted(said)


@pytest.mark.versions
@pytest.mark.parametrize(("share", "lora"), [(True, False), (False, False), (False, True)])
def test_rollouts_of_grpo(tiny_model, poisoned, asked, tmp_path, share, lora):
    found = rolled_out(poisoned, asked[:2], tmp_path, share, lora)
    assert found == rolled_out(tiny_model, asked[:2], tmp_path, share, lora) and len(found) == 6


def test_what_stays_are_the_ids_that_end_and_pad(poisoned, caplog):
    model = loading.load_model(tiny.section(poisoned))
    stored = model.generation_config
    rollout._say_ignored.cache_clear()  # other tests of this process said it, too
    with caplog.at_level("INFO", "vlm"), neutral(model):
        kept = model.generation_config
        assert steering(kept) == {}
        assert (kept.eos_token_id, kept.pad_token_id) == (stored.eos_token_id, stored.pad_token_id)
    assert model.generation_config is stored and stored.repetition_penalty == 5  # saved with the model as it was
    assert "generation_config.json says" in caplog.text and "repetition_penalty 5.0" in caplog.text


def test_what_the_published_checkpoints_say_is_found():
    """Qwen2.5-VL-7B-Instruct's and Qwen2-VL-7B-Instruct's files."""
    ids = {"bos_token_id": 151643, "pad_token_id": 151643, "eos_token_id": [151645, 151643]}
    newer = GenerationConfig(**ids, do_sample=True, repetition_penalty=1.05, temperature=0.1, top_p=0.001, top_k=1)
    said = steering(newer)
    assert {key: said[key] for key in ("repetition_penalty", "temperature", "top_p", "top_k")} == {
        "repetition_penalty": 1.05,
        "temperature": 0.1,
        "top_p": 0.001,
        "top_k": 1,
    }
    assert steering(GenerationConfig(**ids)) == {}


def test_what_each_backend_is_told():
    greedy = DecodingSection(max_new_tokens=9)
    assert greedy.of_transformers() == {"do_sample": False, "max_new_tokens": 9, "repetition_penalty": 1.0}
    assert greedy.of_vllm() == {
        "temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 9,
    }  # fmt: skip
    warm = DecodingSection(temperature=0.7, top_p=0.8, top_k=20, min_p=0.05, repetition_penalty=1.1)
    assert warm.of_transformers() == {
        "do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1,
        "max_new_tokens": 1024,
    }  # fmt: skip
    assert warm.of_vllm()["top_k"] == 20 and warm.of_vllm()["min_p"] == 0.05
    assert greedy.spoken() == "greedy; at most 9 new tokens"
    assert warm.spoken() == (
        "sampled at temperature 0.7, top_p 0.8, top_k 20, min_p 0.05, repetition_penalty 1.1; at most 1024 new tokens"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_k": -1, "temperature": 1.0}, "top_k ≥ 0"),
        ({"min_p": 1.0, "temperature": 1.0}, "0 ≤ min_p < 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty > 0"),
        ({"top_k": 5}, "top_k = 5 with temperature = 0, which takes the likeliest token"),
        ({"top_p": 0.9}, "top_p = 0.9 with temperature = 0"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_values_that_cannot_be(values, message):
    with pytest.raises((RecipeError, ValueError), match=message):
        GenerationSection(**values)


def test_it_is_recorded_beside_the_number(tiny_model, demo_data, tmp_path):
    recipe = config.load(
        ROOT / "recipes/demo/eval.yaml",
        EvalRecipe,
        [
            f"model.path={tiny_model}",
            f"output={tmp_path / 'out'}",
            f"data.eval=[{{path: {demo_data}/test/vqa_test.jsonl}}]",
            "generation={batch_size: 4, max_new_tokens: 6, repetition_penalty: 1.05}",
            "pictures=0",
        ],
    )
    said = "greedy, repetition_penalty 1.05; at most 6 new tokens"
    report = evaluation.run(recipe)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["vqa/exact"]["sampling"] == said
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["sampling"] == said and record["generation"]["repetition_penalty"] == 1.05
    assert f"- answers: {said}" in (tmp_path / "out/table.md").read_text()
    assert compare.rows({"a": report})[1][-1] == f"answers: {said}"
    (tmp_path / "out" / RECORD).unlink()  # an evaluation of before
    older = evaluation.load_report(tmp_path / "out")
    assert older.sampling == evaluation.UNRECORDED
    notes = compare.rows({"old": older, "new": report})[1]
    assert notes[-2:] == [f"answers of old: {evaluation.UNRECORDED}", f"answers of new: {said}"]
