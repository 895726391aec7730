"""Packed rows: the layout, attention against one dense mask, positions against the model's, pictures prepared once."""

import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.groups import batch, gradients, plain, policy
from tests.support.tiny_checkpoints import picture, qwen2_5_vl, section
from vlm.loading import load_model, load_processor
from vlm.prefix import attention, enable, obstacle, pack, rope_positions
from vlm.prefix.pictures import Contents, remembering
from vlm.sections import ImageSection

pytestmark = pytest.mark.versions

LAYOUTS = [
    ([5], [[3, 3]]),
    ([4, 6], [[1, 4, 2], [5]]),
    ([3, 7, 1], [[2], [], [4, 4, 1]]),
    ([0, 2], [[3, 1], [1]]),
]


def packed(prefixes, segments):
    return pack([torch.arange(p) for p in prefixes], [[torch.arange(s) for s in row] for row in segments])


def visible(prefixes, segments) -> torch.Tensor:
    """(T, T) bool, token by token from the definition."""
    owner, place = [], []
    for number, (prefix, lengths) in enumerate(zip(prefixes, segments, strict=True)):
        owner += [(number, None)] * prefix
        place += range(prefix)
        for segment, length in enumerate(lengths):
            owner += [(number, segment)] * length
            place += range(prefix, prefix + length)
    rows = list(zip(owner, place, strict=True))
    return torch.tensor(
        [[a[0] == b[0] and b[1] in (None, a[1]) and q <= p for b, q in rows] for a, p in rows], dtype=torch.bool
    )


def dense(query, key, value, mask):
    """Attention written out, in the caller's dtype: (H, T, D) each, heads of keys repeated."""
    key, value = (states.repeat_interleave(query.shape[0] // states.shape[0], 0) for states in (key, value))
    scores = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).masked_fill(~mask, -math.inf)
    return (scores.softmax(-1) @ value).transpose(0, 1)


def varlen(query, key, value, cu_seqlens_q, cu_seqlens_k, causal, softmax_scale, dropout_p, deterministic, **longest):
    """flash_attn_varlen_func from its documentation: sequences between bounds, causal at the bottom right."""
    assert deterministic is (os.environ.get("FLASH_ATTENTION_DETERMINISTIC") == "1")
    assert causal and dropout_p == 0.0 and softmax_scale == pytest.approx(query.shape[-1] ** -0.5)
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    outputs, bounds = [], list(zip(cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), strict=True))
    for (q0, k0), (q1, k1) in zip(bounds, bounds[1:], strict=False):
        assert q1 - q0 <= longest["max_seqlen_q"] and k1 - k0 <= longest["max_seqlen_k"]
        mask = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril(k1 - k0 - q1 + q0)
        parts = (states.transpose(0, 1) for states in (query[q0:q1], key[k0:k1], value[k0:k1]))
        outputs.append(dense(*parts, mask))
    return torch.cat(outputs)


@pytest.mark.parametrize(("prefixes", "segments"), LAYOUTS)
@pytest.mark.parametrize("kernel", ["sdpa", "flash_attention_2"])
def test_attention_is_that_of_one_dense_mask(kernel, prefixes, segments, monkeypatch):
    """Outputs and gradients, grouped heads, unequal and empty parts."""
    if len(prefixes) > 1:
        monkeypatch.setenv("FLASH_ATTENTION_DETERMINISTIC", "1")  # as training.full_determinism does
    monkeypatch.setattr(attention, "flash_varlen", lambda: varlen)
    monkeypatch.setattr(attention, "get_target_dtype", lambda query, module: None)  # the fake takes float64
    layout = packed(prefixes, segments).layout
    module = SimpleNamespace(num_key_value_groups=2, is_causal=True, config=None)
    states = [torch.randn(1, h, layout.tokens, 8, dtype=torch.float64, requires_grad=True) for h in (4, 2, 2)]
    function = {"sdpa": attention.sdpa, "flash_attention_2": attention.flash_attention_2}[kernel]
    got = function(module, *states, None, shared_prefix=layout, scaling=8**-0.5, dropout=0.0)[0][0]
    expected = dense(*(x[0] for x in states), visible(prefixes, segments))
    assert (got - expected).abs().max() < 1e-12
    weights = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), states) for x in (got, expected)), strict=True):
        assert (a - b).abs().max() < 1e-12


def test_the_row_by_hand():
    """Two prefixes; a segment goes on where its prefix ends; only segments are kept."""
    places = [torch.tensor([[0, 1, 1], [0, 1, 1], [0, 1, 2]]), torch.arange(2).expand(3, -1)]
    rows = [[torch.tensor([4, 5]), torch.tensor([6])], [torch.tensor([9])]]
    got = pack([torch.tensor([1, 2, 3]), torch.tensor([7, 8])], rows, places)
    assert got.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert got.position_ids[:, 0].tolist() == [[0, 1, 1, 3, 4, 3, 0, 1, 2]] * 2 + [[0, 1, 2, 3, 4, 3, 0, 1, 2]]
    assert got.layout.kept.tolist() == [3, 4, 5, 8] and got.layout.tokens == 9
    sequential = pack([torch.tensor([1, 2, 3])], [rows[0]])
    assert sequential.position_ids[:, 0].tolist() == [[0, 1, 2, 3, 4, 3]] * 3
    with pytest.raises(ValueError, match="prefix 0 has an empty segment"):
        pack([torch.tensor([1])], [[torch.tensor([], dtype=torch.long)]])
    with pytest.raises(ValueError, match="2 tokens and positions"):
        pack([torch.tensor([1, 2])], [[]], [torch.zeros(3, 1)])


@pytest.fixture(scope="module")
def families(tiny_model, tmp_path_factory):
    return {"qwen2_vl": tiny_model, "qwen2_5_vl": str(qwen2_5_vl(tmp_path_factory, tiny_model))}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_hidden_states_of_two_pictures_and_text(families, family):
    """Against each text alone, with the model's own positions, through the base model without a head."""
    model = load_model(section(families[family]))
    image = model.config.image_token_id
    grid = [torch.tensor([[1, 4, 8], [1, 4, 4]]), torch.zeros(0, 3, dtype=torch.long)]
    prefixes = [torch.tensor([7] + [image] * 8 + [9] + [image] * 4 + [10, 11]), torch.tensor([8, 9, 10])]
    segments = [[torch.tensor([21, 22, 23]), torch.tensor([24])], [torch.tensor([25, 26])]]
    pixels = torch.randn(48, 1176)
    expected = []
    with torch.no_grad():
        for number, (prefix, rows) in enumerate(zip(prefixes, segments, strict=True)):
            for row in rows:
                ids = torch.cat([prefix, row])[None]
                media = {"pixel_values": pixels, "image_grid_thw": grid[0], "mm_token_type_ids": (ids == image).int()}
                alone = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), **({} if number else media))
                expected.append(alone.last_hidden_state[0, -len(row) :])
        enable(model)
        enable(model)  # twice does no harm
        given = pack(prefixes, segments, rope_positions(model, prefixes, grid))
        found = model.model(**given.inputs, pixel_values=pixels, image_grid_thw=grid[0]).last_hidden_state[0]
    assert found.shape[0] == 6  # nothing of the prefixes reaches a head
    assert (found - torch.cat(expected)).abs().max() < 1e-4 * found.abs().max()


def test_without_a_layout_nothing_changes(families):
    """Forward pass to the digit and greedy generation; the vision tower keeps its attention; the file its config."""
    model = load_model(section(families["qwen2_vl"]))
    ids = torch.randint(20, 300, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    before = (
        model(input_ids=ids, attention_mask=mask).logits,
        model.generate(ids, attention_mask=mask, max_new_tokens=4),
    )
    enable(model)
    assert model.config.vision_config._attn_implementation == model.config._attn_implementation == "sdpa"
    after = model(input_ids=ids, attention_mask=mask).logits, model.generate(ids, attention_mask=mask, max_new_tokens=4)
    assert before[0].equal(after[0]) and before[1].equal(after[1])
    assert "shared_prefix" not in model.config.to_json_string()


def test_models_that_cannot_share_say_why(families):
    model = load_model(section(families["qwen2_vl"], attention="eager"))
    assert "its attention is eager" in obstacle(model)
    with pytest.raises(ValueError, match="cannot share prefixes: its attention is eager"):
        enable(model)
    model = load_model(section(families["qwen2_vl"]))
    assert obstacle(model) is None
    model.config.text_config.layer_types[-1] = "sliding_attention"
    assert "sliding" in obstacle(model)
    del model.config.text_config.layer_types  # Mistral's config has the window alone
    assert obstacle(model) is None
    model.config.text_config.sliding_window = 4096
    assert "sliding" in obstacle(model)


def test_log_probabilities_see_a_wrong_position(families):
    """What the grid of tests/rl/test_sharing.py would miss if it could not tell."""
    from rl.sharing.packed import log_probabilities

    model = policy(families["qwen2_vl"])
    given = batch(model.config, [(5, (0,), (4, 3))])
    reference, _ = plain(model, given)
    media = given.stored
    found = log_probabilities(model, given.rows, given.ids, given.mask, given.keep, media)
    assert (found.logps - reference).abs().max() < 1e-5
    wrong = log_probabilities(
        model,
        given.rows,
        given.ids,
        given.mask,
        given.keep,
        {**media, "pixel_values": given.stored["pixel_values"].flip(0)},
    )
    assert (wrong.logps - reference).abs().max() > 1e-3
    assert gradients(model, found.logps, found.entropies, given.there)


# pictures


def test_each_picture_is_prepared_once(tiny_model):
    """Equal pixels count as one, whatever the object; the output is the processor's own, but for repeated pixels."""
    processor = load_processor(tiny_model, ImageSection(min_pixels=112 * 112, max_pixels=112 * 112))
    inner = processor.image_processor
    first, second = picture(100, 80), picture(100, 80, seed=1)
    text = "<|vision_start|><|image_pad|><|vision_end|> where"
    given = {"images": [[first], [second, first.copy()], [first]], "text": [text, text * 2, text]}
    expected = processor(**given, padding=True, return_tensors="pt")
    calls = []
    with remembering(processor, Contents()) as memo:
        memo.processor = lambda pictures, **options: calls.append(len(pictures)) or inner(pictures, **options)
        memo.processor.fetch_images, memo.processor.merge_size = inner.fetch_images, inner.merge_size
        for _ in range(2):
            found = processor(**given, padding=True, return_tensors="pt")
        memo.processor = inner
    assert calls == [1, 1] and memo.order == [0, 1, 0, 0]
    patches = expected["image_grid_thw"][:2].prod(-1).sum()
    expected["pixel_values"] = expected["pixel_values"][:patches]
    assert all(found[name].equal(expected[name]) for name in expected) and found.keys() == expected.keys()
    assert processor.image_processor is inner


def test_keys_tell_contents():
    contents, image = Contents(), Image.new("RGB", (4, 2), "red")
    same = [{"a": [1, "x", image], "b": None}, {"b": None, "a": (1, "x", image.copy())}]
    assert contents.key(same[0]) == contents.key(same[1])
    others = [
        Image.new("RGB", (2, 4), "red"),
        Image.new("L", (4, 2)),
        np.zeros(3),
        torch.zeros(3, 1),
        b"1",
        "1",
        1,
        1.5,
    ]
    assert len({contents.key(value) for value in [image, *others]}) == 9
    assert contents.key(np.zeros(3)) == contents.key(np.zeros(3))
