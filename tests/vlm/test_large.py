"""Pictures too large to be decoded whole: the same pixels as the plain way, which decodes all of them."""

import json
import logging
import os

import numpy as np
import pytest
from PIL import Image, ImageDraw

from samples import rows
from samples.sample import Sample
from tests.support.sights import resizing, sight
from tests.vlm.test_images import UPRIGHT, encoded
from tests.vlm.test_rasters import write
from vlm.common.errors import DataError, RecipeError
from vlm.pictures import cache, images, kept, large, rasters
from vlm.pictures.resizing import shown
from vlm.sections import ImageSection, PromptSection, RasterSection, ResizeSection, StretchSection

rasterio = pytest.importorskip("rasterio")
W, H = 230, 170
RNG = np.random.default_rng(18)
PERCENTILE = RasterSection(bands=[3, 2, 1], stretch=StretchSection(percentile=[2, 98]))


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Everything above 100 pixels is large, and read in many chunks; what is kept lies in the test's own folder."""
    monkeypatch.setattr(images, "LARGE", 100)
    monkeypatch.setattr(large, "CHUNK", 2000)
    monkeypatch.setattr(kept, "WORTH", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache.decoded.clear()
    yield
    cache.decoded.clear()


@pytest.fixture
def whole(monkeypatch):
    """`whole(image)`: decoded as pictures of ordinary size are."""

    def load(image):
        with monkeypatch.context() as patch:
            patch.setattr(images, "LARGE", 10**9)
            return images.load(image)

    return load


def scene(width=W, height=H, bands=3):
    """(bands, H, W) uint8: waves, edges and noise."""
    y, x = np.mgrid[:height, :width]
    found = [110 + 60 * np.sin(x / (9 + n)) + 40 * np.sign(np.cos(y / (14 + n))) for n in range(bands)]
    return (np.stack(found) + RNG.integers(0, 30, (bands, height, width))).clip(0, 255).astype(np.uint8)


def averaged(picture, factor):
    """Independent of Pillow: numpy's means of whole and partial blocks, rounded."""
    array = np.asarray(picture, np.float64)
    rows = range(0, array.shape[0], factor)
    columns = range(0, array.shape[1], factor)
    means = [[array[y : y + factor, x : x + factor].mean((0, 1)) for x in columns] for y in rows]
    return np.floor(np.array(means) + 0.5).astype(np.uint8)


def lossless(tmp_path):
    """Paths of every lossless layout that is read as Pillow reads it."""
    bands, grey = scene(), scene(bands=1)
    rgb = Image.fromarray(np.moveaxis(bands, 0, -1))
    rgba = rgb.copy()
    alpha = Image.new("L", rgb.size, 255)
    ImageDraw.Draw(alpha).rectangle([0, 0, 60, 40], 0)
    rgba.putalpha(alpha)
    soft = rgb.copy()
    soft.putalpha(Image.linear_gradient("L").resize(rgb.size))
    made = {
        "strips.tif": rgb, "grey.tif": Image.fromarray(grey[0]), "alpha.tif": rgba, "a.png": rgb, "a.bmp": rgb,
        "grey.png": Image.fromarray(grey[0]), "palette.png": rgb.quantize(40), "alpha.png": rgba, "soft.png": soft,
        "la.png": soft.convert("LA"), "bilevel.png": rgb.convert("1"),
    }  # fmt: skip
    paths = []
    for name, picture in made.items():
        options = {"compression": "tiff_lzw"} if name == "strips.tif" else {}
        picture.save(tmp_path / name, **options)
        paths.append(str(tmp_path / name))
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 16, "photometric": "RGB"}
    paths.append(write(tmp_path / "tiled.tif", bands, compress="deflate", **tiles))
    paths.append(write(tmp_path / "planar.tif", bands, interleave="band", **tiles))
    # Pillow knows nothing of nodata and of masks
    paths.append(write(tmp_path / "nodata.tif", bands, nodata=110, mask=grey[0] > 90, **tiles))
    return paths


def test_a_picture_is_read_at_the_asked_size_as_if_it_had_been_decoded_whole(tmp_path, whole):
    """230 x 170 for 28 x 21: blocks of 4 x 4 leave twice that, and Pillow's filter does the rest."""
    at = (28, 21)
    for path in lossless(tmp_path):
        found, plain = images.load(path, at), whole(path)
        assert images.size(path) == plain.size == (W, H) and found.size == at and found.mode == "RGB", path
        blocks = Image.fromarray(averaged(plain, 4))
        expected = blocks.resize(at, Image.Resampling.BICUBIC, box=(0, 0, W / 4, H / 4))
        assert np.array_equal(found, expected), path
        assert np.array_equal(found, large.fitted(plain, at)), path
        # what a model saw of it before: close, with noise of a standard deviation of 9
        before = plain.resize(at, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(found, float) - np.asarray(before, float)).mean() < 2, path


def test_jpeg_is_reduced_by_its_decoder(tmp_path, whole):
    rgb = Image.fromarray(np.moveaxis(scene(), 0, -1)).resize((1000, 700))
    for name, options in {"a.jpg": {"quality": 95}, "p.jpg": {"progressive": True}, "a.jp2": {}}.items():
        rgb.save(tmp_path / name, **options)
        found, plain = images.load(str(tmp_path / name), (50, 35)), whole(str(tmp_path / name))
        difference = np.asarray(found, float) - np.asarray(large.fitted(plain, (50, 35)), float)
        # wavelets are another filter than a mean
        assert found.size == (50, 35) and np.abs(difference).mean() < (2.5 if name == "a.jp2" else 1), name
        part = images.window(str(tmp_path / name), (300, 200, 390, 290))
        difference = np.asarray(part, float) - np.asarray(plain.crop((300, 200, 390, 290)), float)
        assert np.abs(difference).mean() < 1, name


def test_a_window_is_the_crop_of_the_whole_picture(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(images, "LARGE", W * H - 1)
    for path in lossless(tmp_path):
        plain = whole(path)
        for box in [(0, 0, W, H), (33, 17, 34, 18), (101, 5, 222, 169), (0, 160, W, H)]:
            assert np.array_equal(images.window(path, box), plain.crop(box)), (path, box)
        part, box = (25, 15), (13, 9, 213, 129)
        assert np.array_equal(images.window(path, box, part), large.fitted(plain.crop(box), part)), path


def test_windows_are_cut_at_the_borders_and_taken_outwards(tmp_path, monkeypatch):
    Image.fromarray(np.moveaxis(scene(), 0, -1)).save(path := str(tmp_path / "a.png"))
    for bound in (100, 10**9):  # read in parts, and decoded whole
        monkeypatch.setattr(images, "LARGE", bound)
        assert images.window(path, (-5, -9, 12, 7)).size == (12, 7)
        assert images.window(path, (220.5, 160.2, 900, 900)).size == (10, 10)  # from 220 and 160
        assert images.window(path, (10.2, 10.2, 10.3, 10.3)).size == (1, 1)
        for box in [(10, 10, 10, 20), (W, 0, W + 5, 9), (20, 0, 10, 9), (float("nan"), 0, 1, 1)]:
            with pytest.raises(DataError, match="a.png: found the window"):
                images.window(path, box)


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_orientation_is_applied_to_windows_and_reduced_pictures(tmp_path, whole, orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.moveaxis(scene(60, 40), 0, -1)), format, exif=exif)
    plain = whole(data)
    width, height = images.size(data)
    assert (width, height) == plain.size == ((60, 40) if orientation < 5 else (40, 60))
    box = (3, 7, 31, 22)
    assert np.array_equal(images.window(data, box), plain.crop(box))
    at = (width // 10, height // 10)
    # Pillow rounds once for each side, in the order of the sides
    difference = np.asarray(images.load(data, at), int) - np.asarray(large.fitted(plain, at), int)
    assert np.abs(difference).max() <= (0 if orientation < 5 else 1)


def test_ordinary_pictures_come_as_they_are(tmp_path, whole, monkeypatch):
    Image.fromarray(np.moveaxis(scene(), 0, -1)).save(path := str(tmp_path / "a.png"))
    assert images.load(path, (W // 2 + 1, H // 2)).size == (W, H)  # more than a quarter of the pixels is asked for
    assert images.load(path).size == (W, H)
    monkeypatch.setattr(images, "LARGE", W * H)
    assert np.array_equal(images.load(path, (10, 10)), whole(path))


# --- rasters ---


@pytest.mark.parametrize("nodata", [None, 7])
def test_a_stretch_is_that_of_the_whole_picture(tmp_path, whole, nodata):
    bands = RNG.integers(100, 3000, (4, H, W)).astype("uint16")
    bands[:, :, : W // 2] //= 4  # the left half is darker: its own percentiles would be others
    bands[:, 20:60, 30:90] = 7
    path = write(tmp_path / "a.tif", bands, nodata=nodata, tiled=True, blockxsize=16, blockysize=32)
    named = rasters.named(path, PERCENTILE)
    plain = whole(named)
    assert np.array_equal(images.load(named, (28, 21)), large.fitted(plain, (28, 21)))
    assert np.array_equal(images.window(named, (10, 10, 50, 70)), plain.crop((10, 10, 50, 70)))
    (facts,) = (tmp_path / "cache/nadir/pictures").glob("*.json")
    ends = json.loads(facts.read_text())[0]
    values = bands[0][bands[0] != 7] if nodata else bands[0]
    assert dict(ends)[1] == pytest.approx(np.percentile(values.astype(float), [2, 98]).tolist())


def test_percentiles_of_a_sample_are_near_those_of_all_values(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(large, "SAMPLE", 4000)
    bands = RNG.normal(2000, 300, (3, H, W)).astype("float32")
    named = rasters.named(write(tmp_path / "a.tif", bands), PERCENTILE)
    found, plain = images.window(named, (0, 0, W, H)), whole(named)
    assert 0 < np.abs(np.asarray(found, float) - np.asarray(plain, float)).mean() < 3
    # the same brightness in each part, as the ends are the same
    assert np.array_equal(images.window(named, (60, 60, 80, 90)), found.crop((60, 60, 80, 90)))


def test_a_fourth_band_is_asked_about_in_parts_too(tmp_path):
    path = write(tmp_path / "nir.tif", scene(bands=4), photometric="RGB", alpha="yes")
    for ask in (
        images.size,
        lambda image: images.load(image, (28, 21)),
        lambda image: images.window(image, (0, 0, 9, 9)),
    ):
        with pytest.raises(DataError, match="nir.tif: found band 4 called alpha"):
            ask(path)


# --- overviews, and what is kept ---


def with_overviews(path):
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    return path


def read_pixels(monkeypatch):
    """Of every read from here on: pixels of a band."""
    counts, before = [], large.Part._assembled

    def assembled(part, read):
        counts.append(sum(window.width * window.height for window in part.windows))
        return before(part, read)

    monkeypatch.setattr(large.Part, "_assembled", assembled)
    return counts


def test_overviews_are_read_instead_of_the_picture(tmp_path, whole, monkeypatch):
    path = write(tmp_path / "a.tif", scene(256, 192), tiled=True, blockxsize=32, blockysize=32, photometric="RGB")
    before = images.load(path, (32, 24))
    with_overviews(path)
    counts = read_pixels(monkeypatch)
    found = images.load(path, (32, 24))
    assert sum(counts) == 64 * 48  # the one by 4
    assert np.abs(np.asarray(found, float) - np.asarray(before, float)).mean() < 0.6  # rounded elsewhere
    counts.clear()
    part = images.window(path, (64, 64, 128, 128), (16, 16))
    assert sum(counts) == 32 * 32  # by 2
    plain = large.fitted(whole(path).crop((64, 64, 128, 128)), (16, 16))
    assert np.abs(np.asarray(part, float) - np.asarray(plain, float)).mean() < 2


def test_without_overviews_the_picture_is_read_once(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "a.tif", scene(256, 192), tiled=True, blockxsize=32, blockysize=32, photometric="RGB")
    counts = read_pixels(monkeypatch)
    first = images.load(path, (32, 24))
    assert sum(counts) == 256 * 192 and max(counts) <= large.CHUNK
    assert np.array_equal(images.load(path, (32, 24)), first) and sum(counts) == 256 * 192
    (made,) = (tmp_path / "cache/nadir/pictures").iterdir()
    assert Image.open(made).size == (64, 48)
    images.load(path, (30, 22))  # another size, from the same
    assert sum(counts) == 256 * 192
    made.write_bytes(made.read_bytes()[:100])  # a damaged file is made again
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(images.load(path, (32, 24)), first) and "is damaged" in caplog.text
    assert sum(counts) == 2 * 256 * 192
    os.utime(path, ns=(1, 1))  # another content, for all that is known
    images.load(path, (32, 24))
    assert sum(counts) == 3 * 256 * 192


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Image.fromarray(np.moveaxis(scene(), 0, -1)).save(path := str(tmp_path / "a.png"))
    with caplog.at_level(logging.WARNING):
        assert [images.load(path, (28, 21)).size for _ in range(2)] == [(28, 21)] * 2
    assert caplog.text.count("cannot be kept") == 1


# --- what cannot be read in parts ---


def test_what_is_decoded_whole_is_refused_by_name_beyond_the_bound(tmp_path, whole, monkeypatch):
    rgb = Image.fromarray(np.moveaxis(scene(), 0, -1))
    rgb.save(tmp_path / "a.webp", lossless=True)
    rgb.save(tmp_path / "a.gif")
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.save(tmp_path / "progressive.jpg", progressive=True)
    monkeypatch.setattr(images, "JPEG_MEMORY", 2 * W * H)
    words = {
        "a.webp": "found a WEBP, which is decoded whole, of 230 x 170 pixels.*gdal_translate -co TILED=YES",
        "a.gif": "found a GIF",
        "cmyk.jpg": "found a JPEG of mode CMYK",
        "progressive.jpg": r"found a progressive JPEG, whose decoder holds 0 MiB.*jpegtran",
    }
    for name, said in words.items():
        path = str(tmp_path / name)
        plain = whole(path)
        assert np.array_equal(images.load(path, (28, 21)), large.fitted(plain, (28, 21)))
        assert np.array_equal(images.window(path, (5, 6, 70, 80)), plain.crop((5, 6, 70, 80)))
        with monkeypatch.context() as patch:
            patch.setattr(images, "WHOLE", 1000)
            for ask in (images.size, lambda image: images.load(image, (28, 21))):
                with pytest.raises(DataError, match=rf"{name}: {said}"):
                    ask(path)


def test_blocks_that_are_too_large_are_refused_by_name(tmp_path, monkeypatch):
    path = write(tmp_path / "strip.tif", scene(), compress="deflate", blockysize=H, photometric="RGB")
    monkeypatch.setattr(large, "MOST_BLOCK", 3 * W * H - 1)
    assert images.load(path, (28, 21)).size == (28, 21)
    monkeypatch.setattr(images, "WHOLE", 1000)
    with pytest.raises(DataError, match="strip.tif: found blocks of 230 x 170 pixels.*gdal_translate"):
        images.size(path)


def test_without_rasterio_ordinary_files_give_the_same_pixels(tmp_path, monkeypatch):
    Image.fromarray(np.moveaxis(scene(), 0, -1)).save(path := str(tmp_path / "a.png"))
    before = images.load(path, (28, 21))

    def missing():
        raise RecipeError(rasters.INSTALL)

    monkeypatch.setattr(rasters, "library", missing)
    assert np.array_equal(images.load(path, (28, 21)), before)
    monkeypatch.setattr(images, "WHOLE", 1000)
    with pytest.raises(RecipeError, match="rasterio"):
        images.load(path, (28, 21))


# --- where boxes and sizes follow ---


def test_rows_keep_the_originals_size(tmp_path):
    """560 x 392 beyond the bound: read at what the model sees; drawn sizes follow the original's proportions."""
    Image.fromarray(np.moveaxis(scene(560, 392), 0, -1)).save(path := str(tmp_path / "a.png"))
    section = ImageSection(min_pixels=784, max_pixels=112 * 112)
    sample = Sample([path], [{"role": "user", "content": "x"}], "grounding", boxes=[[56, 49, 112, 98]], size=(560, 392))
    row = rows.prompt_rows([sample], PromptSection(), resizing(section))[0]
    assert row["images"][0].size == tuple(row["resized"]) == (112, 84) and list(row["size"]) == [560, 392]
    assert shown(path, sight(section)).size == (112, 84)
    drawing = resizing(
        section.model_copy(update={"random_resize": ResizeSection(min_pixels=56 * 56, max_pixels=112 * 112)}),
        train=True,
    )
    drawn = drawing.drawn((560, 392), 0, among=1)
    row = rows.prompt_rows([sample], PromptSection(), drawing)[0]
    assert row["images"][0].size == drawn == tuple(row["resized"])
