"""Masks over pictures, and pictures of a question side by side."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from vlm.masks import runs_of
from vlm.pictures.drawing import CARD, GAP, PREDICTED, TRUE, Picture, grid
from vlm.pictures.overlaid import FILL, HALO, LINE, laid, scaled

BLACK = Image.new("RGB", (60, 40))


def rgb(colour: str) -> tuple[int, ...]:
    return ImageColor.getrgb(colour)


def marked(picture: Image.Image, colour: str) -> np.ndarray:
    return (np.asarray(picture) == rgb(colour)).all(axis=-1)


def block(height=40, width=60, rows=slice(10, 30), columns=slice(20, 50)) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    """Shift by shift, in a padded array."""
    high, wide = mask.shape
    out = np.zeros((high + 2 * by, wide + 2 * by), bool)
    for down in range(2 * by + 1):
        for right in range(2 * by + 1):
            out[down : down + high, right : right + wide] |= mask
    return out[by:-by, by:-by]


@pytest.mark.parametrize("seed", range(5))
def test_the_true_line_runs_outside_and_the_said_one_inside(seed):
    rng = np.random.default_rng(seed)
    mask = grown(rng.random((40, 60)) < 0.01, 4)
    outside = marked(laid(BLACK, mask, None), TRUE)
    assert (outside == (grown(mask, LINE) & ~mask)).all()
    inside = marked(laid(BLACK, None, mask), PREDICTED)
    padded = np.pad(mask, LINE)  # beyond the border nothing is said: the line runs along it
    eroded = ~grown(~padded, LINE)[LINE:-LINE, LINE:-LINE]
    assert (inside == (mask & ~eroded)).all()


def test_equal_masks_show_both_lines_side_by_side():
    mask = block()
    both = laid(BLACK, mask, mask)
    assert (marked(both, TRUE) == marked(laid(BLACK, mask, None), TRUE)).all()
    assert (marked(both, PREDICTED) == marked(laid(BLACK, None, mask), PREDICTED)).all()
    assert marked(both, HALO).any()


def test_fills_are_light_and_nothing_else_is_touched():
    picture = Image.new("RGB", (60, 40), (100, 100, 100))
    drawn = np.asarray(laid(picture, block(), None)).astype(int)
    middle = [round((1 - FILL) * 100 + FILL * one) for one in rgb(TRUE)]
    assert drawn[20, 35].tolist() == middle
    assert (drawn[~grown(block(), LINE + 1)] == 100).all()
    everything = np.ones((40, 60), bool)
    assert np.asarray(laid(picture, everything, None))[0, 0].tolist() == middle  # no line where there is no outside
    assert marked(laid(picture, None, everything), PREDICTED)[0].all()
    nothing = np.zeros((40, 60), bool)
    assert (np.asarray(laid(picture, nothing, nothing)) == 100).all()


@pytest.mark.parametrize("size", [(60, 40), (30, 20), (7, 5), (120, 80), (150, 99), (1, 1)])
def test_a_mask_at_the_size_of_its_picture_is_what_its_pixels_say(size):
    """Shrunk: any pixel whose centre lies in a drawn one. Enlarged: the pixel that a drawn one's centre lies in."""
    rng = np.random.default_rng(1)
    mask = rng.random((40, 60)) < 0.05
    width, height = size
    expected = np.zeros((height, width), bool)
    if width < 60:
        for y, x in np.argwhere(mask):
            expected[int((y + 0.5) * height / 40), int((x + 0.5) * width / 60)] = True
    else:
        for y in range(height):
            for x in range(width):
                expected[y, x] = mask[int((y + 0.5) * 40 / height), int((x + 0.5) * 60 / width)]
    assert (scaled(runs_of(mask), size) == expected).all()


def test_masks_in_the_grid(tmp_path):
    """A picture of 100 × 50 in a cell of 300: three times as large, 75 pixels of border above it."""
    mask = block(50, 100, slice(10, 40), slice(30, 70))
    shown = Picture(Image.new("RGB", (100, 50)), "the dam", mask=runs_of(mask), said=runs_of(mask), judged="IoU 1.00")
    page = grid([shown], tmp_path / "g.png", cell=300)
    cell = page.crop((GAP, 46 + 75, GAP + 300, 46 + 225))
    large = np.kron(mask, np.ones((3, 3), bool)).astype(bool)
    assert (marked(cell, TRUE) == (grown(large, LINE) & ~large)).all()
    legend = page.crop((0, 0, page.width, 46))
    assert marked(legend, TRUE).any() and marked(legend, PREDICTED).any()


def test_a_picture_that_is_turned_by_its_exif_has_its_mask_upright(tmp_path):
    """Stored 40 × 20 with orientation 6: upright it is 20 × 40, of which the mask is the upper half."""
    picture, exif = Image.new("RGB", (40, 20), "black"), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    mask = block(40, 20, slice(0, 20), slice(0, 20))
    page = grid([Picture(tmp_path / "a.jpg", "q", mask=runs_of(mask))], tmp_path / "g.png", cell=200)
    cell = np.asarray(page.crop((GAP + 50, 46, GAP + 150, 46 + 200))).astype(int)  # 100 × 200 in the middle
    assert (cell[5:95, 5:95, 1] > 40).all() and (cell[110:195].sum(axis=-1) < 20).all()


def test_pictures_of_a_question_stand_side_by_side_in_their_order(tmp_path):
    colours = ("#800000", "#008000", "#000080")
    pictures = [Image.new("RGB", (50, 50), colour) for colour in colours]
    items = [
        Picture(pictures[0], "What changed?", further=pictures[1:2], dates=["2019-04", "2021-06"]),
        Picture(pictures[2], "alone"),
        Picture(pictures[2], "alone again"),
    ]
    page = grid(items, tmp_path / "g.png", columns=3, cell=100)
    step = 100 + GAP
    middles = [page.getpixel((GAP + 50 + n * step, 46 + 60)) for n in range(3)]
    assert middles == [rgb(colour) for colour in colours]
    assert page.getpixel((GAP + 100 + GAP // 2, 46 + 60)) == rgb(CARD)  # within the card
    assert page.getpixel((GAP + 200 + GAP + GAP // 2, 46 + 60)) != rgb(CARD)  # between two
    tags = [np.asarray(page.crop((GAP + n * step, 46, GAP + n * step + 40, 46 + 15))) for n in range(3)]
    assert [(tag == rgb(HALO)).all(axis=-1).any() for tag in tags] == [True, True, False]  # one alone has no number
    below = [n for n in range(46 + 100, page.height) if page.getpixel((GAP + 50, n)) == rgb(colours[2])]
    assert len(below) == 100  # the third one stands in a second row


def test_what_lies_in_the_first_picture_is_drawn_on_others_of_its_size(tmp_path):
    first, same, other = (Image.new("RGB", size) for size in ((50, 50), (50, 50), (40, 50)))
    item = Picture(first, "q", boxes=[[10, 20, 40, 45]], mask=runs_of(block(50, 50)), further=[same, other])
    page = grid([item], tmp_path / "g.png", cell=100)
    cells = [page.crop((GAP + n * (100 + GAP), 46 + 20, GAP + n * (100 + GAP) + 100, 46 + 100)) for n in range(3)]
    assert [marked(cell, TRUE).any() for cell in cells] == [True, True, False]


def test_of_many_pictures_the_ends_and_some_between_are_shown(tmp_path):
    frames = [Image.new("RGB", (20, 20), (10 * n, 0, 0)) for n in range(20)]
    item = Picture(frames[0], "q", further=frames[1:])
    numbers = [number for number, _ in item.pictures]
    assert len(numbers) == 8 and (numbers[0], numbers[-1]) == (0, 19) and numbers == sorted(set(numbers))
    page = grid([item], tmp_path / "g.png", columns=4, cell=60)
    assert page.getpixel((GAP + 3 * (60 + GAP) + 30, 46 + 60 + GAP + 40)) == (190, 0, 0)  # the last, in a second row
    assert [number for number, _ in Picture(frames[0], "q", further=frames[1:3]).pictures] == [0, 1, 2]
