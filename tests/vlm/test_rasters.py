"""vlm.pictures.rasters: which bands are shown and how; pixels against Pillow's and against numpy's own arithmetic."""

import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from vlm.common.errors import DataError, RecipeError
from vlm.pictures import images, rasters
from vlm.sections import RasterSection, StretchSection

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import Affine  # noqa: E402

RNG = np.random.default_rng(4)
H, W = 30, 40
RANGE = StretchSection(range=[0, 3000])
PERCENTILE = StretchSection(percentile=[2, 98])
STRETCHES = {"range": RANGE, "percentile": PERCENTILE}


def write(path, bands, mask=None, **options):
    """(count, H, W) into a GeoTIFF, or by the driver of `options`; returns its path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **shape, **options) as file:
            file.write(bands)
            if mask is not None:
                file.write_mask(mask)
    return str(path)


def bands_of(count, dtype="uint16", most=4000):
    return RNG.integers(1, most, (count, H, W)).astype(dtype)


def shown(path, **raster):
    named = rasters.named(str(path), RasterSection(**raster))
    picture = images.load(named)
    assert picture.mode == "RGB" and images.size(named) == picture.size
    return np.asarray(picture)


def stretched(band, low, high):
    """Independent: by whole numbers of hundredths, a value at a time."""
    out = np.zeros(band.shape, np.uint8)
    for place, value in np.ndenumerate(band):
        share = min(max((float(value) - low) / (high - low), 0.0), 1.0)
        out[place] = int(np.floor(share * 255 + 0.5)) if (share * 255) % 1 != 0.5 else round(share * 255)
    return out


# --- the same pixels as Pillow's ---


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("name", ["a.tif", "lzw.tif", "tiled.tif", "deflate.tif", "planar.tif", "a.png"])
def test_pixels_are_pillows_for_lossless_files_of_eight_bits(tmp_path, name, bands):
    options = {
        "a.tif": {"driver": "GTiff"},
        "lzw.tif": {"driver": "GTiff", "compress": "lzw", "predictor": 2},
        "tiled.tif": {"driver": "GTiff", "tiled": True, "blockxsize": 16, "blockysize": 16},
        "deflate.tif": {"driver": "GTiff", "compress": "deflate"},
        "planar.tif": {"driver": "GTiff", "interleave": "band"},
        "a.png": {"driver": "PNG"},
    }[name]
    values = bands_of(bands, "uint8", 256)
    path = write(tmp_path / name, values, **options)
    by_pillow = np.asarray(images.load(path))
    assert np.array_equal(by_pillow, shown(path))
    assert np.array_equal(by_pillow, np.stack(list(values) * (3 // bands), -1))


@pytest.mark.parametrize("format", ["TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_of_pillow_are_turned_alike(tmp_path, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{format.lower()}"
    Image.fromarray(bands_of(3, "uint8", 256).transpose(1, 2, 0)).save(path, format, exif=exif)
    assert np.array_equal(np.asarray(images.load(str(path))), shown(path))
    assert np.array_equal(np.asarray(images.load(rasters.named(path.read_bytes(), RasterSection()))), shown(path))


def test_palettes_are_pillows(tmp_path):
    picture = Image.fromarray(bands_of(1, "uint8", 4)[0], "P")
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 1, 2, 3])
    for name in ("a.tif", "a.png"):
        picture.save(tmp_path / name)
        assert np.array_equal(np.asarray(images.load(str(tmp_path / name))), shown(tmp_path / name))
    with pytest.raises(DataError, match="a palette has colours, nothing to stretch; write `raster: plain`"):
        shown(tmp_path / "a.tif", stretch=RANGE)


# --- stretches ---


@pytest.mark.parametrize("how", STRETCHES)
@pytest.mark.parametrize("bands", [[4, 3, 2], [1, 1, 5], [2]])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "uint8", "int32", "float64"])
def test_a_stretch_is_what_numpy_says(tmp_path, dtype, bands, how):
    values = bands_of(5, dtype, 256 if dtype == "uint8" else 4000)
    if dtype == "int16":
        values -= 1000
    path = write(tmp_path / "a.tif", values, driver="GTiff", photometric="minisblack")
    found = shown(path, bands=bands, stretch=STRETCHES[how])
    for place, band in enumerate(bands * (3 // len(bands))):
        low, high = (0, 3000) if how == "range" else np.percentile(values[band - 1], [2, 98])
        assert np.array_equal(found[..., place], stretched(values[band - 1], low, high))


def test_a_stretch_by_hand(tmp_path):
    """0, 1500 and 3000 of [0, 3000]: black, 127.5 rounded to the even 128, white; outside: clipped."""
    path = write(tmp_path / "a.tif", np.array([[[0, 1500, 3000, 9000, 600]]], "uint16"), driver="GTiff")
    assert shown(path, stretch=RANGE)[0, :, 0].tolist() == [0, 128, 255, 255, 51]
    low = write(tmp_path / "b.tif", np.array([[[-500, 0]]], "int16"), driver="GTiff")
    assert shown(low, stretch=RANGE)[0, :, 0].tolist() == [0, 0]


def test_a_band_without_contrast_is_black(tmp_path):
    path = write(tmp_path / "a.tif", np.full((1, 4, 4), 700, "uint16"), driver="GTiff")
    assert shown(path, stretch=PERCENTILE).max() == 0


# --- what is no measurement ---


@pytest.mark.parametrize("way", ["file", "recipe", "mask"])
def test_nodata_is_black_and_counts_in_no_percentile(tmp_path, way):
    values = bands_of(3)
    gone = np.zeros((H, W), bool)
    gone[:10] = True
    values[:, gone] = 65535 if way != "mask" else 50000
    options = {"nodata": 65535} if way == "file" else {}
    mask = (~gone).astype("uint8") * 255 if way == "mask" else None
    path = write(tmp_path / "a.tif", values, mask=mask, driver="GTiff", **options)
    found = shown(path, stretch=PERCENTILE, **({"nodata": 65535} if way == "recipe" else {}))
    assert found[gone].max() == 0
    for band in range(3):
        low, high = np.percentile(values[band][~gone], [2, 98])
        assert np.array_equal(found[..., band][~gone], stretched(values[band], low, high)[~gone])


def test_nan_and_infinities_are_black_and_the_recipe_goes_before_the_file(tmp_path):
    values = bands_of(1, "float32")
    values[0, 0, :3] = [np.nan, np.inf, -np.inf]
    values[0, 1] = -9999
    path = write(tmp_path / "a.tif", values, driver="GTiff", nodata=-9999)
    found = shown(path, stretch=PERCENTILE)
    valid = np.isfinite(values[0]) & (values[0] != -9999)
    assert found[~valid].max() == 0
    assert np.array_equal(found[..., 0][valid], stretched(values[0][valid], *np.percentile(values[0][valid], [2, 98])))
    other = shown(path, stretch=StretchSection(range=[-10000, 4000]), nodata=5)
    assert other[1, 0, 0] == 0 == np.rint((-9999 + 10000) / 14000 * 255)
    empty = write(tmp_path / "b.tif", np.full((1, 4, 4), np.nan, "float32"), driver="GTiff")
    assert shown(empty, stretch=PERCENTILE).max() == 0


def test_nodata_of_eight_bits_without_a_stretch(tmp_path):
    path = write(tmp_path / "a.tif", np.array([[[255, 7]]], "uint8"), driver="GTiff", nodata=255)
    assert shown(path)[0, :, 0].tolist() == [0, 7]
    assert np.asarray(images.load(path))[0, :, 0].tolist() == [255, 7]  # nobody has spoken of rasters: as Pillow


# --- what has no brightness until somebody says ---


@pytest.mark.parametrize(
    ("count", "dtype", "options", "words"),
    [
        (1, "uint16", {}, r"1 band of uint16, .*images: \{raster: \{stretch: \{percentile: \[2, 98\]\}\}\}"),
        (3, "uint16", {}, r"3 bands of uint16, .*\{raster: \{stretch"),
        (3, "uint16", {"photometric": "minisblack"}, "3 bands of uint16"),
        (1, "float32", {}, "1 band of float32"),
        (1, "int16", {}, "1 band of int16"),
        (1, "int8", {}, "1 band of int8"),
        (1, "uint32", {}, "1 band of uint32"),
        (1, "complex64", {}, "1 band of complex float64"),
        (2, "uint8", {}, r"2 bands of uint8, .*\{raster: \{bands: \[1\]\}\}"),
        (4, "uint8", {"photometric": "minisblack"}, r"4 bands of uint8, .*\{raster: \{bands: \[3, 2, 1\]\}\}"),
        (4, "uint8", {"photometric": "rgb", "alpha": "unspecified"}, r"4 bands of uint8, .*bands: \[1, 2, 3\]"),
        (5, "uint8", {}, "5 bands of uint8"),
        (4, "uint16", {"photometric": "rgb"}, "4 bands of uint16"),
        (13, "uint16", {}, "13 bands of uint16"),
        (1, "uint16", {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}, "1 band of uint16"),
    ],
)
def test_the_error_names_file_bands_type_and_key(tmp_path, count, dtype, options, words):
    path = write(tmp_path / "a.tif", bands_of(count, dtype, 100), driver="GTiff", **options)
    for function in (images.load, images.size):
        for image in (path, (tmp_path / "a.tif").read_bytes()):
            with pytest.raises(DataError, match=rf"image ({tmp_path}/a.tif|of \d+ bytes): found {words}"):
                function(image)


def test_sixteen_bits_of_png_and_jpeg2000_are_refused_not_cut(tmp_path):
    """Pillow keeps the high byte of RGB: 3,000 would be 11 of 255."""
    for name, driver, count in (("a.png", "PNG", 1), ("b.png", "PNG", 3), ("c.png", "PNG", 4)):
        path = write(tmp_path / name, bands_of(count), driver=driver)
        with pytest.raises(DataError, match=f"found {count} bands? of uint16"):
            images.size(path)
    for count in (1, 3):
        path = write(
            tmp_path / "a.jp2", bands_of(count, most=3000), driver="JP2OpenJPEG", reversible="yes", quality=100
        )
        with pytest.raises(DataError, match=f"found {count} bands? of uint16"):
            images.load(path)
        assert shown(path, stretch=RANGE).max() > 250
    Image.fromarray(bands_of(3, "uint8", 256).transpose(1, 2, 0)).save(tmp_path / "b.jp2", irreversible=False)
    assert np.array_equal(np.asarray(images.load(str(tmp_path / "b.jp2"))), shown(tmp_path / "b.jp2"))


def test_bands_that_are_not_there_and_types_without_brightness(tmp_path):
    path = write(tmp_path / "a.tif", bands_of(4), driver="GTiff", photometric="minisblack")
    with pytest.raises(DataError, match=r"4 bands of uint16 \(gray, undefined, .*expected at least 5"):
        shown(path, bands=[5, 1, 2], stretch=RANGE)
    with pytest.raises(DataError, match="expected one or three; say which to show"):
        shown(path, stretch=RANGE)
    with pytest.raises(DataError, match="whose values are no brightness"):
        shown(path, bands=[1, 2, 3])
    complex_ = write(tmp_path / "b.tif", bands_of(1, "complex64"), driver="GTiff")
    with pytest.raises(DataError, match="complex64 has no brightness"):
        shown(complex_, stretch=RANGE)


@pytest.mark.parametrize("compress", ["lerc", "lerc_zstd", "zstd"])
def test_packings_that_pillow_does_not_know(tmp_path, compress):
    values = bands_of(3, "uint8", 256)
    try:
        path = write(tmp_path / "a.tif", values, driver="GTiff", compress=compress, max_z_error=0)
    except rasterio.errors.RasterioError as error:
        pytest.skip(f"this rasterio writes no {compress}: {error}")
    assert np.array_equal(np.asarray(images.load(path)), values.transpose(1, 2, 0))
    assert images.size(path) == (W, H)


def test_three_bands_of_eight_bits_without_colours_are_red_green_blue(tmp_path):
    values = bands_of(3, "uint8", 256)
    path = write(tmp_path / "a.tif", values, driver="GTiff", photometric="minisblack")
    assert np.array_equal(np.asarray(images.load(path)), values.transpose(1, 2, 0))


def test_where_a_raster_lies_plays_no_part(tmp_path):
    values = bands_of(1)
    turned = Affine(8.7, 5, 500000, 5, -8.7, 5400000)
    path = write(tmp_path / "a.tif", values, driver="GTiff", transform=turned, crs="EPSG:32632")
    assert np.array_equal(shown(path, stretch=RANGE)[..., 0], stretched(values[0], 0, 3000))


# --- the fourth band ---


def test_near_infrared_is_asked_about_whatever_gdal_calls_it(tmp_path):
    """200 under 20 of 255 would be 16."""
    values = np.full((4, H, W), 200, "uint8")
    values[3] = 20
    flagged = write(tmp_path / "a.tif", values, driver="GTiff")  # GDAL's default: the fourth of four is alpha
    plain = write(tmp_path / "b.tif", values, driver="GTiff", photometric="rgb", alpha="unspecified")
    assert rasters.layout(rasters.tags(flagged))[2] == (2,)
    for function in (images.load, images.size):
        with pytest.raises(DataError, match=r"band 4 called alpha .*100%.*`images.raster: \{bands: \[1, 2, 3\]\}`"):
            function(flagged)
        with pytest.raises(DataError, match="4 bands of uint8"):
            function(plain)
    for path in (flagged, plain):
        assert (shown(path, bands=[1, 2, 3]) == 200).all()
        assert shown(path, bands=[4, 3, 2])[0, 0].tolist() == [20, 200, 200]
        assert (shown(path, alpha=4) == 16).all()  # 200 · 20 / 255 = 15.7


def test_a_true_alpha_is_pillows(tmp_path):
    """Nothing, full, and the smoothed edge between: under a hundredth of the pixels."""
    rgba = np.zeros((40, 100, 4), "uint8")
    rgba[..., :3] = bands_of(3, "uint8", 256).transpose(1, 2, 0)[0, 0]
    rgba[:, 50:, 3] = 255
    rgba[:30, 49, 3] = 128  # 30 of 4,000
    Image.fromarray(rgba).save(tmp_path / "a.tif")
    by_pillow = np.asarray(images.load(str(tmp_path / "a.tif")))
    assert np.array_equal(by_pillow, shown(tmp_path / "a.tif"))
    assert by_pillow[:, :49].max() == 0 and (by_pillow[:, 50:] == rgba[0, 0, :3]).all()
    for name, options in (("a.png", {}), ("a.webp", {"lossless": True})):  # formats whose fourth band is alpha
        soft = rgba.copy()
        soft[..., 3] = 77
        Image.fromarray(soft).save(tmp_path / name, **options)
        assert np.asarray(images.load(str(tmp_path / name)))[0, 0].tolist() == [
            round(value * 77 / 255) for value in rgba[0, 0, :3].tolist()
        ]


def test_an_alpha_that_colours_are_multiplied_by_is_believed(tmp_path):
    values = np.full((4, H, W), 20, "uint8")
    values[3] = 100
    path = write(tmp_path / "a.tif", values, driver="GTiff", photometric="rgb", alpha="premultiplied")
    assert rasters.layout(rasters.tags(path))[2] == (1,)
    assert images.size(path) == (W, H) and abs(int(np.asarray(images.load(path)).max()) - 20) <= 1


def test_grey_with_alpha(tmp_path):
    values = np.full((2, H, W), 90, "uint8")
    values[1, :15], values[1, 15:] = 0, 255
    path = write(tmp_path / "a.tif", values, driver="GTiff", alpha="yes")
    found = np.asarray(images.load(path))
    assert found[:15].max() == 0 and (found[15:] == 90).all() and np.array_equal(found, shown(path))


@pytest.mark.parametrize("full", [65535, 255])
def test_alpha_masks_a_stretch(tmp_path, full):
    values = bands_of(4)
    values[3] = full
    values[:, :10] = [[[60000]], [[60000]], [[60000]], [[0]]]
    path = write(tmp_path / "a.tif", values, driver="GTiff", photometric="rgb", alpha="yes")
    found = shown(path, stretch=PERCENTILE)
    assert found[:10].max() == 0
    low, high = np.percentile(values[0, 10:], [2, 98])
    assert np.array_equal(found[10:, :, 0], stretched(values[0, 10:], low, high))


# --- names ---


def test_a_name_carries_how_it_is_read(tmp_path):
    path = write(tmp_path / "a.tif", bands_of(4), driver="GTiff", photometric="minisblack")
    one, two = RasterSection(bands=[4, 3, 2], stretch=RANGE), RasterSection(bands=[4, 3, 2], stretch=PERCENTILE)
    named = rasters.named(path, one)
    assert named == path + '#raster={"bands":[4,3,2],"stretch":{"range":[0.0,3000.0]}}'
    assert rasters.split(named) == (path, one) and rasters.split(path) == (path, None)
    assert rasters.named(named, two) == named and rasters.named(path, None) == path
    content = (tmp_path / "a.tif").read_bytes()
    assert rasters.split(rasters.named(content, two)) == (content, two)
    assert np.array_equal(np.asarray(images.load(rasters.named(content, one))), np.asarray(images.load(named)))
    assert images.describe(named) == path
    for wrong in ("{", '{"band":[1]}', '{"bands":[0]}'):
        with pytest.raises(DataError, match="#raster="):
            images.load(f"{path}#raster={wrong}")


def test_without_rasterio_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", bands_of(1), driver="GTiff")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(RecipeError, match=r"pip install -e '.\[geo\]'"):
        shown(path, stretch=RANGE)
    with pytest.raises(DataError, match="1 band of uint16"):  # what is wrong is known without it
        images.load(path)


def test_gdal_opens_no_other_files(tmp_path):
    """A VRT may name files and addresses; it is no picture."""
    write(tmp_path / "secret.tif", bands_of(1), driver="GTiff")
    (tmp_path / "a.tif").write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{tmp_path}/secret.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(DataError, match="not an image file"):
        shown(tmp_path / "a.tif", stretch=RANGE)
    with pytest.raises(DataError, match="no such file"):
        shown(tmp_path / "gone.tif")


def test_files_beside_a_raster_are_not_opened(tmp_path):
    """GDAL takes `a.tif.msk` for its mask, whatever it is: here a VRT that names another file, of zeros."""
    path = write(tmp_path / "a.tif", bands_of(1), driver="GTiff")
    write(tmp_path / "secret.tif", np.zeros((1, H, W), "uint8"), driver="GTiff")
    before = shown(path, stretch=RANGE)
    (tmp_path / "a.tif.msk").write_text(
        f'<VRTDataset rasterXSize="{W}" rasterYSize="{H}"><Metadata><MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata>'
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>'
        f"{tmp_path}/secret.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with rasterio.open(path) as file:
        assert file.dataset_mask().max() == 0  # what GDAL would do
    assert np.array_equal(before, shown(path, stretch=RANGE)) and before.max() > 0


def test_a_raster_cut_short_is_an_error(tmp_path):
    path = write(tmp_path / "a.tif", bands_of(3), driver="GTiff")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        shown(path, stretch=RANGE)


def test_a_raster_of_large_files(tmp_path):
    path = write(tmp_path / "a.tif", bands_of(3), driver="GTiff", BIGTIFF="YES")
    with pytest.raises(DataError, match="3 bands of uint16"):
        images.load(path)
    assert shown(path, stretch=RANGE).shape == (H, W, 3)


# --- sections ---


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bands": [1, 2]}, "expected three"),
        ({"bands": [0]}, "the first band is 1"),
        ({"stretch": {}}, "found neither"),
        ({"stretch": {"range": [0.0, 1.0], "percentile": [2.0, 98.0]}}, "found percentile and range"),
        ({"stretch": {"range": [5.0, 5.0]}}, "black below white"),
        ({"stretch": {"percentile": [2.0, 101.0]}}, "from 0 to 100"),
        ({"nodata": float("nan")}, "NaN and infinities always"),
        ({"bands": [1, 2, 3], "alpha": 3}, "not shown"),
    ],
)
def test_settings_that_cannot_be_right(given, words):
    with pytest.raises(ValueError, match=words):
        RasterSection.model_validate(given)


def test_bombs_are_rasters_too(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", bands_of(1), driver="GTiff")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W - 1)
    with pytest.raises(DataError, match=rf"found {W} x {H} = {H * W} pixels, expected at most .*images.limit"):
        shown(path, stretch=RANGE)
