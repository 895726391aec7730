"""Notations there and back: more than 10,000 generated shapes over the families, each within half a unit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlm.boxes import (
    NOTATIONS,
    convert,
    corners,
    quad_from_obb,
    quad_iou,
    read_boxes,
    read_quads,
    write_boxes,
    write_quads,
)

BATCH = 50
"""Shapes that one example of hypothesis draws."""
SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
SEEN = st.tuples(st.integers(1, 60), st.integers(1, 60)).map(lambda tokens: (28 * tokens[0], 28 * tokens[1]))
SEEDS = st.integers(0, 2**32)
TINY = 1e-6


def unit(notation, size, resized):
    """One unit of the notation's frame in pixels of the original image, along x and along y."""
    extent = {"per_mille": 1000, "percent": 100, "unit": 10**notation.decimals}.get(notation.frame)
    if notation.frame == "square":
        return (max(size) / 10**notation.decimals,) * 2
    return tuple(size[axis] / (extent or resized[axis]) for axis in (0, 1))


def boxes_in(size, seed):
    """Boxes of an image; some touch its edges, some have no area."""
    rng = np.random.default_rng(seed)
    shares = np.sort(rng.random((BATCH, 2, 2)), axis=1)
    shares[::7], shares[1::7, 1], shares[2::7, 1] = shares[::7].round(), shares[1::7, 0], shares[2::7, 0] + 1e-9
    return (np.minimum(shares, 1.0) * size).reshape(-1, 4).tolist()


@settings(max_examples=40)
@given(size=SIZES, resized=SEEN, seed=SEEDS)
@pytest.mark.parametrize("name", [name for name, notation in NOTATIONS.items() if notation.shape == "box"])
def test_boxes_within_half_a_unit(name, size, resized, seed):
    boxes = boxes_in(size, seed)
    text = write_boxes(boxes, name, size, resized)
    again = read_boxes(text, name, size, resized)
    limits = (0.5 + TINY) * np.array(unit(NOTATIONS[name], size, resized) * 2)
    assert np.all(np.abs(np.array(again) - boxes) <= limits)
    assert write_boxes(again, name, size, resized) == text
    assert read_quads(text, name, size, resized) == [corners(box) for box in again]


@settings(max_examples=40)
@given(size=SIZES, resized=SEEN, seed=SEEDS)
def test_quadrilaterals_within_half_a_unit(size, resized, seed):
    """Corner by corner; the notation chooses where to begin and which way round."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * math.pi, (BATCH, 4)), axis=1)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * rng.uniform(0, 0.6, (BATCH, 1, 2))
    quads = ((around + rng.random((BATCH, 1, 2))) * size).reshape(-1, 8)
    text = write_quads(quads.tolist(), "rscovlm_quad", size, resized)
    again = np.array(read_quads(text, "rscovlm_quad", size, resized)).reshape(-1, 4, 2)
    limits = (0.5 + TINY) * np.array(unit(NOTATIONS["rscovlm_quad"], size, resized))
    same = np.zeros(BATCH, bool)
    for corner in range(4):
        for step in (1, -1):
            turned = quads.reshape(-1, 4, 2)[:, (corner + step * np.arange(4)) % 4]
            same |= np.all(np.abs(turned - again) <= limits, axis=(1, 2))
    assert same.all()


def oriented(size, seed):
    """Oriented boxes whose centre lies in an image of this size, at any angle."""
    rng = np.random.default_rng(seed)
    side = min(size)
    drawn = rng.uniform([0, 0, 0, 0, -180], [size[0], size[1], side, side, 180], (BATCH, 5))
    drawn[::5, 4] = (drawn[::5, 4] / 45).round() * 45
    drawn[1::5, 3] = drawn[1::5, 2]  # squares
    return drawn.tolist()


@settings(max_examples=40)
@given(size=SIZES, resized=SEEN, seed=SEEDS)
@example(size=(44, 65), resized=(28, 28), seed=0)  # further than the diagonal of half a unit
@pytest.mark.parametrize("name", ["geochat", "rscovlm_obb"])
def test_oriented_boxes_within_half_a_unit_and_half_a_degree(name, size, resized, seed):
    """A corner moves by at most half a unit of the centre (or the corners), of half a unit of both sides, and by half a
    degree of the way around the centre."""
    own = size if name == "geochat" else resized  # the image in whose pixels the box is turned
    shapes = oriented(own, seed)
    quads = [convert(quad_from_obb(*one), "resized", "pixel", size, own) for one in shapes]
    text = write_quads(quads, name, size, resized)
    again = [convert(quad, "pixel", "resized", size, own) for quad in read_quads(text, name, size, resized)]
    for (_, _, width, height, _), quad, other in zip(shapes, quads, again, strict=True):
        quad = convert(quad, "pixel", "resized", size, own)
        # geochat rounds two corners, by a and b: the centre moves by (a + b) / 2 and half the sides by (b - a) / 2,
        # which the angle then turns. Along x and y together that is at most half a unit each, and the lengths of two
        # vectors with such parts add up to at most the sum of both.
        slack = sum(own) / 200 if name == "geochat" else math.hypot(0.5, 0.5) + math.hypot(0.25, 0.25)
        limit = slack + math.radians(0.5) * (math.hypot(width, height) / 2 + slack) + TINY * max(own)
        offsets = np.array(quad).reshape(4, 1, 2) - np.array(other).reshape(1, 4, 2)
        nearest = np.linalg.norm(offsets, axis=-1).min(axis=1)  # the notation chooses the corner to begin with
        assert nearest.max() <= limit
        if min(width, height) > 40 * limit:
            assert quad_iou(quad, other) > 0.85


@settings(max_examples=300)
@given(SIZES, SEEN, st.data())
def test_odd_numbers_too(size, resized, data):
    """Shares of the image that hypothesis chooses: subnormal, next to one another, next to the edge."""
    shares = data.draw(st.lists(st.floats(0, 1), min_size=4, max_size=4))
    (x1, x2), (y1, y2) = sorted(shares[:2]), sorted(shares[2:])
    box = [x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]]
    for name, notation in NOTATIONS.items():
        (again,) = read_boxes(write_boxes([box], name, size, resized), name, size, resized)
        x, y = unit(notation, size, resized)
        # An oriented box rounds centre and sides each: half a unit of the one and a quarter of the other.
        limit = 0.75 if notation.shape == "obb_centre" else 0.5
        offsets = np.abs(np.array(again) - box) / [x, y, x, y]
        assert offsets.max() <= limit + TINY


@given(image=SIZES, seed=SEEDS)
@settings(max_examples=40)
def test_qwen_boxes_read_the_same_without_special_tokens(image, seed):
    text = write_boxes(boxes_in(image, seed), "qwen2_vl", image)
    bare = text.replace("<|box_start|>", "").replace("<|box_end|>", "")
    assert read_boxes(bare, "qwen2_vl", image) == read_boxes(text, "qwen2_vl", image)


@settings(max_examples=150)
@given(st.sampled_from(sorted(NOTATIONS)), SEEDS, st.data())
def test_texts_with_a_character_changed_are_read_or_refused(name, seed, data):
    """Whatever is left is no other text form by chance: as many shapes at most, all of them proper."""
    text = write_boxes(boxes_in((600, 400), seed)[:3], name, (600, 400), (588, 392))
    place = data.draw(st.integers(0, len(text) - 1))
    changed = (
        text[:place] + data.draw(st.sampled_from(["", "9", "-", ",", " ", "\n", "]", "x", "."])) + text[place + 1 :]
    )
    found = read_boxes(changed, name, (600, 400), (588, 392))
    assert found is None or 1 <= len(found) <= 4
    for x1, y1, x2, y2 in found or []:
        assert 0 <= x1 <= x2 <= 600 + TINY and 0 <= y1 <= y2 <= 400 + TINY
