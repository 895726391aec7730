"""Sizes of pictures for models that see tiles, a square, or what nobody knows: drawn ones, and those of large files."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.tiny_checkpoints import pixels
from vlm import families, loading
from vlm.common.errors import RecipeError
from vlm.families.sight import Square, Tiles, Unknown
from vlm.pictures import cache, images, kept, large, resizing
from vlm.pictures.resizing import Resizing, fitted, shown
from vlm.sections import ImageSection, ModelSection, ResizeSection

TILES = Tiles(56, 4, 56**2, 12 * 56**2)
DRAWING = ResizeSection(min_pixels=2 * 56**2, max_pixels=9 * 56**2)
KINDS = tuple(kind for kind in families.FAMILIES if kind != "qwen2_5_vl")


@given(st.tuples(st.integers(1, 900), st.integers(1, 900)), st.integers(0, 50), st.integers(0, 3))
def test_drawn_tiles(size, row, passed):
    """Whole tiles within the drawn limits, which the model's processor then makes again."""
    sizes = Resizing(TILES, DRAWING, seed=2)
    sizes.passed = passed
    drawn = sizes.drawn(size, row, among=1)
    assert all(side % 56 == 0 for side in drawn) and 2 <= drawn[0] * drawn[1] // 56**2 <= 9
    assert drawn == sizes.drawn(size, row, among=1) and sizes.seen(drawn, among=1) == drawn
    assert TILES.tokens(drawn) == 4 * (drawn[0] * drawn[1] // 56**2 + 1)


def test_draws_differ():
    sizes = Resizing(TILES, DRAWING)
    """By hand: 3 × 2 tiles from six on; with fewer, 1.5 is as far from 1 as from 2, and the most that there are."""
    found = {sizes.drawn((300, 200), row, among=1) for row in range(60)}
    assert found == {(168, 112), (112, 112), (112, 56)}
    squares = {sizes.drawn((300, 300), row, among=1) for row in range(60)}
    assert {(112, 112)} < squares  # and what is nearest to a square in two or three tiles


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("llava", "every image is padded to a square of 56×56 pixels"),
        ("idefics3", "the model's own processor decides on sizes"),
    ],
)
def test_where_sizes_have_no_say_none_is_drawn(kind, words, family_checkpoints):
    section = ImageSection(min_pixels=784, max_pixels=2 * 10**6, random_resize=ResizeSection())
    recipe = SimpleNamespace(images=section, model=ModelSection(path=family_checkpoints(kind)), seed=1)
    with pytest.raises(RecipeError, match=f"images.random_resize: {words}.*; leave it out"):
        resizing.by_role(recipe)
    recipe.images = section.model_copy(update={"random_resize": None})
    assert resizing.by_role(recipe)["train"].drawn((301, 77), 3, among=1) == (301, 77)


@pytest.mark.parametrize("sight", [Square(56, 16), Unknown(56**2, 112**2)])
def test_a_picture_that_is_not_scaled_stays(sight):
    picture = Image.effect_noise((90, 50), 60).convert("RGB")
    assert fitted(picture, sight) is picture
    assert Resizing(sight).seen((90, 50), among=1) is None


# --- files that are never decoded whole


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Everything above 100 pixels is large, as in test_large.py."""
    monkeypatch.setattr(images, "LARGE", 100)
    monkeypatch.setattr(large, "CHUNK", 2000)
    monkeypatch.setattr(kept, "WORTH", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache.decoded.clear()
    yield
    cache.decoded.clear()


def mosaic(width, height):
    """Slow waves: reduced in one step or in two they look the same."""
    y, x = np.mgrid[:height, :width]
    waves = [120 + 70 * np.sin(x / (40 + 5 * n)) + 50 * np.cos(y / (50 + 5 * n)) for n in range(3)]
    return Image.fromarray(np.stack(waves, -1).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(700, 500), (640, 640), (1200, 90)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_gives_the_same_picture(kind, size, small, family_checkpoints, tmp_path, monkeypatch):
    """Reduced while it is read: as many tokens, of the same sizes; pixels as of the whole but for the resampling."""
    mosaic(*size).save(tmp_path / "a.tif")
    processor = loading.load_processor(family_checkpoints(kind), pixels(56**2, 112**2))
    sight = processor.sight
    given = shown(str(tmp_path / "a.tif"), sight)
    assert given.width * given.height < size[0] * size[1] / 2
    found = processor.image_processor([given], return_tensors="pt")
    whole = processor.image_processor([mosaic(*size)], return_tensors="pt")
    assert sight.seen(given.size) == sight.seen(size) and sight.tokens(given.size) == sight.tokens(size)
    assert {name: part.shape for name, part in found.items()} == {name: part.shape for name, part in whole.items()}
    assert (found["pixel_values"] - whole["pixel_values"]).abs().mean() < 0.05  # units of about 1/4 of the range
    table = Resizing(sight)
    assert table.picture(str(tmp_path / "a.tif"), 0, among=1).size == given.size
