"""Evaluation in each family, and in one without a file: batches against single questions, and what is never said."""

from __future__ import annotations

import pytest

from evals.generate import Transformers, complete
from evals.recipe import EvalRecipe
from samples.sections import DataSection, SourceSection
from stage.recipe.asking import GenerationSection
from tests.support.families import KINDS, base
from vlm.prefix import rollout
from vlm.sections import ImageSection, ModelSection, PromptSection

pytestmark = pytest.mark.versions

PROMPT = PromptSection(style="direct", system=None, wording={"vqa": "{question}"})


def texts(one, samples, batch, **how):
    section = GenerationSection(batch_size=batch, max_new_tokens=5, **how)
    return [text for _, text in complete(one.model, one.processor, samples, PROMPT, section)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_answers_as_each_question_alone(loaded, kind, questions):
    one = loaded(kind)
    alone = texts(one, questions, 1)
    assert texts(one, questions, 4) == alone
    assert len(set(alone)) > 1 or base(kind) == "qwen3_5"  # whose tiny one says the same whatever it is asked
    marks = set(one.processor.tokenizer.all_special_tokens)
    assert not [mark for mark in marks for text in alone if mark in text]


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_a_processor_may_write_is_never_said(loaded, kind, questions):
    """Each such token is the likeliest by far, in turn with greedy decoding and with sampling."""
    one, said = loaded(kind), []
    banned = rollout.unsayable(one.model.config, one.processor.tokenizer)
    assert one.model.config.image_token_id in banned

    def prefer(module, inputs, logits):
        logits[..., banned] += 10_000.0
        return logits

    decode = one.processor.tokenizer.batch_decode
    one.processor.tokenizer.batch_decode = lambda tokens, **how: said.append(tokens) or decode(tokens, **how)
    try:
        with one.model.lm_head.register_forward_hook(prefer):
            for temperature in (0.0, 1.0):
                texts(one, questions[:2], 2, temperature=temperature)
    finally:
        del one.processor.tokenizer.batch_decode
    assert len(said) == 2 and not any({*row} & {*banned} for tokens in said for row in tokens)


@pytest.mark.parametrize("kind", ["internvl", "idefics3"])
def test_the_stages_answerer_says_the_same(loaded, family_checkpoints, kind, questions):
    recipe = EvalRecipe(
        model=ModelSection(path=family_checkpoints(kind), dtype="float32", attention="sdpa"),
        images=ImageSection(min_pixels=64 * 64, max_pixels=128 * 128),
        data=DataSection(eval=[SourceSection(path="nowhere.jsonl")]),
        prompt=PROMPT,
        inside="text",
        generation=GenerationSection(batch_size=4, max_new_tokens=5),
        output="nowhere",
    )
    found = {sample.id: text for sample, text in Transformers(recipe).answer(recipe, questions)}
    assert found == dict(zip("0123", texts(loaded(kind), questions, 4), strict=True))
