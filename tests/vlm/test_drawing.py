"""The picture grid: text that fits, the verdict line, and boxes where they belong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor, ImageFont

from vlm.pictures.drawing import GAP, PREDICTED, TRUE, Picture, grid, verdict, wrap

FONT = ImageFont.load_default(15)


@given(st.text(alphabet="ab cdWi.\n", max_size=200), st.integers(40, 300), st.integers(1, 4))
def test_wrapped_lines_fit_and_lose_nothing_but_the_end(text, width, lines):
    out = wrap(text, FONT, width, lines)
    assert len(out) <= lines
    assert all(FONT.getlength(line) <= width for line in out)
    joined, whole = "".join(out).replace(" ", ""), "".join(text.split())
    if joined.endswith("…"):
        assert whole.startswith(joined[:-1]) and len(joined[:-1]) < len(whole)
    else:
        assert joined == whole


def test_wrap_breaks_between_words():
    assert wrap("one two", FONT, FONT.getlength("one two"), 2) == ["one two"]
    assert wrap("one two", FONT, FONT.getlength("one two") - 1, 2) == ["one", "two"]
    assert wrap("", FONT, 100, 2) == []


@pytest.mark.parametrize(
    ("boxes", "predicted", "right", "text"),
    [
        ([], None, True, "right"),
        ([], None, None, ""),
        ([[0, 0, 10, 10]], None, False, "no box read, wrong"),
        ([[0, 0, 10, 10]], [], None, "no box read"),
        ([[0, 0, 10, 10]], [[0, 0, 10, 5]], True, "IoU 0.50, right"),
        # two of two found, one of them perfectly, one by half
        ([[0, 0, 10, 10], [20, 0, 30, 10]], [[20, 0, 30, 5], [0, 0, 10, 10]], None, "IoU 0.75"),
        # one superfluous box counts as a zero: (1 + 0) / 2
        ([[0, 0, 10, 10]], [[0, 0, 10, 10], [50, 50, 60, 60]], None, "IoU 0.50"),
    ],
)
def test_verdict(boxes, predicted, right, text):
    assert verdict(Picture("x.jpg", "q", boxes=boxes, predicted=predicted, right=right)) == text


def _where(page: Image.Image, colour: str) -> np.ndarray:
    """(N, 2) row and column of the pixels that have exactly this colour."""
    return np.argwhere((np.asarray(page) == ImageColor.getrgb(colour)).all(axis=-1))


def test_boxes_are_drawn_where_they_are(tmp_path):
    # A 100 × 50 image in a 300 px cell: scaled by 3, 75 px of border above it. No title: the cell starts at y
    # = 46.
    item = Picture(Image.new("RGB", (100, 50)), "q", boxes=[[10, 5, 30, 25]], predicted=[[50, 10, 90, 40]])
    page = grid([item], tmp_path / "grid.png", cell=300)
    assert Image.open(tmp_path / "grid.png").size == page.size
    for colour, (x1, y1, x2, y2) in ((TRUE, (30, 15, 90, 75)), (PREDICTED, (150, 30, 270, 120))):
        found = _where(page, colour)
        found = found[found[:, 0] > 46] - [46 + 75, GAP]  # below the legend; from the image's corner
        assert abs(found.min(axis=0) - [y1, x1]).max() <= 2
        assert abs(found.max(axis=0) - [y2, x2]).max() <= 2


def test_predicted_boxes_are_dashed_and_true_ones_solid(tmp_path):
    box = [[10, 10, 90, 90]]
    solid = grid([Picture(Image.new("RGB", (100, 100)), "q", boxes=box)], tmp_path / "a.png")
    dashed = grid([Picture(Image.new("RGB", (100, 100)), "q", predicted=box)], tmp_path / "b.png")
    top = 46 + 30  # the upper edge: 10 px of the image, scaled by 3
    edge = slice(GAP + 40, GAP + 260)
    assert (np.asarray(solid)[top, edge] == ImageColor.getrgb(TRUE)).all()
    share = (np.asarray(dashed)[top, edge] == ImageColor.getrgb(PREDICTED)).all(axis=-1).mean()
    assert 0.3 < share < 0.8


def test_all_kinds_of_images_and_odd_boxes_draw(tmp_path):
    Image.new("L", (40, 60), 90).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    odd = [[30, 50, 10, 20], [-500, -500, 9000, 9000], [float("nan"), 0, 1, 1], [5, 5, 5, 5]]
    items = [
        Picture(tmp_path / "a.png", "path", truth="yes", answer="", right=False),
        Picture(str(tmp_path / "a.png"), "text path", truth="yes", answer="yes " * 200, right=True),
        Picture(content, "bytes", boxes=odd[:1], predicted=odd),
        Picture(Image.new("RGBA", (1, 300)), "thin"),
        Picture(Image.new("RGB", (4, 4)), ""),
    ]
    page = grid(items, tmp_path / "grid.png", columns=2, cell=120, title="odd ones")
    # A header, three rows of cells: each at least the image square.
    assert page.height > 3 * 120 and page.width == 460
    with pytest.raises(ValueError, match="no pictures"):
        grid([], tmp_path / "none.png")


def test_quadrilaterals_are_drawn_as_they_lie_and_named(tmp_path):
    """A diamond: through the middles of the sides of the box around it, and not through its corners."""
    diamond = [50, 10, 90, 50, 50, 90, 10, 50]
    shown = Picture(Image.new("RGB", (100, 100)), "q", boxes=[diamond], judged="F1 0.00: 1 there, 0 said")
    page = np.asarray(grid([shown], tmp_path / "a.png"))
    green = (page == ImageColor.getrgb(TRUE)).all(axis=-1)[46:346, GAP : GAP + 300]  # the cell; three pixels are one
    assert green[30, 150] and green[150, 270] and green[270, 150] and green[150, 30]
    assert green[90, 210] and not green[30, 30] and not green[20:40, 40:120].any()
    assert verdict(shown) == "F1 0.00: 1 there, 0 said"
    named = Picture(Image.new("RGB", (100, 100)), "q", predicted=[diamond], names=["storage tank"])
    other = Picture(Image.new("RGB", (100, 100)), "q", predicted=[diamond], names=[None])
    pages = [np.asarray(grid([one], tmp_path / "b.png")) for one in (named, other)]
    rows, columns = np.nonzero((pages[0] != pages[1]).any(axis=-1))
    assert 46 + 10 < rows.min() < rows.max() < 46 + 35 and columns.min() >= GAP + 20  # above the box
