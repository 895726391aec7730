"""vlm.pictures.cache: bounded in bytes, whatever the pictures' number and sizes."""

import io

import pytest
from PIL import Image

from samples import rows
from samples.sample import Sample
from tests.support.sights import resizing
from vlm.pictures import cache, images
from vlm.pictures.cache import PictureCache, decoded, weight
from vlm.sections import ImageSection, PromptSection


def made(side, counts, name):
    def make():
        counts.append(name)
        return Image.new("RGB", (side, side))

    return make


def test_the_weight_is_what_pillow_holds():
    assert [weight(Image.new(mode, (10, 4))) for mode in ("L", "RGB", "RGBA")] == [40, 160, 160]


def test_what_was_used_last_stays_and_the_bytes_stay_below_the_bound():
    """10² RGB take 400 bytes: two fit into 1,000, and of three the oldest goes."""
    cache, counts = PictureCache(1000), []
    for name in "ababcab":
        cache.get(name, made(10, counts, name))
    assert counts == ["a", "b", "c", "a", "b"] and (len(cache), cache.bytes) == (2, 800)
    cache.get("large", made(20, counts, "large"))  # 1,600 bytes: handed out, not kept, and nothing is thrown out for it
    assert counts[-1] == "large" and (len(cache), cache.bytes) == (2, 800)
    small = [cache.get(f"small {n}", made(1, counts, n)) for n in range(300)]
    assert len(small) == 300 and len(cache) == 250 and cache.bytes == 1000
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_no_room_keeps_nothing():
    cache, counts = PictureCache(0), []
    for _ in range(2):
        assert cache.get("a", made(10, counts, "a")).size == (10, 10)
    assert counts == ["a", "a"] and len(cache) == 0


@pytest.mark.parametrize("resized", [False, True])
def test_a_table_keeps_no_more_pictures_than_the_recipe_allows(tmp_path, monkeypatch, resized):
    monkeypatch.setattr(decoded, "most", 3 * 4 * 100 * 100)
    decoded.clear()
    samples = []
    for n in range(8):
        Image.new("RGB", (100, 100), (n, 0, 0)).save(tmp_path / f"{n}.png")
        samples.append(Sample([str(tmp_path / f"{n}.png")], [{"role": "user", "content": "x"}], "vqa", answer="y"))
    table = rows.prompt_rows(samples, PromptSection(), resizing(ImageSection()) if resized else None)
    for n in range(8):
        assert table[n]["images"][0].getpixel((0, 0)) == (n, 0, 0)
        assert decoded.bytes <= decoded.most
    assert len(decoded) == 3
    decoded.clear()


@pytest.mark.parametrize(("most", "decoded"), [(4 * 4 * 60 * 40, 1), (4 * 4 * 60 * 40 - 4, 3)])
def test_parts_of_a_picture_decode_it_once_where_a_quarter_of_the_cache_holds_it(monkeypatch, most, decoded):
    """60 x 40 pixels of four bytes each."""
    data = io.BytesIO()
    Image.effect_noise((60, 40), 50).convert("RGB").save(data, "png")
    loads, load = [], images.load
    monkeypatch.setattr(cache, "decoded", cache.PictureCache(most))
    monkeypatch.setattr(images, "load", lambda image: loads.append(image) or load(image))
    whole = load(data.getvalue())
    for box in ((0, 0, 10, 10), (20, 5, 60, 40), (3, 3, 4, 4)):
        assert images.window(data.getvalue(), box).tobytes() == whole.crop(box).tobytes()
    assert len(loads) == decoded


def test_a_part_of_a_rows_picture_decodes_nothing(tmp_path, monkeypatch):
    path = str(tmp_path / "row.png")
    Image.effect_noise((60, 40), 50).convert("RGB").save(path)
    decoded.clear()
    limits = ImageSection(min_pixels=28 * 28, max_pixels=112 * 112)
    resizing(limits).picture(path, 0, among=1)
    monkeypatch.setattr(images, "load", None)
    assert images.window(path, (5, 5, 20, 30)).size == (15, 25)
    decoded.clear()
