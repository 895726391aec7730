"""vlm.pictures.images: the same upright 8-bit picture for every stage, and its size from the header alone."""

import contextlib
import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vlm.common.errors import DataError
from vlm.pictures import cache, images
from vlm.sections import PictureSection

# A 3 x 2 picture with six different grey values; rows from the top.
STORED = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8)
# EXIF orientation -> what a viewer shows, from the standard's "row 0 is the visual …, column 0 is …".
UPRIGHT = {
    1: [[10, 20, 30], [40, 50, 60]],  # row 0 top, column 0 left
    2: [[30, 20, 10], [60, 50, 40]],  # top, right
    3: [[60, 50, 40], [30, 20, 10]],  # bottom, right
    4: [[40, 50, 60], [10, 20, 30]],  # bottom, left
    5: [[10, 40], [20, 50], [30, 60]],  # row 0 left, column 0 top
    6: [[40, 10], [50, 20], [60, 30]],  # right, top
    7: [[60, 30], [50, 20], [40, 10]],  # right, bottom
    8: [[30, 60], [20, 50], [10, 40]],  # left, bottom
}


def encoded(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
def test_exif_orientation_is_applied_to_pixels_and_size(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(Image.fromarray(STORED).convert("RGB"), format, exif=exif, **options)
    picture = images.load(data)
    assert picture.mode == "RGB"
    assert np.asarray(picture)[..., 0].tolist() == UPRIGHT[orientation]
    assert ImageOps.exif_transpose(picture).tobytes() == picture.tobytes()  # what vLLM does once more
    assert images.size(data) == picture.size == (len(UPRIGHT[orientation][0]), len(UPRIGHT[orientation]))


def test_jpeg_orientation_from_a_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "portrait.jpg"
    Image.new("RGB", (40, 24), (200, 100, 50)).save(path, exif=exif)
    assert images.size(str(path)) == images.load(str(path)).size == (24, 40)


def test_size_reads_the_header_only():
    data = encoded(Image.effect_noise((64, 48), 50), "PNG")
    assert images.size(data[:200]) == (64, 48)
    with pytest.raises(DataError, match="cannot be read"):
        images.load(data[:200])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_more_than_eight_bits_are_no_brightness(dtype):
    """What is written instead, and what is read then: tests/vlm/test_rasters.py."""
    for format in ("PNG", "TIFF") if dtype == np.uint16 else ("TIFF",):
        data = encoded(Image.fromarray(np.ones((2, 2), dtype=dtype)), format)
        for function in (images.load, images.size):
            with pytest.raises(DataError, match=f"found 1 band of {np.dtype(dtype)}.*images: .raster"):
                function(data)


@pytest.fixture
def settings_kept(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(cache.decoded, "most", cache.decoded.most)
    monkeypatch.setenv(images.SETTINGS, "")


def test_the_limit_is_the_recipes_here_and_in_processes_started_from_here(settings_kept):
    assert images.limit() == PictureSection().limit == 1024**3 // 4 // 3  # Pillow's
    data = encoded(Image.new("L", (20, 10)))
    images.use(PictureSection(limit=199, cache=3))
    with pytest.raises(DataError, match=r"20 x 10 = 200 pixels, expected at most 199 \(images.limit\); raise it"):
        images.load(data)
    assert cache.decoded.most == 3 * 2**20
    said = "from vlm.pictures import cache, images; print(images.limit(), cache.decoded.most)"
    started = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert started.stdout.split() == ["199", str(3 * 2**20)]
    images.use(PictureSection(limit=200))
    assert images.load(data).size == (20, 10)


def test_a_limit_above_pillows_lifts_it(settings_kept):
    """Pillow raises by itself beyond twice its bound: 89,478,485 pixels."""
    data = encoded(Image.new("1", (20_000, 10_000)))
    with pytest.raises(DataError, match="images.limit"):
        images.size(data)
    images.use(PictureSection(limit=200_000_000))
    assert images.size(data) == (20_000, 10_000)


def test_transparency_lies_over_black():
    rgba = Image.new("RGBA", (2, 1))
    rgba.putpixel((0, 0), (200, 100, 50, 0))  # the colour under full transparency must not show
    rgba.putpixel((1, 0), (200, 100, 50, 255))
    assert np.asarray(images.load(encoded(rgba)))[0].tolist() == [[0, 0, 0], [200, 100, 50]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    pixels = np.asarray(images.load(encoded(palette, transparency=0)))[0].tolist()
    assert pixels == [[0, 0, 0], [0, 255, 0]]


def test_decompression_bombs_are_errors(monkeypatch):
    data = encoded(Image.new("L", (20, 10)))
    for limit in (199, 99):  # Pillow itself would only warn at the first, and raise at the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for function in (images.load, images.size):
            with pytest.raises(DataError, match="200 pixels|20 x 10|exceeds limit"):
                function(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert images.size(data) == (20, 10)


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(DataError, match="gone.png: no such file"):
        images.load(str(tmp_path / "gone.png"))
    text = tmp_path / "notes.png"
    text.write_text("no image")
    with pytest.raises(DataError, match=r"notes\.png: cannot be read \(not an image file\)"):
        images.size(str(text))
    with pytest.raises(DataError, match="of 0 bytes"):
        images.size(b"")


PNG, JPEG = (encoded(Image.effect_noise((16, 16), 60), format) for format in ("PNG", "JPEG"))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([PNG, JPEG]), st.integers(0, 600), st.integers(0, 255))
def test_damaged_files_give_a_picture_or_a_data_error(data, position, value):
    damaged = bytearray(data)
    damaged[position % len(data)] = value
    with contextlib.suppress(DataError):
        assert images.load(bytes(damaged)).size == images.size(bytes(damaged))
