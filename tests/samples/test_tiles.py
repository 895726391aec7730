"""Large scenes cut into tiles: which tiles, which objects, which pixels; and runs that are stopped."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from samples import Faults, read
from samples.tiles import classes, cut, manifest, names
from samples.tiles.cutting import PRESETS, Cutting
from samples.tiles.names import Tile
from samples.tiles.objects import CUT, DIFFICULT, PLAIN, Labelled, Scattered
from samples.tiles.scenes import PICTURES, Scene, annotated, scenes
from samples.tiles.windows import scaled, starts, windows
from vlm.common.errors import DataError, RecipeError, UserError
from vlm.pictures import images
from vlm.sections import RasterSection, StretchSection

SMALL = Cutting(size=112, gap=32)
NO_GAP = Cutting(size=100, gap=0, filled=0.0)


def scene_file(folder: Path, name: str, size: tuple[int, int], seed: int = 0) -> Path:
    """A picture in which no two places look alike."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.fixture
def dota(tmp_path) -> Path:
    """Two scenes in DOTA's layout: P1 of 300 x 220 pixels, P2 smaller than a tile."""
    scene_file(tmp_path / "DOTA/images", "P1.png", (300, 220))
    scene_file(tmp_path / "DOTA/images", "P2.png", (90, 70), 1)
    labels = tmp_path / "DOTA/labelTxt"
    labels.mkdir()
    (labels / "P1.txt").write_text(
        "imagesource:GoogleEarth\ngsd:0.1\n"
        "10 10 40 10 40 30 10 30 plane 0\n"
        "100 20 100 60 130 60 130 20 small-vehicle 0\n"  # the other way round
        "200 150 260 150 260 190 200 190 ship 1\n"
    )
    (labels / "P2.txt").write_text("5 5 20 5 20 20 5 20 plane 0\n")
    return tmp_path / "DOTA"


def same(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def cut_dota(folder: Path, out: Path, cutting: Cutting = SMALL, **more):
    return cut.cut(scenes(folder, classes=cutting.classes), out, cutting, str(folder), True, **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# which tiles


def test_tiles_of_a_scene_by_hand():
    """300 x 220: every 112 - 32 = 80 pixels; the last of each row and column is moved back to end with the scene."""
    assert starts(300, SMALL) == [0, 80, 160, 188] and starts(220, SMALL) == [0, 80, 108]
    assert starts(112, SMALL) == starts(50, SMALL) == [0] and starts(113, SMALL) == [0, 1]
    assert starts(192, SMALL) == [0, 80]  # fits: 80 + 112 = 192
    found = windows("a", (300, 220), SMALL)
    assert [(tile.x, tile.y) for tile in found[:5]] == [(0, 0), (80, 0), (160, 0), (188, 0), (0, 80)]
    assert len(found) == 12 and all(tile.scene == "a" and tile.rate == 1 for tile in found)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(8, 120), st.data())
def test_tiles_cover_the_scene(width, height, size, data):
    cutting = Cutting(size=size, gap=data.draw(st.integers(0, size - 1)), filled=0.0)
    for side in (width, height):
        found = starts(side, cutting)
        assert found[0] == 0 and (found[-1] + size == side or (side <= size and found == [0]))
        assert all(0 < after - before <= cutting.step for before, after in pairwise(found))
    assert len(windows("a", (width, height), cutting)) == len(starts(width, cutting)) * len(starts(height, cutting))


def test_share_of_a_tile_in_the_scene():
    """90 x 70 fills 50% of a tile of 112², but is all there is; at another scale it is not the fullest."""
    assert [tile.name for tile in windows("a", (90, 70), SMALL)] == ["a__1__0___0"]
    both = Cutting(size=112, gap=32, rates=[0.5, 1.0])
    assert [tile.rate for tile in windows("a", (90, 70), both)] == [1.0]
    # at 0.5: 150 x 110, all filled but for two rows of 112, at 1 all
    assert [tile.rate for tile in windows("a", (300, 220), both)].count(0.5) == 2
    assert scaled((301, 220), 0.5) == (150, 110) and scaled((100, 100), 0.29) == (29, 29)


def test_presets():
    rscovlm, mmrotate = PRESETS["rscovlm_512"], PRESETS["mmrotate_1024"]
    assert (rscovlm.size, rscovlm.gap) == (512, 100) and (mmrotate.size, mmrotate.gap) == (1024, 200)
    assert (mmrotate.kept, mmrotate.filled, mmrotate.padding) == (0.7, 0.6, [124, 116, 104])  # BGR 104, 116, 124


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gap": 512}, "0 ≤ gap < size"),
        ({"rates": []}, "expected scales"),
        ({"rates": [1.0, 1.0]}, "each once"),
        ({"rates": [1 / 3]}, "6 digits"),
        ({"kept": 1.2}, "kept = 1.2"),
        ({"padding": [1, 2]}, "red, green, blue"),
        ({"classes": []}, "classes is empty"),
    ],
)
def test_impossible_ways_to_cut(wrong, said):
    with pytest.raises(ValueError, match=said):
        Cutting(**wrong)


@given(
    st.text(min_size=1, max_size=8).filter(lambda text: "\0" not in text),
    st.sampled_from([0.25, 0.5, 1.0, 1.5, 0.333333]),
    st.integers(0, 10**5),
    st.integers(0, 10**5),
    st.lists(st.floats(-1e4, 1e4), min_size=8, max_size=8),
)
def test_names_say_where_a_tile_lies(scene, rate, x, y, points):
    tile = Tile(scene, rate, x, y)
    assert names.parse(tile.name) == tile
    assert tile.out(tile.into(points)) == pytest.approx(points, abs=1e-6)


def test_names_of_others():
    assert names.parse("P0706__1__412___824") == Tile("P0706", 1.0, 412, 824)
    assert names.parse("a__b__0.5__8___9") == Tile("a__b", 0.5, 8, 9)
    assert names.parse("P0706__1024__824___0") == Tile("P0706", 1.0, 824, 0)  # mmrotate's: the window's size
    assert Tile("P0706", 0.5, 100, 40).out([0, 0, 10, 20]) == [200, 80, 220, 120]
    assert all(names.parse(name) is None for name in ("P0706", "P0706__1__4", "P__0__1___2", "P__1__-4___2", ""))


def test_class_lists():
    assert len(classes.named("dota-1.0")) == 15 and len(classes.named("DOTA-2.0")) == 18
    assert classes.named("small-vehicle, Plane") == ["plane", "small vehicle"]
    for wrong in ("", "plane,,ship", "plane,Plane", "1"):
        with pytest.raises(RecipeError, match="--classes"):
            classes.named(wrong)


# which objects


def box(x1, y1, x2, y2, label="ship", difficult=PLAIN) -> Labelled:
    return Labelled([x1, y1, x2, y1, x2, y2, x1, y2], label, difficult)


def test_objects_of_a_tile_by_hand():
    """A tile of 100 x 100 at x = 100: objects of which 75%, 67.5%, exactly 70% and all lie inside."""
    objects = [
        box(90, 10, 130, 20),  # 30 of 40
        box(87, 30, 127, 40),  # 27 of 40
        box(97, 50, 107, 60),  # 7 of 10
        box(120, 70, 140, 80),
        box(120, 85, 140, 95, difficult=DIFFICULT),
        box(195, 40, 198, 45, difficult=DIFFICULT),
        box(199, 40, 202, 45, difficult=DIFFICULT),  # a third
        box(0, 0, 10, 10),
        box(80, 0, 100, 10),  # touches
    ]
    found = Scattered(objects).of(Tile("a", 1.0, 100, 0), (100, 100), 0.7)
    assert {n: one.difficult for n, one in found.items()} == {0: CUT, 2: CUT, 3: PLAIN, 4: DIFFICULT, 5: DIFFICULT}
    assert found[0].quad == [-10, 10, 30, 10, 30, 20, -10, 20]  # uncut
    assert found[3].line == "20 70 40 70 40 80 20 80 ship 0"
    half = Scattered(objects).of(Tile("a", 0.5, 0, 0), (100, 100), 0.7)
    assert half[3].quad == [60, 35, 70, 35, 70, 40, 60, 40] and not Scattered([]).of(Tile("a", 1, 0, 0), (9, 9), 0)


def test_share_of_a_tilted_object():
    """A square on its tip, centre on the edge: exactly half of it is inside."""
    diamond = Labelled([100, 40, 110, 50, 100, 60, 90, 50], "plane")
    assert Scattered([diamond]).shares([100, 0, 200, 100]) == pytest.approx([0.5])
    assert Scattered([diamond]).shares([90, 40, 110, 60]) == [1.0]


def area_twice(quad) -> float:
    points = list(zip(quad[::2], quad[1::2], strict=True))
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True))


@given(st.lists(st.tuples(st.floats(5, 95), st.floats(5, 95), st.floats(2, 9), st.floats(0, 6.3), st.booleans())))
def test_quads_of_a_tile_go_one_way(drawn):
    """The published fault: rows of one tile whose corners go in two directions."""
    objects = []
    for x, y, r, angle, turned in drawn:
        turns = [angle + n * np.pi / 2 * (-1 if turned else 1) for n in range(4)]
        objects.append(Labelled([v for t in turns for v in (x + r * np.cos(t), y + r * np.sin(t))], "ship"))
    found = Scattered(objects).of(Tile("a", 1.0, 0, 0), (100, 100), 0.7)
    for one in found.values():
        assert area_twice(one.quad) > 0  # y points down: clockwise as seen
        assert one.quad[1] == min(one.quad[1::2])
    assert len(found) == len(objects) or any(min(x, y, 100 - x, 100 - y) < 9 for x, y, *_ in drawn)


# which pixels


def test_tiles_on_disk(dota, tmp_path):
    out = tmp_path / "tiles"
    counts = cut_dota(dota, out)
    assert (counts.scenes, counts.tiles, counts.objects, counts.away) == (2, 13, 4, 0)
    whole = Image.open(dota / "images/P1.png")
    for tile in windows("P1", (300, 220), SMALL):
        area = (tile.x, tile.y, tile.x + 112, tile.y + 112)
        assert same(Image.open(out / f"images/{tile.name}.png"), whole.crop(area))
    small = Image.open(out / "images/P2__1__0___0.png")
    assert small.size == (112, 112) and small.getpixel((100, 5)) == small.getpixel((5, 100)) == (124, 116, 104)
    assert same(small.crop((0, 0, 90, 70)), Image.open(dota / "images/P2.png"))
    assert (out / "annfiles/P1__1__80___0.txt").read_text() == "20 20 50 20 50 60 20 60 small-vehicle 0\n"
    assert (out / "annfiles/P1__1__0___80.txt").read_text() == ""
    assert not list(out.rglob("*.part"))


def test_tiles_read_back(dota, tmp_path):
    """By the format `dota`: each tile is a row, those without objects too."""
    out = tmp_path / "tiles"
    cut_dota(dota, out)
    rows = {sample.id: sample for sample in read(out, "dota")}
    assert len(rows) == 13 and all(row.task == "detection" and row.size == (112, 112) for row in rows.values())
    assert rows["P1__1__188___80"].labels == ["ship"] and rows["P1__1__188___80"].difficult == [True]
    assert rows["P1__1__188___80"].quads == [[12, 70, 72, 70, 72, 110, 12, 110]]
    assert rows["P1__1__0___80"].boxes == [] and rows["P1__1__0___80"].classes == ["plane", "ship", "small vehicle"]


def test_no_padding_no_empty_tiles_some_classes(dota, tmp_path):
    cutting = Cutting(size=112, gap=32, padding=None, empty=False, classes=["plane"])
    counts = cut_dota(dota, tmp_path / "tiles", cutting)
    found = sorted(path.name for path in (tmp_path / "tiles/images").iterdir())
    assert found == ["P1__1__0___0.png", "P2__1__0___0.png"] and counts.left_out == 11
    assert Image.open(tmp_path / "tiles/images/P2__1__0___0.png").size == (90, 70)
    assert {name for name, _ in manifest.read(tmp_path / "tiles").tiles()} == {name[:-4] for name in found}


@pytest.mark.parametrize("rate", [0.5, 1.5, 0.7])
def test_other_scales(rate, tmp_path):
    """A tile shows what scaling the whole scene and cutting it would show."""
    smooth = np.add.outer(np.sin(np.arange(220) / 9), np.cos(np.arange(300) / 7)) * 60 + 128
    Image.fromarray(smooth.astype(np.uint8)).convert("RGB").save(tmp_path / "a.png")
    cutting = Cutting(size=64, gap=16, rates=[rate])
    (scene,) = scenes(tmp_path)
    width, height = scaled((300, 220), rate)
    box = (0, 0, width / rate, height / rate)
    whole = Image.open(tmp_path / "a.png").resize((width, height), Image.Resampling.BICUBIC, box=box)
    for tile, picture in cut.pictures(scene, windows("a", (300, 220), cutting), cutting):
        area = (tile.x, tile.y, min(tile.x + 64, width), min(tile.y + 64, height))
        expected = np.asarray(whole.crop(area), dtype=int)
        difference = np.abs(np.asarray(picture)[: expected.shape[0], : expected.shape[1]] - expected)
        assert difference.max() <= 2 and difference.mean() < 0.1  # Pillow counts the edges in single precision


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_large_scenes_are_read_in_parts(name, tmp_path, monkeypatch):
    """What counts as large is read by windows, strip by strip; the pixels are those of the whole."""
    pytest.importorskip("rasterio")
    scene_file(tmp_path / "scenes", name, (300, 220))
    (scene,) = scenes(tmp_path / "scenes")
    tiles = windows("a", scene.size, SMALL)
    expected = [np.asarray(picture) for _, picture in cut.pictures(scene, tiles, SMALL)]
    boxes = []
    window = images.window
    monkeypatch.setattr(images, "window", lambda image, box: boxes.append(box) or window(image, box))
    monkeypatch.setattr(images, "LARGE", 2**10)
    monkeypatch.setattr(cut, "STRIP", 200 * 112)
    found = [np.asarray(picture) for _, picture in cut.pictures(scene, tiles, SMALL)]
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert len(boxes) == 6 and all((x2 - x1) * (y2 - y1) <= 200 * 112 for x1, y1, x2, y2 in boxes)
    boxes.clear()
    monkeypatch.setattr(cut, "STRIP", 300 * 200)  # two rows of tiles, then one
    list(cut.pictures(scene, tiles, SMALL))
    assert boxes == [(0, 0, 300, 192), (0, 108, 300, 220)]


def test_a_jpeg_scene(tmp_path, monkeypatch):
    """Decoded whole or in parts; there, decoders differ a little where colours are stored at half the resolution."""
    pytest.importorskip("rasterio")
    smooth = np.add.outer(np.sin(np.arange(220) / 9), np.cos(np.arange(300) / 7)) * 60 + 128
    Image.fromarray(smooth.astype(np.uint8)).convert("RGB").save(tmp_path / "a.jpg")
    (scene,) = scenes(tmp_path)
    tiles = windows("a", scene.size, SMALL)
    whole = [np.asarray(picture, dtype=float) for _, picture in cut.pictures(scene, tiles, SMALL)]
    assert np.array_equal(whole[0], np.asarray(Image.open(tmp_path / "a.jpg").crop((0, 0, 112, 112))))
    monkeypatch.setattr(images, "LARGE", 2**10)
    parts = [np.asarray(picture, dtype=float) for _, picture in cut.pictures(scene, tiles, SMALL)]
    assert all(np.abs(a - b).mean() < 1 for a, b in zip(whole, parts, strict=True))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rasters_are_shown_as_declared(tmp_path):
    """16 bits and four bands: `raster` says what is seen, also to the manifest."""
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(0, 3000, (4, 60, 90), dtype=np.uint16)
    (tmp_path / "scenes").mkdir()
    profile = {"driver": "GTiff", "width": 90, "height": 60, "count": 4, "dtype": "uint16"}
    with rasterio.open(tmp_path / "scenes/a.tif", "w", **profile) as file:
        file.write(values)
    raster = RasterSection(bands=[3, 2, 1], stretch=StretchSection(range=[0, 3000]))
    cutting = Cutting(size=50, gap=10, raster=raster)
    with pytest.raises(DataError, match="raster"):
        list(scenes(tmp_path / "scenes"))
    found = scenes(tmp_path / "scenes", raster=raster)
    cut.cut(found, tmp_path / "tiles", cutting, "scenes", False)
    tile = np.asarray(Image.open(tmp_path / "tiles/images/a__1__40___10.png"))
    assert (tile[..., 0] == np.round(values[2, 10:60, 40:90] / 3000 * 255)).all()
    assert manifest.read(tmp_path / "tiles").cutting.raster == raster


# folders and runs


def test_pictures_alone(dota, tmp_path):
    (dota / "labelTxt").rename(tmp_path / "away")
    assert not annotated(dota) and not annotated(dota / "images") and annotated(dota, "dota")
    for place in (dota, dota / "images"):
        found = list(scenes(place))
        assert [(one.name, one.size, one.objects) for one in found] == [
            ("P1", (300, 220), None),
            ("P2", (90, 70), None),
        ]
    counts = cut.cut(scenes(dota), tmp_path / "tiles", SMALL, "test", False)
    assert counts.tiles == 13 and (tmp_path / "tiles/annfiles/P1__1__0___0.txt").read_text() == ""


def test_other_formats_of_detection(tmp_path):
    """Our own rows: boxes along the axes become quadrilaterals."""
    scene_file(tmp_path, "a.png", (200, 100))
    row = {
        "images": ["a.png"], "task": "detection", "boxes": [[10, 20, 30, 40]], "labels": ["storage tank"],
        "classes": ["plane", "storage tank"], "messages": [{"role": "user", "content": "plane, storage tank"}],
    }  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    cut.cut(scenes(tmp_path / "rows.jsonl"), tmp_path / "tiles", NO_GAP, "rows", True)
    text = (tmp_path / "tiles/annfiles/a__1__0___0.txt").read_text()
    assert text == "10 20 30 20 30 40 10 40 storage-tank 0\n"


def test_scenes_that_cannot_be_cut(dota, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(scenes(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        list(scenes(tmp_path / "empty"))
    with pytest.raises(DataError, match="no picture to cut"):
        list(scenes(tmp_path / "empty", PICTURES))
    scene_file(dota / "images", "P1.jpg", (30, 22))
    with pytest.raises(DataError, match=r"two scenes are called P1: .*P1\.jpg and .*P1\.png"):
        list(scenes(dota, PICTURES))
    (dota / "images/P1.jpg").unlink()
    labels = dota / "labelTxt/P1.txt"
    labels.write_text(labels.read_text() + "1 2 3 plane 0\n")
    with pytest.raises(DataError, match=r"P1\.txt, line 6"):
        list(scenes(dota))
    assert [len(scene.objects) for scene in scenes(dota, on_fault="skip")] == [3, 1]
    row = {"images": ["images/P1.png"], "task": "vqa", "answer": "yes", "messages": [{"role": "user", "content": "a?"}]}
    (dota / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="is of the task vqa, expected detection"):
        list(scenes(dota / "rows.jsonl"))


def test_second_run_continues(dota, tmp_path):
    out = tmp_path / "tiles"
    cut_dota(dota, out)
    before = contents(out)
    times = {name: (out / name).stat().st_mtime_ns for name in before}
    assert cut_dota(dota, out).earlier == 2
    assert contents(out) == before and {name: (out / name).stat().st_mtime_ns for name in before} == times
    scene_file(dota / "images", "P3.png", (50, 40), 2)
    (dota / "labelTxt/P3.txt").write_text("")
    counts = cut_dota(dota, out)  # one more scene
    assert (counts.earlier, counts.scenes) == (2, 3) and (out / "images/P3__1__0___0.png").exists()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("at", [1, 5, 13])
def test_a_stopped_run_goes_on(dota, tmp_path, monkeypatch, at, workers):
    """Killed while it writes a tile: no half file, no scene noted that is not whole; then the same bytes."""
    cut_dota(dota, tmp_path / "whole")
    out, saved, save = tmp_path / "tiles", [], Image.Image.save

    def dies(self, *given, **more):
        saved.append(self)
        if len(saved) == at:
            raise KeyboardInterrupt
        save(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            cut_dota(dota, out, workers=workers)
    assert not list(out.rglob("*.part")) and set(manifest.read(out).done) == ({"P1"} if at == 13 else set())
    with (out / manifest.SCENES).open("a") as file:
        file.write('{"scene": "P2", "si')  # as after a power cut
    cut_dota(dota, out, workers=workers)
    assert contents(out) == contents(tmp_path / "whole")


def test_what_cannot_be_continued_is_refused(dota, tmp_path):
    out = tmp_path / "tiles"
    cut_dota(dota, out)
    with pytest.raises(UserError, match=r"cut\.json: was cut otherwise \(gap = 32, now 30\)"):
        cut_dota(dota, out, Cutting(size=112, gap=30))
    with pytest.raises(UserError, match="source = .*, now elsewhere; without annotations|now the other way"):
        cut.cut([], out, SMALL, "elsewhere", False)
    scene_file(dota / "images", "P2.png", (90, 71), 1)
    with pytest.raises(UserError, match="the picture of P2 changed"):
        cut_dota(dota, out)
    scene_file(dota / "images", "P2.png", (90, 70), 1)
    (dota / "labelTxt/P2.txt").write_text("5 5 20 5 20 20 5 21 plane 0\n")
    with pytest.raises(UserError, match="the objects of P2 changed"):
        cut_dota(dota, out)
    (dota / "labelTxt/P2.txt").unlink()
    with pytest.raises(UserError, match="has tiles of P2, which .* no longer has"):
        cut_dota(dota, out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt and no cut\.json"):
        cut_dota(dota, other)
    (out / "cut.json").write_text('{"version": 1}')
    with pytest.raises(DataError, match="found no manifest of tiles"):
        manifest.read(out)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.7, 1.0]))
def test_each_object_is_in_a_tile_or_noted(seed, kept):
    """Kept in every tile that holds its share, in none that does not; what is in no tile is counted."""
    rng = np.random.default_rng(seed)
    objects = []
    for _ in range(10):
        x, y, w, h = *rng.uniform(0, 250, 2), *rng.uniform(2, 60, 2)
        objects.append(box(x, y, min(x + w, 299.0), min(y + h, 219.0)) if y + 2 < 219 else box(1, 1, 5, 5))
    cutting = Cutting(size=64, gap=16, kept=kept)
    assume(all(one.quad[2] > one.quad[0] and one.quad[5] > one.quad[1] for one in objects))
    path = Path(__file__)  # its bytes are noted, its pixels not read
    chosen, done = cut.planned(Scene("a", str(path), (300, 220), objects), cutting)
    there = set()
    for tile, inside in chosen:
        for one in objects:
            x1, y1, x2, y2 = one.quad[0], one.quad[1], one.quad[4], one.quad[5]
            w = max(0, min(x2, tile.x + 64) - max(x1, tile.x))
            h = max(0, min(y2, tile.y + 64) - max(y1, tile.y))
            share = w * h / ((x2 - x1) * (y2 - y1))
            if abs(share - kept) > 1e-9 or share == 1:
                shifted = pytest.approx(tile.into(one.quad), abs=1e-9)
                assert any(other.quad == shifted for other in inside) == (share >= kept)
                there |= {objects.index(one)} if share >= kept else set()
    assert done.kept == sum(len(inside) for _, inside in chosen)
    assert there.isdisjoint(done.away)


def test_pictures_without_an_annotation_are_said(dota, tmp_path):
    """Not cut, so that no submission would have them."""
    (dota / "labelTxt/P2.txt").unlink()
    faults = Faults()
    assert [scene.name for scene in scenes(dota, faults=faults)] == ["P1"]
    (said,) = [text for _, text in faults.notes]
    assert said == f"{dota / 'images'}: 1 pictures have no annotation and are not cut, such as P2.png"
