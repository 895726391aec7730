"""The reward `mask`: by hand, against slow sums over pixels, and what must hold of any answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import rewards
from rewards.rules import masks
from rewards.rules.masks import agreement
from vlm.common.errors import DataError, RecipeError
from vlm.masks import SaidMask, pixels_of, rings_to_runs, runs_of, write_mask

SEEN = (112, 112)
"""4 × 4 cells of `rscovlm`."""


def value_of(text, truth, form=None, resized=SEEN, **options):
    reward = rewards.resolve("mask", inside="text", **options)
    row = {"mask": [truth if isinstance(truth, dict) else runs_of(truth)], "resized": [resized], "form": [form]}
    return reward(completions=[text], task=["segmentation"], **row)[0]


def slow_weights(true, border):
    """w by its definition: for each pixel the nearest of the other kind, in a list."""
    ones, zeros = np.argwhere(true), np.argwhere(~true)
    weight = np.ones(true.shape)
    if not len(zeros):
        return weight
    apart = np.empty(true.shape)
    for place in np.ndindex(true.shape):
        others = zeros if true[place] else ones
        apart[place] = np.sqrt(((others - place) ** 2).sum(1)).min() - 0.5
    return np.minimum(1, apart / min(border * np.hypot(*true.shape), apart[true].max()))


def slow(said, true, border):
    weight = slow_weights(true, border) if border else np.ones(true.shape)
    return weight[said & true].sum() / weight[said | true].sum()


def square(side=8, start=2, end=6):
    mask = np.zeros((side, side), bool)
    mask[start:end, start:end] = True
    return mask


def test_iou_by_hand():
    """8 × 8 pixels in 4 × 4 cells, of which the middle four are true."""
    half = "<seg>0*4;0*1,1*1,0*2;0*1,1*1,0*2;0*4;</seg>"
    more = "<seg>1*4;1*4;1*4;0*4;</seg>"
    for text, expected in ((half, 1 / 2), (more, 4 / 12), ("<seg>0*4;0*4;0*4;0*4;</seg>", 0), ("no", 0), ("", 0)):
        assert value_of(text, square(), border=0.0) == pytest.approx(expected)
    assert value_of(write_mask(runs_of(square()), "rscovlm", SEEN), square(), border=0.0) == 1.0


def test_soft_border_by_hand():
    """A square of 4 pixels: its rim is 1/2 from the outline and its core 3/2, which is the width of the border; outside
    it is w = 1/3, 1, … along the sides, and (√2 − 1/2) / (3/2) at the corners."""
    true = square()
    every = 12 / 3 + 4  # Σ w over the object
    row = np.zeros((8, 8), bool)
    row[2] = True  # the first row of the object, and 4 pixels beside it
    beside = 2 / 3 + 2
    expected = (4 / 3) / (every + beside)
    assert agreement(SaidMask(row, size=(8, 8)), runs_of(true), 0.5) == pytest.approx(expected)
    corner = np.zeros((8, 8), bool)
    corner[1, 1] = True
    corner |= true
    expected = every / (every + (2**0.5 - 0.5) / 1.5)
    assert agreement(SaidMask(corner, size=(8, 8)), runs_of(true), 0.5) == pytest.approx(expected)
    # a narrower border than the object's reach: 0.1 of the diagonal is 1.131 pixels
    narrow = 0.1 * 8 * 2**0.5
    expected = (every_narrow := 12 * 0.5 / narrow + 4) / (every_narrow + (2**0.5 - 0.5) / narrow)
    assert agreement(SaidMask(corner, size=(8, 8)), runs_of(true), 0.1) == pytest.approx(expected)


def test_thin_objects_have_a_core():
    """A line of one pixel is all core: its border is half a pixel wide, and the reward is IoU."""
    line = np.zeros((40, 40), bool)
    line[20, 5:35] = True
    shifted = np.roll(line, 10, axis=1)
    assert agreement(SaidMask(shifted, size=(40, 40)), runs_of(line), 0.1) == pytest.approx(20 / 40)


MASKS = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(lambda shape: arrays.arrays(bool, shape))


@settings(max_examples=120, deadline=None)
@given(MASKS, st.tuples(st.integers(1, 9), st.integers(1, 9)), st.sampled_from([0.0, 0.02, 0.1, 0.9]), st.data())
def test_grids_are_their_sums_over_pixels(true, shape, border, data):
    if not true.any():
        return
    said = SaidMask(data.draw(arrays.arrays(bool, shape)), size=true.shape[::-1])
    expected = slow(said.pixels(), true, border)
    assert agreement(said, runs_of(true), border) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(MASKS, st.sampled_from([0.0, 0.1]), st.lists(st.integers(-3, 30), min_size=6, max_size=6))
def test_outlines_are_their_sums_over_pixels(true, border, ring):
    if not true.any():
        return
    size = true.shape[::-1]
    expected = slow(pixels_of(rings_to_runs([ring], size)), true, border)
    assert agreement(SaidMask(rings=[ring], size=size), runs_of(true), border) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(MASKS, st.sampled_from([0.0, 0.02, 0.5]), st.data())
def test_only_the_true_mask_earns_all(true, border, data):
    said = data.draw(arrays.arrays(bool, true.shape))
    exact = SaidMask(true, size=true.shape[::-1])
    assert agreement(exact, runs_of(true), border) == 1.0
    value = agreement(SaidMask(said, size=true.shape[::-1]), runs_of(true), border)
    assert 0 <= value <= 1 and (value == 1.0) == bool((said == true).all())


@pytest.mark.parametrize("border", [0.0, 0.02])
def test_where_nothing_is_true(border):
    none = np.zeros((8, 8), bool)
    assert value_of("<seg>0*4;0*4;0*4;0*4;</seg>", none, border=border) == 1.0
    assert value_of("<seg>0*4;0*4;0*4;0*3,1*1;</seg>", none, border=border) == 0.0
    for text in ("", "<seg></seg>", "There is nothing.", "<seg>nothing</seg>"):
        assert value_of(text, none, border=border) == 0.0
    assert value_of("<seg>0*4;0*4;0*4;0*4;</seg>", square(), border=border) == 0.0


def test_all_of_a_picture_has_no_outline():
    everything = np.ones((8, 8), bool)
    assert value_of("<seg>1*4;1*4;1*4;1*4;</seg>", everything) == 1.0
    assert value_of("<seg>1*4;1*4;0*4;0*4;</seg>", everything) == pytest.approx(0.5)


def test_forms_are_those_of_the_rows():
    grid = write_mask(runs_of(square(64, 16, 48)), "grid32")
    true = square(64, 16, 48)
    assert value_of(grid, true, form="grid32", resized=None) == 1.0
    assert value_of(write_mask(runs_of(true), "text4seg", None, "ship"), true, form="text4seg", resized=None) == 1.0
    assert value_of(grid, true, form="rscovlm") < 1.0
    assert value_of(grid, true, resized=None, masks="grid32") == 1.0  # of rows that do not say
    with pytest.raises(RecipeError, match="option 'masks' is 'geoground'; expected 'rscovlm' or"):
        value_of(grid, true, masks="geoground")
    with pytest.raises(DataError, match="the mask form rscovlm counts pixels of the resized image"):
        value_of(grid, true, resized=None)
    with pytest.raises(RecipeError, match="geoground"):
        value_of(grid, true, form="geoground")


def test_labels_are_read_by_what_the_row_asks_for():
    """Runs of another label are background where it is told, and object where it is not."""
    true, text = square(64, 16, 48), write_mask(runs_of(square(64, 16, 48)), "text4seg", None, "ship")
    reward = rewards.resolve("mask", inside="text")
    row = {"mask": [runs_of(true)], "form": ["text4seg"]}
    assert [reward(completions=[text], named=[name], **row)[0] for name in ("ship", "dam", None)] == [1.0, 0.0, 1.0]


def test_large_pictures_are_measured_at_some_pixels(monkeypatch):
    """A picture of 300 × 200, all of it and every third pixel each way."""
    true = np.zeros((200, 300), bool)
    true[40:130, 60:220] = True
    true[80:100, 200:290] = True
    rng = np.random.default_rng(0)
    said = [SaidMask(rng.random((10, 15)) < 0.5, size=(300, 200)) for _ in range(20)]
    said += [SaidMask(rings=[[50, 30, 220, 40, 200, 140]], size=(300, 200))]
    every = [agreement(one, runs_of(true), 0.05) for one in said]
    monkeypatch.setattr(masks, "_MOST", 200 * 300 // 9)
    masks._weighed.cache_clear()
    some = [agreement(one, runs_of(true), 0.05) for one in said]
    assert masks._weighed(runs_of(true)["counts"], 200, 300, 0.05).true.shape == (66, 99)
    np.testing.assert_allclose(some, every, atol=0.015)
    assert some != every
    # an object that lies between these pixels: its IoU
    point = np.zeros((200, 300), bool)
    point[0, 0] = True
    assert agreement(SaidMask(np.eye(1, 4, dtype=bool), size=(300, 200)), runs_of(point), 0.05) == 1 / (200 * 75)
    masks._weighed.cache_clear()


def test_rows_it_is_not_for():
    reward = rewards.resolve("mask", inside="text")
    truth = runs_of(square())
    assert reward(completions=["x"], mask=[truth], task=["grounding"]) == [None]
    assert reward(completions=["x"], boxes=[[[0, 0, 1, 1]]]) == [None]
    with pytest.raises(
        DataError, match="id '3'.*reward 'mask' applies to task 'segmentation' and needs the field 'mask'"
    ):
        reward(completions=["x"], mask=[None], task=["segmentation"], id=["3"])
    with pytest.raises(DataError, match="row 0 of the batch, field 'mask': .*run lengths"):
        reward(completions=["x"], mask=[{"size": [8, 8], "counts": "1"}], resized=[SEEN])
    for border in (-0.1, 1.0, float("nan")):
        with pytest.raises(RecipeError, match="expected a share of the diagonal"):
            value_of("x", truth, border=border)
    with pytest.raises(RecipeError, match="'form' is a column"):
        rewards.resolve("mask", form="grid32")


def test_metric_and_gate():
    text, truth = write_mask(runs_of(square()), "rscovlm", SEEN), runs_of(square())
    said = [f"<think>x</think>\n<answer>{text}</answer>", "<think>x</think>\n<answer>a ship</answer>", text]
    logged = []
    rows = {"mask": [truth] * 3, "resized": [SEEN] * 3, "form": ["rscovlm"] * 3, "task": ["segmentation"] * 3}
    assert rewards.resolve("mask")(
        completions=said, log_metric=lambda name, value: logged.append((name, value)), **rows
    ) == [1.0, 0.0, 0.0]
    assert logged == [("reward_unreadable/mask", value) for value in (0.0, 1.0, 1.0)]
    assert rewards.resolve("gated")(completions=said, **rows) == [pytest.approx(value) for value in (1.0, 0.3, 0.0)]
