"""`rollout.generate` in each family: the tokens of transformers' own `generate` on repeated rows, for less work."""

from __future__ import annotations

import pytest
import torch

from tests.support.families import KINDS, base
from vlm import families
from vlm.prefix import cache, rollout

pytestmark = pytest.mark.versions

NEW = 4
INDEX = [2, 0, 3, 0, 1, 2]
"""Prompts of the rows, neither sorted nor equally many."""
WAYS = ({"do_sample": False}, {"do_sample": True, "temperature": 0.9, "top_p": 0.95})
EXACT = {"max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0}
PLAIN = {"qwen3_5": "most of its layers are linear attention", "idefics3": "the model has no file in vlm/families"}
"""Kinds whose prompts are not shared, and the reason that is given."""


def drawn(model, inputs, index, **how):
    torch.manual_seed(7)
    with rollout.neutral(model):
        return rollout.generate(model, inputs, torch.tensor(index), **EXACT, **how)


def expected(one, index, **how):
    """Each row prepared by itself, by a processor that knows nothing of units of pictures."""
    torch.manual_seed(7)
    with rollout.neutral(one.model):
        return one.model.generate(**one.prompts(index), **EXACT, **how)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if base(kind) not in PLAIN])
@pytest.mark.parametrize("least", [cache.LEAST, 1], ids=["grown", "shared"])
def test_each_prompt_and_picture_is_computed_once(loaded, kind, least, monkeypatch):
    """least: of keys saved, for prompts' keys to be held once in decoding, too."""
    monkeypatch.setattr(cache, "LEAST", least)
    attended, attend = [], cache.attend
    monkeypatch.setattr(cache, "attend", lambda *given: attended.append(None) or attend(*given))
    one, seen, read = loaded(kind), [], []
    inputs, tower = one.prompts(), one.model.model.get_submodule(families.FAMILIES[kind].towers[0])
    eyes = tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len([*args, *kwargs.values()][0])), with_kwargs=True
    )
    words = one.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    with eyes, words:
        found = [drawn(one.model, inputs, INDEX, **how) for how in WAYS]
    assert seen == [len(inputs["pixel_values"])] * 2
    assert read == [(4, inputs["input_ids"].shape[1]), *[(len(INDEX), 1)] * (NEW - 1)] * 2
    assert bool(attended) == (least == 1)
    for how, tokens in zip(WAYS, found, strict=True):
        assert tokens.equal(expected(one, INDEX, **how))
    assert len({tuple(row[-NEW:].tolist()) for row in found[1]}) > 3  # pictures and draws tell


def test_linear_attention_is_computed_for_each_row_and_says_so_once(loaded, caplog):
    one, inputs = loaded("qwen3_5"), loaded("qwen3_5").prompts()
    rollout._say_once.cache_clear()
    for how in WAYS:
        assert drawn(one.model, inputs, INDEX, **how).equal(expected(one, INDEX, **how))
    said = [record.message for record in caplog.records if "prefilled once for each row" in record.message]
    assert len(said) == 1 and PLAIN["qwen3_5"] in said[0] and "sliding" not in said[0]


def test_a_family_without_a_file_generates_each_row(loaded):
    one, rows = loaded("idefics3"), list(range(4))
    inputs = one.prompts()
    assert drawn(one.model, inputs, rows, **WAYS[1]).equal(expected(one, rows, **WAYS[1]))
    with pytest.raises(ValueError, match=r"found \['pixel_attention_mask'\]"):  # whose rows cannot be told apart
        drawn(one.model, inputs, INDEX)
