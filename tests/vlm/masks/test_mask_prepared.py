"""RSCoVLM's preparation, against closing and filling by plain sums. It was held against OpenCV 5.0.0's own functions
too (300 masks, every pixel equal), which the project does not depend on."""

import numpy as np

from tests.vlm.masks.drawn_masks import drawn_masks
from vlm.masks import pixels_of, runs_of
from vlm.masks.prepared import prepared


def closed(mask):
    """Closing by a square of 50, from -25 to 24, by windows; outside of the picture counts for nothing."""
    for value, reach in ((False, np.any), (True, np.all)):
        wide = np.pad(mask, (25, 24), constant_values=value)
        mask = reach(np.lib.stride_tricks.sliding_window_view(wide, (50, 50)), axis=(2, 3))
    return mask


def filled(mask):
    """All but what a walk from outside reaches by sides."""
    outside = np.zeros(np.add(mask.shape, 2), bool)
    outside[0] = True
    free = ~np.pad(mask, 1)
    while True:
        step = outside.copy()
        step[1:] |= outside[:-1]
        step[:-1] |= outside[1:]
        step[:, 1:] |= outside[:, :-1]
        step[:, :-1] |= outside[:, 1:]
        step &= free
        if np.array_equal(step, outside):
            return ~outside[1:-1, 1:-1]
        outside = step


def test_closing_and_filling():
    for mask in drawn_masks(24, np.random.default_rng(0), sides=(60, 130)):
        sparse = mask & (np.random.default_rng(1).random(mask.shape) < 0.002)
        assert np.array_equal(pixels_of(prepared(runs_of(sparse))), filled(closed(sparse)))


def test_a_pixel_moves_right_and_down_by_one():
    mask = np.zeros((200, 200), bool)
    mask[100, 100] = True
    assert np.argwhere(pixels_of(prepared(runs_of(mask)))).tolist() == [[101, 101]]


def test_holes_are_filled_and_near_parts_grow_together():
    mask = np.zeros((300, 300), bool)
    mask[50:250, 50:250] = True
    mask[80:220, 80:220] = False  # wider than the closing
    assert pixels_of(prepared(runs_of(mask))).sum() == 200 * 200
    mask[:] = False
    mask[100, [100, 149]] = True  # 48 pixels between
    assert pixels_of(prepared(runs_of(mask))).sum() == 50
    mask[:] = False
    mask[100, [100, 151]] = True
    assert pixels_of(prepared(runs_of(mask))).sum() == 2
