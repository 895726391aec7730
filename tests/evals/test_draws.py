"""Draws of each row's own: the inverse of the distribution function, by hand; the same in any batch."""

import numpy as np
import pytest
import torch

from evals.asking import draws
from tests.support import tiny_checkpoints as tiny
from vlm import loading
from vlm.common.errors import UserError
from vlm.prefix.rollout import neutral

pytestmark = pytest.mark.versions


def test_a_token_by_hand():
    """Probabilities .2, 0, .5, .3, so sums .2, .2, .7, 1: the token of probability 0 is never drawn."""
    scores = torch.tensor([0.2, 0.0, 0.5, 0.3]).log().repeat(7, 1)
    numbers = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.99, 1 - 2**-53], dtype=torch.float64)
    assert draws.drawn(scores, numbers)[:, 0].tolist() == [0, 0, 2, 2, 3, 3, 3]
    none_left = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])  # all but one are ruled out
    assert draws.drawn(none_left, numbers[[0, 6]])[:, 0].tolist() == [0, 1]
    assert draws.drawn(none_left, numbers[[6, 0]])[:, 0].tolist() == [0, 1]


def test_rows_take_their_own_numbers_in_turn():
    scores = torch.randn(70, 40, generator=torch.Generator().manual_seed(3))  # more than are drawn at a time
    seeds = [[5, row] for row in range(70)]
    whole, ids = draws.Draws(seeds, 2), torch.zeros(70, 6, dtype=torch.long)
    for step in range(2):
        found = whole(torch.zeros(70, 6 + step, dtype=torch.long), scores)
        assert (found.isfinite().sum(-1) == 1).all()
        for row in (0, 1, 69):
            u = np.random.default_rng([5, row]).random(2)[step]
            sums = np.cumsum(np.exp(scores[row].double().numpy()))
            assert found[row].argmax() == np.argmax(sums > u * sums[-1])
    alone = draws.Draws(seeds[69:], 2)
    assert alone(ids[:1], scores[69:]).equal(draws.Draws(seeds, 2)(ids, scores)[69:])


def test_shares_are_those_of_softmax():
    """20,000 draws of 5 tokens; Pearson's statistic with 4 degrees of freedom is below 18.5 in 99.9% of cases."""
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.0, 1.1]])
    u = torch.from_numpy(np.random.default_rng(0).random(20_000))
    found = torch.bincount(draws.drawn(scores.expand(20_000, 5), u)[:, 0], minlength=5)
    expected = 20_000 * scores[0].double().softmax(-1)
    assert ((found - expected) ** 2 / expected).sum() < 18.5


@pytest.mark.parametrize("how", [{}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.3}])
def test_transformers_shapes_what_is_drawn_from(tiny_model, how):
    """Drawn after its warpers, at a temperature: by the model's own logits and a plain restatement of the warper."""
    model = loading.load_model(tiny.section(tiny_model)).eval()
    ids, seeds = torch.tensor([[5, 6, 7], [9, 8, 7]]), [[1, 0], [1, 1]]
    asked = {"do_sample": True, "temperature": 1.7, "top_k": 0, "max_new_tokens": 4} | how
    with torch.inference_mode(), neutral(model), draws.drawing(model, seeds, 4):
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **asked)
    assert "_get_logits_processor" not in vars(model)
    ends = model.generation_config.eos_token_id
    for row, seed in enumerate(seeds):
        numbers, said = np.random.default_rng(seed).random(4), ids[row].tolist()
        for u in numbers:
            with torch.no_grad():
                p = (model(input_ids=torch.tensor([said])).logits[0, -1].double() / 1.7).softmax(-1).numpy()
            rank = np.argsort(np.argsort(-p))
            if "top_k" in how:
                p = np.where(rank < 3, p, 0)
            if "top_p" in how:  # the likeliest that together reach it
                p = np.where((np.cumsum(np.sort(p)[::-1]) - np.sort(p)[::-1])[rank] < 0.6, p, 0)
            if "min_p" in how:
                p = np.where(p >= 0.3 * p.max(), p, 0)
            said.append(int(np.argmax(np.cumsum(p) > u * p.sum())))
            if said[-1] in ends:
                break
        assert found[row, : len(said)].tolist() == said


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_are_said_and_index_nothing(value):
    scores = torch.zeros(2, 7)
    scores[1, 2] = value
    made = draws.Draws([[0], [1]], longest=1)
    made(torch.zeros(2, 1, dtype=torch.long), scores)
    with pytest.raises(UserError, match=r"in 1 of 2 rows of a batch \(the first is row 1\).*model.dtype=bfloat16"):
        made.check()


def test_a_batch_from_damaged_weights_ends_with_that_message(tiny_model):
    model, seen = loading.load_model(tiny.section(tiny_model)), torch.ones(1, 3, dtype=torch.long)
    hook = model.lm_head.register_forward_hook(lambda module, given, scores: scores * torch.nan)
    try:
        with pytest.raises(UserError, match="NaN or infinite"), neutral(model), draws.drawing(model, [[0]], 2):
            model.generate(input_ids=seen, attention_mask=seen, max_new_tokens=2, do_sample=True)
    finally:
        hook.remove()
