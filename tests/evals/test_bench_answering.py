"""Who answers: questions dealt out to processes and put together again, and what a stand-in for vLLM is told."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image
from pydantic import ValidationError

from evals import predictions, ranks
from evals.generate import VLLM, answerer
from evals.predictions import Prediction
from evals.recipe import EvalRecipe
from samples import Sample
from samples.sections import DataSection, SourceSection
from stage.parallel.team import Team
from stage.recipe.asking import GenerationSection
from vlm.common.errors import RecipeError, UserError
from vlm.loading import load_processor
from vlm.sections import ImageSection, ModelSection, PromptSection


def row(number):
    return Prediction(str(number), "s", "vqa", f"said {number}", answer="x")


def test_parts_are_put_together_in_the_order_of_the_questions(tmp_path):
    predictions.write(tmp_path / ranks.FILE, [row(4)])
    predictions.write(tmp_path / "predictions.rank0-of-2.jsonl", [row(2), row(0)])
    predictions.write(tmp_path / "predictions.rank1-of-2.jsonl", [row(3), row(1)])
    with (tmp_path / "predictions.rank1-of-2.jsonl").open("a") as file:
        file.write(predictions.line(row(5))[:20])  # killed while it wrote
    found = ranks.gather(tmp_path, [f"s/{number}" for number in range(6)])
    assert found == predictions.read(tmp_path / ranks.FILE) == [row(number) for number in range(5)]
    assert [path.name for path in tmp_path.iterdir()] == [ranks.FILE]


def test_rows_that_are_in_both_come_once(tmp_path):
    """Killed between the new file and the removal of the parts."""
    predictions.write(tmp_path / ranks.FILE, [row(0), row(1)])
    predictions.write(tmp_path / "predictions.rank1-of-3.jsonl", [row(1), row(2)])
    assert ranks.gather(tmp_path) == [row(0), row(1), row(2)]
    assert ranks.gather(tmp_path) == [row(0), row(1), row(2)]


def test_nothing_was_answered(tmp_path):
    assert ranks.gather(tmp_path) == [] and not list(tmp_path.iterdir())


def test_each_process_has_a_file_of_its_own(tmp_path, monkeypatch):
    assert ranks.part(tmp_path, Team()) == tmp_path / ranks.FILE
    monkeypatch.setenv("RANK", "2")
    part = ranks.part(tmp_path, Team(2, 3))
    assert part.name == "predictions.rank2-of-3.jsonl" and part.match(ranks.PARTS)
    part.write_text("x")
    ranks.discard(tmp_path)
    assert part.exists()  # the main process does it
    monkeypatch.setenv("RANK", "0")
    ranks.discard(tmp_path)
    assert not part.exists()


# vLLM


@pytest.fixture
def vllm(monkeypatch, tiny_model):
    """A module that stands for vLLM and keeps what it is told."""
    import trl  # noqa: F401 (looks for vLLM when it is imported)

    with open(f"{tiny_model}/config.json") as file:
        token = json.load(file)["image_token_id"]
    told = SimpleNamespace(engines=[], sampling=[], requests=[], image_token=token, side=28, end="stop")
    module = ModuleType("vllm")

    class LLM:
        def __init__(self, **arguments):
            told.engines.append(arguments)
            self.model_config = SimpleNamespace(max_model_len=128)

        def generate(self, requests, sampling, use_tqdm):
            told.requests.append(requests)
            return [self.answer(**one) for one in requests]

        def answer(self, prompt_token_ids, multi_modal_data=None):
            """As vLLM does, it writes out the placeholders, for tokens of `told.side` pixels."""
            read, sizes = [], iter([picture.size for picture in (multi_modal_data or {}).get("image", ())])
            for token in prompt_token_ids:
                width, height = next(sizes) if token == told.image_token else (told.side, told.side)
                read += [token] * (width // told.side * (height // told.side))
            said = SimpleNamespace(text=f"answer {len(prompt_token_ids)}", finish_reason=told.end, token_ids=[5, 6])
            return SimpleNamespace(prompt_token_ids=read, outputs=[said])

    def parameters(**arguments):
        told.sampling.append(arguments)
        return arguments

    module.LLM, module.SamplingParams = LLM, parameters
    monkeypatch.setitem(sys.modules, "vllm", module)
    return told


def asking(tiny_model, **generation):
    return EvalRecipe(
        model=ModelSection(path=tiny_model, dtype="float32"),
        output="out",
        seed=7,
        images=ImageSection(min_pixels=12544, max_pixels=25088),
        prompt=PromptSection(style="direct", wording={"vqa": "{question}"}),
        inside="text",
        data=DataSection(eval=[SourceSection(path="v.jsonl")]),
        generation=GenerationSection(backend="vllm", **generation),
    )


def test_what_vllm_is_told(tiny_model, tmp_path, vllm):
    path = tmp_path / "a.png"
    Image.new("RGB", (60, 40), "red").save(path)
    turns = [{"role": "user", "content": "How many?"}]
    samples = [Sample([str(path)] * count, turns, "vqa", answer="1", id=str(count)) for count in (1, 2, 0)]
    recipe = asking(tiny_model, batch_size=2, max_new_tokens=9, temperature=0.7, top_p=0.8, tensor_parallel=4)
    who = answerer(recipe)
    assert isinstance(who, VLLM) and not vllm.engines  # the engine comes with the first question
    pairs = list(who.answer(recipe, samples))
    assert [sample for sample, _ in pairs] == samples
    (engine,) = vllm.engines
    assert engine["model"] == tiny_model and engine["dtype"] == "float32" and engine["seed"] == 7
    assert engine["generation_config"] == "vllm"  # the checkpoint's own does not steer
    assert engine["tensor_parallel_size"] == 4 and engine["limit_mm_per_prompt"] == {"video": 0}
    # (not as many pictures as these questions have: the next benchmark's may have more)
    # wider than the recipe's: pictures come at their size, which of a strip may go beyond 25,088: 28·√(200·25,088)
    assert engine["mm_processor_kwargs"] == {"min_pixels": 784, "max_pixels": 62720}
    sampling, *others = vllm.sampling
    assert len({one["seed"] for one in (sampling, *others)}) == 3  # a question's own, whatever the batch
    assert (
        list(who.draw(recipe, [(samples[1], 0), (samples[1], 1)])) and vllm.sampling[3] == others[0] != vllm.sampling[4]
    )
    assert (sampling["temperature"], sampling["top_p"], sampling["max_tokens"]) == (0.7, 0.8, 9)
    assert (sampling["top_k"], sampling["min_p"], sampling["repetition_penalty"]) == (-1, 0.0, 1.0)
    with open(f"{tiny_model}/config.json") as file:
        ids = json.load(file)
    words = load_processor(tiny_model, ImageSection()).tokenizer.get_vocab()
    beyond = set(range(ids["text_config"]["vocab_size"])) - set(words.values())
    assert sampling["logit_bias"] == dict.fromkeys({ids["image_token_id"], ids["video_token_id"], *beyond}, -100.0)
    assert [len(batch) for batch in vllm.requests] == [2, 1, 2]
    one, two, none, *_ = [request for batch in vllm.requests for request in batch]
    assert [picture.size for picture in two["multi_modal_data"]["image"]] == [(140, 112)] * 2  # as the model sees them
    text, both = (who.processor.tokenizer.decode(asked["prompt_token_ids"]) for asked in (one, two))
    assert text.count("<|image_pad|>") == 1 and both.count("<|image_pad|>") == 2
    assert "How many?" in text and text.endswith("<|im_start|>assistant\n")
    assert "multi_modal_data" not in none


def test_a_prompt_that_vllm_reads_otherwise_ends_the_run(tiny_model, tmp_path, vllm):
    """Pictures of 140 × 112 pixels are 20 tokens; an engine that makes other tokens of them is named with the place."""
    path = tmp_path / "a.png"
    Image.new("RGB", (60, 40), "red").save(path)
    samples = [Sample([str(path)], [{"role": "user", "content": "How many?"}], "vqa", answer="1", id="1")]
    who, recipe = answerer(asking(tiny_model, batch_size=2, max_new_tokens=9)), asking(tiny_model, batch_size=2)
    vllm.side = 14
    with pytest.raises(UserError, match=r"row 0 of a batch, \d+ tokens meant and \d+ read, alike up to token \d+"):
        list(who.answer(recipe, samples))


def test_what_does_not_fit_into_the_context(tiny_model, vllm, caplog):
    """A prompt that is longer ends the run with its question's name; an answer that vLLM cuts there is told of."""

    def question(words):
        return Sample([], [{"role": "user", "content": words}], "vqa", answer="1", source="s", id="7")

    recipe = asking(tiny_model, batch_size=2, max_new_tokens=2)
    who = answerer(recipe)
    vllm.end = "length"
    assert [*who.answer(recipe, [question("How many?")])] and not caplog.records  # of as many tokens as were asked for
    longer = asking(tiny_model, batch_size=2, max_new_tokens=3)
    assert [*who.answer(longer, [question("How many?")])]
    assert "1 of 1 answers were cut at the end of the model's context" in caplog.text
    with pytest.raises(UserError, match=r"question s/7 has a prompt of \d{3} tokens.* context of 128\. Leave it out"):
        list(who.answer(recipe, [question("How many? " * 200)]))
    with pytest.raises(UserError, match=r"has 1 runs of picture tokens and 0 pictures"):
        list(who.answer(recipe, [question("How many <|image_pad|>?")]))


def test_vllm_that_is_not_there(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        RecipeError, match=r"vLLM cannot be imported .*pip install -e '\.\[vllm\]'.*generation.backend=hf"
    ):
        answerer(asking(tiny_model))


def test_vllm_splits_its_work_itself(tiny_model, vllm, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one process, and 2 were launched"):
        answerer(asking(tiny_model))


def test_generation_keys_that_do_not_go_together():
    with pytest.raises(ValidationError, match=r"tensor_parallel = 2 with backend hf"):
        GenerationSection(tensor_parallel=2)
