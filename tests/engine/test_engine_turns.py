"""Evaluation with the zoom through vLLM's real engine: the prompts of later turns, their pictures, and a full context.
`make test-vllm`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evals.asking.turns import fields
from evals.generate import VLLM, Transformers
from evals.recipe import EvalRecipe
from stage.recipe import config
from tests.engine import world
from tests.support.processes.commands import ROOT
from tests.support.runs.saying import scripted
from vlm.tools.calls import write
from vlm.tools.zoom import NAME

pytestmark = pytest.mark.vllm
CALLS = (write(NAME, {"bbox": [0, 0, 500, 500]}), write(NAME, {"bbox": [900, 0, 100, 500]}), None)
"""What is said first, in turn: a region, a box that is none, and what the model says itself."""


def first(number: int) -> str | None:
    return CALLS[number % len(CALLS)]


class Speaker:
    """An engine whose first turns are the test's; prompts are read, and later turns written, by the engine itself."""

    def __init__(self, llm: Any, tokenizer: Any, context: int | None = None):
        self.llm, self.tokenizer, self.prompts = llm, tokenizer, []
        most = context or llm.llm_engine.model_config.max_model_len
        self.model_config = SimpleNamespace(max_model_len=most)

    def generate(self, requests: list[dict], how: list[Any], use_tqdm: bool = True) -> list[Any]:
        found = self.llm.generate(requests, how, use_tqdm=use_tqdm)
        begun = bool(self.prompts)
        self.prompts.append([list(one.prompt_token_ids) for one in found])
        for number, one in enumerate(found):
            if not begun and (text := first(number)) is not None:
                said = one.outputs[0]
                end = self.tokenizer.eos_token_id
                said.text, said.finish_reason = text, "stop"
                said.token_ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], end]
        return found


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turns")
    return [one for one in world.questions(folder / "data", 6) if one.task == "vqa"]


def recipe(folder, *more) -> EvalRecipe:
    words = [
        f"model.path={world.BASE}", f"output={folder}", "data.eval=[{path: x.jsonl}]", "gold=null", "controls=[]",
        "images={min_pixels: 3136, max_pixels: 12544}", "generation={max_new_tokens: 120, batch_size: 8}",
        "tools=[{use: zoom, options: {least: 28}}]", "turns={system: Zoom in.}", *more,
    ]  # fmt: skip
    return config.load(ROOT / "recipes/demo/eval.yaml", EvalRecipe, words)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return VLLM(recipe(tmp_path_factory.mktemp("engine"), "generation.backend=vllm"))


def test_turns_are_those_of_transformers(samples, engine, tmp_path):
    names = [sample.id for sample in samples]
    asked = recipe(tmp_path)
    here = Transformers(asked)

    def script(text: str, turn: int) -> str | None:
        number = next(n for n, sample in enumerate(samples) if sample.messages[0]["content"] in text)
        return first(number) if turn == 0 else None

    scripted(here.model, here.processor, script, None)
    expected = {sample.id: text for sample, text in here.answer(asked, samples)}
    engine._engine = speaker = Speaker(engine._loaded(asked), engine.processor.tokenizer)
    found = {sample.id: text for sample, text in engine.answer(recipe(tmp_path, "generation.backend=vllm"), samples)}
    assert found == expected and list(found) == names
    assert {name: fields(text) for name, text in found.items()} == {
        name: fields(text) for name, text in expected.items()
    }
    assert [len(text.turns) for text in found.values()] == [3, 3, 1] * (len(samples) // 3)
    assert [len(batch) for batch in speaker.prompts] == [6, 4]
    image = engine.processor.image_token_id
    more = [batch.count(image) for batch in speaker.prompts[1]]
    crop = found[names[0]].crops[0]["size"]
    assert more[0] - speaker.prompts[0][0].count(image) == crop[0] * crop[1] // 28**2  # once, and written out
    assert more[1] == speaker.prompts[0][1].count(image)
    engine._engine = speaker.llm


def test_a_conversation_that_fills_the_context_ends(samples, engine, tmp_path, caplog):
    real = engine._loaded(recipe(tmp_path))
    whole = Speaker(real, engine.processor.tokenizer)
    engine._engine = whole
    asked = recipe(tmp_path, "generation.backend=vllm")
    before = [text for _, text in engine.answer(asked, samples[:2])]
    longest = [len(ids) for ids in whole.prompts[1]]
    assert longest[1] > longest[0]  # what is said of a box that is none is longer than a crop
    engine._engine = Speaker(real, engine.processor.tokenizer, longest[1])
    found = [text for _, text in engine.answer(asked, samples[:2])]
    assert found[1] == "" and len(found[1].turns) == 3 and found[0] == before[0]
    assert "1 of 2 conversations filled the model's context" in caplog.text
    engine._engine = real
