"""`vlm.prefix.cache`: against transformers' `DynamicLayer`, against the softmax written out in float64, and against
reading everything anew."""

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tests.support import tiny_checkpoints as tiny
from vlm import loading
from vlm.prefix import attention, cache

pytestmark = pytest.mark.versions

H, D = 2, 8


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def states(rows, length, seed):
    return draw(rows, H, length, D, seed=seed), draw(rows, H, length, D, seed=seed + 1000)


# Growing


def test_growing_holds_what_a_dynamic_layer_holds():
    """Any order of updates and of what else sets a layer's keys."""
    ours, theirs = cache.Growing(), DynamicLayer()
    steps = [
        lambda layer: layer.update(*states(3, 5, 1)),
        *[lambda layer, n=n: layer.update(*states(3, 1, 2 + n)) for n in range(cache.BLOCK + 3)],
        lambda layer: layer.crop(-4),
        lambda layer: layer.update(*states(3, 7, 200)),
        lambda layer: layer.reorder_cache(torch.tensor([2, 0, 0])),
        lambda layer: layer.update(*states(3, 1, 201)),
        lambda layer: layer.batch_select_indices(torch.tensor([0, 2])),
        lambda layer: layer.batch_repeat_interleave(2),
        lambda layer: layer.update(*states(4, 1, 202)),
        lambda layer: layer.reset(),  # empties it; up to transformers 5.17, fills it with zeros
        lambda layer: layer.update(*states(4, 3, 9)),
    ]
    for step in steps:
        found, expected = step(ours), step(theirs)
        for found_part, part in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
            assert found_part is part is None or found_part.equal(part)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(3) == theirs.get_mask_sizes(3)
        if expected is not None:
            assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_growing_moves_once_a_block():
    layer, places = cache.Growing(), []
    layer.update(*states(2, 10, 0))
    for n in range(2 * cache.BLOCK + 1):
        layer.update(*states(2, 1, n))
        places.append(layer.keys.data_ptr())
    changes = [n for n in range(1, len(places)) if places[n] != places[n - 1]]
    assert changes == [cache.BLOCK]  # the token that no longer fits, and then room for BLOCK behind it


def test_growing_lets_gradients_through():
    keys, values = (part.requires_grad_() for part in states(2, 3, 0))
    layer = cache.Growing()
    layer.update(keys, values)
    found, _ = layer.update(2 * keys, values)
    found.sum().backward()
    assert keys.grad.equal(torch.full_like(keys, 3.0))


def test_only_plain_layers_grow():
    """A cache that was asked for stays what it is."""
    made = DynamicCache()
    cache.grow(made)
    made.update(*states(2, 3, 0), 1)
    assert [type(layer) for layer in made.layers] == [cache.Growing] * 2
    sliding = SimpleNamespace(layers=[DynamicSlidingWindowLayer(4), DynamicLayer()])
    mixed = DynamicCache()
    mixed.layers, mixed.layer_class_to_replicate = sliding.layers, None
    cache.grow(mixed)
    assert [type(layer) for layer in mixed.layers] == [DynamicSlidingWindowLayer, cache.Growing]
    assert not cache.plain(mixed) and cache.plain(DynamicCache())


# Shared

INDEX = {
    "one prompt": [0, 0, 0],
    "in order": [0, 0, 1, 1, 2, 2],
    "any order": [2, 0, 2, 1, 2],
    "one is left out": [2, 0, 0, 2],
}


def shared(index, left=None, length=7, layers=1):
    """A cache of three prompts (or one), padded on the left by `left`; their keys and values, (U, H, P, D)."""
    units = max(index) + 1
    keys, values = states(units, length, 50)
    source, target = DynamicCache(), DynamicCache()
    for number in range(layers):
        source.update(keys, values, number)
    seen = torch.arange(length) >= torch.tensor(left or [0] * units)[:, None]
    cache.share([source], target, torch.tensor(index), seen.long())
    return target, keys, values, seen


def written_out(query, keys, values, mask, scale):
    """Softmax attention, in float64: (B, H, T, D), (B, H_kv, L, D) twice, (B, T, L) → (B, T, H, D)."""
    query, keys, values = (part.double() for part in (query, keys, values))
    repeats = query.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(repeats, dim=1) for part in (keys, values))
    scores = torch.einsum("bhtd,bhld->bhtl", query, keys) * scale
    shares = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhtl,bhld->bthd", shares, values)


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("left", [None, [0, 6, 3]], ids=["whole", "padded"])
@pytest.mark.parametrize("index", INDEX.values(), ids=INDEX)
def test_attention_to_both_parts_is_the_softmax_over_all(index, left, new):
    """Four queries' heads for two of keys; three tokens of a turn see each other causally, some rows have a gap."""
    left = left and left[: max(index) + 1]
    target, keys, values, seen = shared(index, left)
    layer, rows = target.layers[0], len(index)
    if new > 1:  # a turn before it
        layer.update(*states(rows, 2, 1))
        layer.awaited = False
    own = layer.update(*states(rows, new, 3))
    query = draw(rows, new, 4, D, seed=5).transpose(1, 2)
    length = seen.shape[1] + own[0].shape[2]
    mask = torch.arange(length) <= length - new + torch.arange(new)[:, None]
    mask = mask.expand(rows, -1, -1).clone()
    mask[:, :, : seen.shape[1]] &= seen[index][:, None]
    if new > 1:
        mask[0, :, seen.shape[1]] = False
    given = None if new == 1 and left is None else mask[:, None]
    found = cache.attend(layer, query, *own, given, 0.3)
    whole = [torch.cat([part[index], mine], dim=2) for part, mine in zip((keys, values), own, strict=True)]
    expected = written_out(query, *whole, mask, 0.3)
    assert found.shape == expected.shape and (found - expected).abs().max() < 1e-6
    half = cache.Shared(layer.prompts, keys.bfloat16(), values.bfloat16())
    half.update(own[0].bfloat16(), own[1].bfloat16())
    layer.prompts._asked = None
    found = cache.attend(half, query.bfloat16(), half.keys, half.values, given, 0.3)
    assert found.dtype == torch.bfloat16 and (found - expected).abs().max() < 0.05


def test_attention_that_does_not_know_of_prompts_is_told():
    target, *_ = shared([0, 0])
    layer = target.layers[0]
    layer.update(*states(2, 1, 0))
    assert target.get_seq_length() == 8 and layer.get_mask_sizes(1) == (9, 0)
    with pytest.raises(RuntimeError, match="attention that does not know"):
        layer.update(*states(2, 1, 1))
    for call in (layer.reset, lambda: layer.crop(-1), lambda: layer.reorder_cache(torch.tensor([1, 0]))):
        with pytest.raises(NotImplementedError, match="compact"):
            call()


# Between turns


def test_compact_by_hand():
    """Row 2 keeps its first and third place, row 0 its second."""
    made = DynamicCache()
    keys, values = states(3, 3, 0)
    made.update(keys, values, 0)
    kept = torch.tensor([[True, False, True], [False, True, False]])
    mask = cache.compact(made, torch.tensor([2, 0]), kept)
    assert mask.tolist() == [[True, True], [False, True]]
    for found, old in zip((made.layers[0].keys, made.layers[0].values), (keys, values), strict=True):
        assert found.shape == (2, H, 2, D)
        assert found[0].equal(old[2][:, [0, 2]]) and found[1, :, 1].equal(old[0][:, 1])


def test_compact_leaves_shared_prompts_where_they_are():
    target, *_ = shared([0, 0, 1], left=[0, 2])
    layer = target.layers[0]
    own, _ = layer.update(*states(3, 4, 0))
    kept = torch.ones(2, 11, dtype=torch.bool)
    kept[0, :2] = False  # the padding of prompt 1
    kept[0, 8:] = kept[1, 9:] = False
    with pytest.raises(ValueError, match="kept whole"):
        cache.compact(target, torch.tensor([2, 0]), torch.ones_like(kept))
    mask = cache.compact(target, torch.tensor([2, 0]), kept)
    assert mask.int().tolist() == [[0, 0, 1, 1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]]
    assert layer.keys[0, :, 1].equal(own[2][:, 0]) and layer.keys[1].equal(own[0][:, :2])
    assert layer.prompts.index.tolist() == [1, 0] and target.get_seq_length() == 9


def test_compact_refuses_layers_that_forget():
    made = DynamicCache()
    made.layers, made.layer_class_to_replicate = [DynamicSlidingWindowLayer(4)], None
    made.update(*states(2, 3, 0), 0)
    with pytest.raises(ValueError, match="found DynamicSlidingWindowLayer"):
        cache.compact(made, torch.tensor([0]), torch.ones(1, 3, dtype=torch.bool))


@pytest.mark.parametrize("kind", ["shared", "growing"])
def test_a_second_turn_from_the_cache_is_the_whole_text_read_anew(tiny_model, kind):
    """Prompts of 9 and 6 tokens, five rows that said 1 to 3 tokens; three of them go on by 4 tokens and by one."""
    model = loading.load_model(tiny.section(tiny_model)).eval()
    text, draws = model.model.language_model, torch.Generator().manual_seed(0)
    prompts = torch.randint(20, 300, (2, 9), generator=draws)
    said = torch.randint(20, 300, (5, 3), generator=draws)
    turn = torch.randint(20, 300, (3, 5), generator=draws)
    seen = torch.arange(9) >= torch.tensor([[0], [3]])
    index, lengths, rows = torch.tensor([1, 0, 0, 1, 1]), torch.tensor([3, 2, 1, 3, 2]), torch.tensor([4, 1, 0])

    def read(ids, mask, past=None, **told):
        """The states of the ids, which are the last of the mask's."""
        places = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return text(ids, attention_mask=mask.long(), position_ids=places.expand(3, -1, -1), past_key_values=past,
                    use_cache=True, **told)  # fmt: skip

    with torch.no_grad(), attention.switched(model):
        source, target = DynamicCache(), DynamicCache()
        read(prompts, seen, source)
        if kind == "shared":
            cache.share([source], target, index, seen)
        else:
            cache.grow(target)
            for number, layer in enumerate(source.layers):
                target.update(layer.keys[index], layer.values[index], number)
        told = cache.told(target)
        assert bool(told) == (kind == "shared")
        mask = torch.cat([seen[index], torch.ones(5, 3, dtype=torch.bool)], 1)
        for step in range(3):  # one token at a time, whatever the row's length
            read(said[:, step : step + 1], mask[:, : 10 + step], target, **told)
        kept = torch.cat([seen[index], torch.arange(3) < lengths[:, None]], 1)[rows]
        mask = cache.compact(target, rows, kept)
        ids = torch.zeros_like(mask, dtype=torch.long)
        ids[mask] = torch.cat([prompts[index], said], 1)[rows][kept]
        found = []
        for part in turn.split([4, 1], dim=1):
            ids, mask = torch.cat([ids, part], 1), torch.cat([mask, torch.ones_like(part, dtype=torch.bool)], 1)
            found.append(read(part, mask, target, **told).last_hidden_state)
        found = torch.cat(found, 1)
        for number, row in enumerate(rows.tolist()):
            whole = torch.cat([prompts[index[row]][seen[index[row]]], said[row, : lengths[row]], turn[number]])
            assert ids[number][mask[number]].equal(whole)
            expected = read(whole[None], torch.ones(1, len(whole), dtype=torch.bool)).last_hidden_state[0, -5:]
            assert (found[number] - expected).abs().max() < 1e-5
