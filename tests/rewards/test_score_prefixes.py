"""Packed passes of the score model against padded ones, which compute each exchange whole."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rewards.score import Exchange, ScoreModel, encode
from rewards.score.model import prefixes
from rewards.score.model.exchange import render
from rewards.score.model.passes import Forward, Pass, batches, passes, run
from rewards.score.model.prefixes import packed, share, sharing
from rewards.score.placement import InProcess
from rewards.score.reward.score import Score
from rewards.score.sharded import NOTHING
from tests.support.tiny_checkpoints import picture, qwen2_5_vl
from vlm import families
from vlm.common.errors import RecipeError

pytestmark = pytest.mark.versions

GOLDEN = Path(__file__).parents[1] / "golden" / "scorers"
MODELS = [(family, positions) for family in ("qwen2_vl", "qwen2_5_vl") for positions in ("mrope", "sequential")]
MODELS += [("qwen3_vl", "mrope")]
ANSWERS = ["Two.", "", "Two.", "There are two ships at the pier, and a third one leaves."]
IMAGE = 9
"""Image token of the rows by hand."""


@pytest.fixture(scope="module")
def models(tiny_model, tmp_path_factory, family_checkpoints):
    paths = {"qwen2_vl": tiny_model, "qwen2_5_vl": qwen2_5_vl(tmp_path_factory, tiny_model)}
    paths["qwen3_vl"] = family_checkpoints("qwen3_vl")
    return {(family, p): ScoreModel.from_backbone(paths[family], p, dtype="float32").eval() for family, p in MODELS}


@pytest.fixture(scope="module")
def model(models):
    return models["qwen2_vl", "mrope"]


def exchanges(answers=ANSWERS):
    """Two questions about one picture and two about a pair, one about each alone and without any; several turns."""
    harbor, city = picture(100, 80, seed=1), picture(140, 150, seed=2)
    asked = [("How many ships?", [harbor]), ("How many ships are there?", [harbor]), ("", [city])]
    asked += [("What has changed?", [harbor, city]), ("What is gone?", [harbor, city])]
    asked += [("What is the capital of France?", []), ("", [])]
    found = [Exchange.of(question, said, images) for question, images in asked for said in answers]
    turns = Exchange.of("Is it a port?", "Yes.").messages
    return found + [Exchange((*turns, *Exchange.of("Why?", said).messages), [harbor]) for said in answers[:2]]


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", MODELS)
def test_scores_are_those_of_whole_exchanges(models, kind):
    """Whatever the batch and the order."""
    found, model = exchanges(), models[kind]
    whole = model.score(found, share_prefix=False)
    assert len({round(score, 4) for score in whole}) == len({repr(exchange) for exchange in found}) == 23
    for size in (3, 100):
        close(model.score(found, size), whole)
    close(model.score(found[::-1], 7), whole[::-1])
    close(model.score(found[3:4]), whole[3:4])


@pytest.mark.parametrize("kind", MODELS)
def test_positions_are_those_of_whole_exchanges(models, kind):
    found, model = exchanges(), models[kind]
    one = next(passes(found, model.processor, 100, True))
    row = packed(model, one.tokens, one.shown, one.grids)
    start = 0
    for stem in one.tokens.stems:
        for place, end in zip(stem.rows, stem.last, strict=True):
            batch = encode([found[one.rows[place]]], model.processor)
            alone = model.position_ids(batch["input_ids"], batch["attention_mask"], batch.get("image_grid_thw"))
            own = alone.shape[-1] - len(stem.prefix)
            there = [*range(start, start + len(stem.prefix)), *range(start + end + 1 - own, start + end + 1)]
            assert row.input_ids[:, there].equal(batch["input_ids"]) and row.position_ids[..., there].equal(alone)
        start += stem.tokens
    assert start == row.input_ids.shape[1]


@torch.no_grad()
@pytest.mark.parametrize("positions", ["mrope", "sequential"])
def test_golden_scores(positions):
    """Of the published implementation, each row beside one that goes on differently after 25 of its tokens."""
    with np.load(GOLDEN / "case0.npz") as file:
        case = {name: torch.from_numpy(file[name]) for name in file}
    model = ScoreModel.from_pretrained(GOLDEN / "checkpoint", positions=positions).eval()
    assert sharing(model, True)
    ids = [row[there.bool()] for row, there in zip(case["input_ids"], case["attention_mask"], strict=True)]
    ids += [torch.cat([row[:25], row[25:].flip(0), row[-1:]]) for row in ids]
    tokens = share(ids, [0, 1, 0, 1], [0, 1, 0, 1], model.config.image_token_id)
    assert [len(stem.prefix) for stem in tokens.stems] == [25, 25]
    grids = case["image_grid_thw"]
    one = Pass([0, 1, 2, 3], tokens, [1, 1], [0, 1], grids, [0, 1], case["pixel_values"], grids)
    scores, _ = run(model, one, {})
    close(scores[:2], case[positions], 1e-4)
    assert (scores[2:] - scores[:2]).abs().min() > 1e-4


def rows(*found):
    return [torch.tensor(row) for row in found]


def test_what_is_shared_by_hand():
    """Equal rows, a row that another begins with, two pictures, texts."""
    ids = rows([9, 1, 2, 3], [9, 5], [9, 1, 2, 3], [9, 1, 2], [9, 1, 2, 4, 4], [6, 7], [6, 8])
    found = share(ids, ["a", "b", "a", "a", "a", (), ()], [""] * 7, IMAGE)
    assert [stem.prefix.tolist() for stem in found.stems] == [[9, 1, 2], [9, 5], [6]]
    segments = [[segment.tolist() for segment in stem.segments] for stem in found.stems]
    assert segments == [[[3], [4, 4]], [], [[7], [8]]]
    # 9 1 2 | 3 | 4 4 ‖ 9 5 ‖ 6 | 7 | 8
    assert found.kept.tolist() == [3, 7, 3, 2, 5, 9, 10] and found.shown == [0, 1, 5]


def test_a_prefix_for_each_question_where_that_is_less():
    """Of 2 · (2 + 4) tokens behind one picture of 1 or of 9: 1 + 4 · 6 against 2 · (1 + 4 + 2 · 2), and so on."""
    for visual, stems in ((1, 2), (3, 2), (9, 1)):
        ids = rows(*([IMAGE] * visual + [question] * 4 + [10 + n] * 2 for question in (1, 2) for n in (0, 1)))
        found = share(ids, ["a"] * 4, [0, 0, 1, 1], IMAGE)
        assert len(found.stems) == stems


def test_a_picture_behind_words_that_differ_is_not_shared():
    ids = rows([1, 2, IMAGE, 3], [1, 4, IMAGE, 3])
    found = share(ids, ["a", "a"], [(), ()], IMAGE)
    assert [stem.prefix.tolist() for stem in found.stems] == [[1, 2, IMAGE, 3], [1, 4, IMAGE, 3]]
    assert found.kept.tolist() == [3, 7] and found.shown == [0, 1]


def counted(model, module, found, **options):
    """Tokens that went into a module of the language model."""
    seen = []
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args or list(kwargs.values()))[0].shape[:-1].numel()), with_kwargs=True
    )
    try:
        model.score(found, **options)
    finally:
        hook.remove()
    return sum(seen)


def test_prefixes_are_computed_once(model):
    """Two pictures of 16 tokens, 4 answers each, of which none begins as another; the head sees last tokens only."""
    answers = ["one", "a b", "two", "ships lie there"]
    found = [Exchange.of("Where?", said, [picture(112, 112, seed=n)]) for n in (1, 2) for said in answers]
    lengths = encode(found, model.processor)["attention_mask"].sum(1).tolist()
    text = render(found[0], model.processor)
    asked = text[: text.rindex("one")].replace("<|image_pad|>", "<|image_pad|>" * 16)
    common = len(model.processor.tokenizer(asked).input_ids)
    layer = model.model.language_model.layers[0]
    for size, computed in ((8, 2), (6, 2), (4, 2), (3, 4), (1, 8)):
        expected = computed * common + sum(lengths) - 8 * common
        assert counted(model, layer, found, batch_size=size) == expected, size
    assert counted(model, layer, found, batch_size=8, share_prefix=False) == 8 * max(lengths)
    assert counted(model, model.reward_head, found, batch_size=8) == 8


@pytest.mark.parametrize(
    ("third", "expected"),
    [
        (9, [[4, 0, 6, 2], [5, 1, 7, 3], [8, 9, 10, 11, 12, 13], [14, 15, 16]]),
        (8, [[4, 0, 6, 2], [5, 1, 7, 3, 8, 9], [10, 11, 12, 13, 14, 15]]),
    ],
)
def test_a_picture_is_in_no_more_batches_than_must_be(model, third, expected):
    """4, 4 and 9 or 8 exchanges in batches of 6; within a picture by question, the longer answer first."""
    images = [picture(112, 112, seed=n) for n in range(3)]
    found = [Exchange.of(q, "word " * n, [image]) for n in (1, 2) for q in "ab" for image in images[:2]]
    found += [Exchange.of("c", "word", [images[2]])] * third
    keys = [(images.index(exchange.images[0]),) for exchange in found]
    assert batches(found, keys, model.processor, 6, True) == expected


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_gradients(models, family):
    model = models[family, "mrope"]
    found = [exchange for exchange in exchanges(ANSWERS[:2])[2:10] if exchange.images]
    assert sharing(model, True)
    weights = torch.randn(len(found), generator=torch.Generator().manual_seed(1))
    one = next(passes(found, model.processor, 100, True))
    grads = []
    for scores in (run(model, one, {})[0], model(**encode([found[n] for n in one.rows], model.processor)).logits[:, 0]):
        model.zero_grad()
        (scores * weights).sum().backward()
        grads.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    model.zero_grad()
    for name, expected in grads[1].items():
        assert (grads[0][name] - expected).norm() <= 1e-5 * expected.norm() + 1e-7, name


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_every_pass_calls_the_same_modules(models, family):
    """As ZeRO-3 needs it of processes with other exchanges, or none: one picture, a second pass about it, idle ones."""
    model = models[family, "mrope"]
    assert sharing(model, True)
    seen, forward = [], Forward(model)
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.append(name))
        for name, module in model.named_modules()
        if name and not list(module.children())
    ]
    blank = families.of(model.config).blank(model.config)[0]
    shown = {"pixel_values": blank["pixel_values"], "fresh_grids": blank["image_grid_thw"]}
    planned = list(passes(exchanges()[:6], model.processor, 3, True))
    planned += passes([NOTHING], model.processor, 1, True)
    calls, features = [], {}
    for one in planned:
        _, features = forward(one if one.fresh else replace(one, **shown), features)
        calls.append(list(seen))
        seen.clear()
    for hook in hooks:
        hook.remove()
    assert [bool(one.fresh) for one in planned] == [True, False, False]
    assert calls[0] == calls[1] == calls[2] and calls[0][-1] == "reward_head" and len(calls[0]) > 30


@torch.no_grad()
@pytest.mark.parametrize("share_prefix", [True, False])
def test_features_that_a_pass_leaves_keep_deepstack(models, share_prefix):
    """Of the second pass about a picture no pixels are asked for; without the deepstack part its score is another."""
    model = models["qwen3_vl", "mrope"]
    assert sharing(model, True)
    first, second = passes(exchanges()[:4], model.processor, 2, share_prefix)
    _, left = run(model, first, {})
    ((key, features),) = left.items()
    assert second.pixel_values is None and features.shape == (6, 3 * 64)
    whole = model.score([exchanges()[row] for row in second.rows], 1, share_prefix=False)
    close(run(model, second, left)[0], whole)
    merged = torch.cat([features[:, :64], torch.zeros(6, 128)], 1)
    assert (run(model, second, {key: merged})[0] - torch.tensor(whole)).abs().min() > 1e-2


def test_no_picture_is_left_out(model):
    one = next(passes(exchanges(), model.processor, 100, True))
    sharing(model, True)
    with pytest.raises(ValueError, match="placeholders and 0 visual tokens: .* scored blind"):
        model.forward_packed(packed(model, one.tokens, one.shown, one.grids))


def test_a_model_that_cannot_share_says_so_once(tiny_model, model, caplog):
    prefixes._tell.cache_clear()
    eager = ScoreModel.from_backbone(tiny_model, dtype="float32", attention="eager")
    with caplog.at_level(logging.WARNING, "rewards.score.model.prefixes"):
        found = exchanges(ANSWERS[:2])
        scores = [eager.score(found) for _ in range(2)]
    assert [record.getMessage() for record in caplog.records] == [
        "score model: each exchange is computed on its own, with its prompt (share_prefix): its attention is eager, "
        "and prefixes are shared under sdpa and flash_attention_2"
    ]
    assert scores[0] == scores[1]
    close(scores[0], model.score(found))
    layer, one = eager.model.language_model.layers[0], [found[0]] * 4
    assert counted(eager, layer, one) == 4 * counted(eager, layer, one[:1])


def test_options_reach_the_model(tiny_model, monkeypatch):
    asked = []
    monkeypatch.setattr(InProcess, "load", lambda self: self)
    score = lambda self, rows, **options: asked.append(options)  # noqa: E731
    for value in (True, False):
        scorer = Score(model=str(tiny_model), share_prefix=value, batch_size=3).scorer
        monkeypatch.setattr(scorer, "load", lambda: type("Model", (), {"score": score, "processor": None})())
        scorer.score([])
    assert asked == [{"batch_size": 3, "share_prefix": value} for value in (True, False)]
    with pytest.raises(RecipeError, match="'share_prefix' is the service's own option"):
        Score(urls=["http://localhost:1"], share_prefix=False)
