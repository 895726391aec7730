"""Answers about tiles, merged into a submission of whole scenes."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import predictions
from evals.merging import submission, suppression
from evals.merging.merge import merge, suppress, task_of
from evals.merging.shifting import Placed, from_seam, shift, tile_of
from evals.merging.suppression import suppressed, suppressed_one_by_one
from evals.predictions import Prediction
from evals.recipe import EvalRecipe
from evals.scoring.reading import Reading
from samples.tiles import cut, manifest
from samples.tiles.cutting import Cutting
from samples.tiles.names import Tile
from samples.tiles.objects import Labelled
from samples.tiles.scenes import Scene
from stage.recipe import config
from vlm.boxes import hull, quad_from_obb, quad_iou, write_detections
from vlm.common.errors import DataError, UserError

QUADS = Reading("rscovlm_quad", "text")
CLASSES = ["plane", "small vehicle"]
CUTTING = Cutting(size=112, gap=32)


def answer(name: str, said: str, classes=CLASSES, **more) -> Prediction:
    """What was said of a tile of 112 x 112 pixels, which the model saw as it is."""
    more = {"boxes": [], "labels": [], "size": (112, 112), "resized": (112, 112)} | more
    return Prediction(name, "tiles", "detection", said, classes=classes, **more)


def placed(number: int, quad, label="ship", scene="a") -> Placed:
    return Placed(scene, label, list(quad), "tile", (0, 1, 0, 0, number))


def square(x, y, side=10) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


# suppression


def test_suppression_by_hand():
    """Of three squares in a row, each half over the next (IoU 1/3), the first and the third stay; IoU 1/9 > 0.1."""
    row = [square(0, 0), square(5, 0), square(10, 0), square(40, 0)]
    assert suppressed(row) == suppressed_one_by_one(row) == [0, 2, 3]
    assert suppressed([row[1], row[0], row[2]]) == [0]
    assert suppressed([square(0, 0), square(8, 0)]) == [0] and suppressed([square(0, 0), square(8, 0)], 0.2) == [0, 1]
    ninth = [square(0, 0), square(8, 0)]  # 20 / 180
    assert suppressed(ninth, 20 / 180) == suppressed_one_by_one(ninth, 20 / 180) == [0, 1]  # not above it
    assert suppressed([]) == suppressed_one_by_one([]) == []
    assert suppressed([[0, 0, 10, 10], [0, 0, 10, 10]]) == [0]


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([0.0, 0.1, 0.5]), st.booleans())
def test_fast_suppression_is_the_plain_one(seed, count, threshold, upright):
    rng = np.random.default_rng(seed)
    quads = [quad_from_obb(*rng.uniform(0, 60, 2), *rng.uniform(1, 30, 2), rng.uniform(0, 180)) for _ in range(count)]
    shapes = [hull(quad) for quad in quads] if upright else quads
    before = suppression.BLOCK
    try:
        suppression.BLOCK = 7
        assert suppressed(shapes, threshold) == suppressed_one_by_one(shapes, threshold)
    finally:
        suppression.BLOCK = before


def test_suppression_keeps_classes_and_scenes_apart():
    quad = square(0, 0)
    one = [placed(0, quad), placed(1, quad), placed(2, quad, "plane"), placed(3, quad, scene="b")]
    assert [(kept.rank[-1], kept.scene) for kept in suppress(one, 1, 0.1)] == [(2, "a"), (0, "a"), (3, "b")]
    # thin and crossing: 10 x 1 each; their boxes are one and the same
    cross = [placed(0, [0, 0, 1, 0, 10, 9, 9, 9]), placed(1, [9, 0, 10, 0, 1, 9, 0, 9])]
    assert len(suppress(cross, 1, 0.1)) == 2 and len(suppress(cross, 2, 0.1)) == 1


# shifting


def test_shifting_by_hand():
    rows = [
        answer("a__1__80___0", "10,20,30,20,30,40,10,40 plane\n"),
        answer("a__0.5__0___40", "0,0,10,0,10,10,0,10 small vehicle\n50,50,60,50,60,60,50,60 Small-Vehicle\n"),
        answer("b__1024__200___0", "There are none."),
        answer("b__1024__0___0", "I see no objects."),
    ]
    found = shift(rows, QUADS, "file")
    assert [one.quad for one in found.objects] == [
        [90, 20, 110, 20, 110, 40, 90, 40],
        [0, 80, 20, 80, 20, 100, 0, 100],
        [100, 180, 120, 180, 120, 200, 100, 200],
    ]
    assert [one.label for one in found.objects] == ["plane", "small vehicle", "small vehicle"]
    assert (found.scenes, found.tiles, found.unreadable) == (2, 4, 1) and found.repairs["spelling"] == 1


def test_sizes_that_were_drawn():
    """Answers in pixels of the picture as the model saw it, twice as large."""
    row = answer("a__1__80___0", "20,40,60,40,60,80,20,80 plane\n", resized=(224, 224))
    assert shift([row], QUADS, "file").objects[0].quad == [90, 20, 110, 20, 110, 40, 90, 40]


def test_corners_go_one_way():
    there, back = "10,20,30,20,30,40,10,40 plane\n", "10,40,30,40,30,20,10,20 plane\n"
    rows = [answer("a__1__0___0", there), answer("b__1__0___0", back)]
    first, second = shift(rows, QUADS, "file").objects
    assert first.quad == second.quad == [10, 20, 30, 20, 30, 40, 10, 40]


def test_labels_of_no_class_are_left_out_and_counted():
    row = answer("a__1__0___0", "10,20,30,20,30,40,10,40 windmill\n10,20,30,20,30,40,10,40 plane\n")
    found = shift([row], QUADS, "file")
    assert [one.label for one in found.objects] == ["plane"] and found.unnamed == {"windmill": 1}


def test_distance_from_a_seam():
    """A scene of 300 x 220; the tile's right and lower edges are seams, its left and upper ones the scene's."""
    assert from_seam([10, 10, 30, 30], [0, 0, 112, 112], (300, 220)) == 82
    assert from_seam([100, 10, 115, 30], [0, 0, 112, 112], (300, 220)) == -3
    assert from_seam([200, 120, 300, 200], [188, 108, 300, 220], (300, 220)) == 12
    assert from_seam([0, 0, 90, 70], [0, 0, 112, 112], (90, 70)) == np.inf
    # at half the size, 301 pixels are 150: the tile that ends at 300 ends with the scene
    assert from_seam([200, 0, 299, 70], [100, 0, 300, 200], (301, 200), pixel=2) == 100
    assert from_seam([200, 0, 297, 70], [100, 0, 298, 200], (301, 200), pixel=2) == 1


def test_of_two_answers_the_one_far_from_its_seam_stays():
    """Cut off at x = 112 by the first tile, whole in the second, whatever their order."""
    half = answer("a__1__0___0", "90,20,112,20,112,60,90,60 plane\n")
    whole = answer("a__1__80___0", "10,20,62,20,62,60,10,60 plane\n")
    for rows in ([half, whole], [whole, half]):
        (kept,) = suppress(shift(rows, QUADS, "file", {"a": (300, 220)}).objects, 1, 0.1)
        assert kept.quad == [90, 20, 142, 20, 142, 60, 90, 60] and kept.tile == "a__1__80___0"


def test_rows_that_are_no_tiles():
    good = answer("a__1__0___0", "")
    assert tile_of(replace(good, id="3", image="/x/a__1__8___9.png"), "file") == Tile("a", 1.0, 8, 9)
    for wrong, said in (
        (replace(good, id="P0001", image="/x/P0001.png"), "found 'P0001' and 'P0001', expected the name of a tile"),
        (replace(good, task="vqa"), "is of the task vqa, expected detection"),
        (replace(good, classes=None), "has no classes"),
    ):
        with pytest.raises(DataError, match=said):
            shift([wrong], QUADS, "file")
    other = replace(good, id="a__1024__0___0", size=(1024, 1024))  # mmrotate's at two sizes
    assert shift([replace(good, id="a__112__0___0"), other], QUADS, "file").tiles == 2
    with pytest.raises(DataError, match="a__1__0___0 was asked twice"):
        shift([good, replace(good, source="more")], QUADS, "file")


# cut, then merge


def scattered(seed: int) -> list[Labelled]:
    """Tilted objects of two classes in a scene of 300 x 220; none of a class overlaps another."""
    rng = np.random.default_rng(seed)
    objects = []
    for x in range(0, 300, 50):
        for y in range(0, 200, 50):
            if rng.random() < 0.7:
                side, other = rng.uniform(12, 30, 2)
                middle = rng.uniform(22, 27, 2) + (x, y)
                quad = quad_from_obb(*middle, side, other, rng.uniform(-90, 90))
                if rng.random() < 0.5:  # the other way round
                    quad = [value for n in (6, 4, 2, 0) for value in quad[n : n + 2]]
                objects.append(Labelled(quad, str(rng.choice(CLASSES))))
    return objects


def told(scene: Scene, cutting: Cutting) -> list[Prediction]:
    """The truth of each tile as a perfect model writes it, seen at eight times its size."""
    rows, size, seen = [], (cutting.size, cutting.size), (8 * cutting.size, 8 * cutting.size)
    for tile, inside in cut.planned(scene, cutting)[0]:
        quads, labels = [one.quad for one in inside], [one.label for one in inside]
        text = write_detections(quads, labels, "rscovlm_quad", size, seen, CLASSES)
        rows.append(answer(tile.name, text, size=size, resized=seen))
    return rows


@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 48, 60]), st.sampled_from([[1.0], [0.5, 1.0]]))
def test_cut_and_merged_is_the_truth(seed, gap, rates):
    """Each object that a tile has comes back once, where it was; one on a seam, too, and so does one that is seen
    at two scales."""
    cutting = Cutting(size=112, gap=gap, rates=rates)
    scene = Scene("a", __file__, (300, 220), scattered(seed))
    _, done = cut.planned(scene, cutting)
    kept = suppress(shift(told(scene, cutting), QUADS, "file", {"a": scene.size}).objects, 1, 0.1)
    expected = [one for n, one in enumerate(scene.objects) if n not in done.away]
    assert len(kept) == len(expected)
    for one in expected:
        overlaps = [quad_iou(one.quad, other.quad) for other in kept if other.label == one.label]
        assert max(overlaps) > 0.9 and sum(overlap > 0.1 for overlap in overlaps) == 1
    if gap >= 48 and rates == [1.0]:  # no object is longer than sqrt(2) * 30 = 42.4 pixels: some tile has all of it
        assert not done.away


# the files


def test_submission_by_hand(tmp_path):
    objects = [placed(0, [1.5, 2, 11, 2, 11, 8.256, 1.5, 8.256], "small vehicle"), placed(1, square(0, 0), "plane")]
    packed = submission.write(tmp_path, 1, objects, ["plane", "ship", "small vehicle"])
    line = "a 1.0 1.50 2.00 11.00 2.00 11.00 8.26 1.50 8.26\n"
    assert (tmp_path / "Task1/Task1_small-vehicle.txt").read_text() == line
    assert (tmp_path / "Task1/Task1_ship.txt").read_text() == ""
    with zipfile.ZipFile(packed) as file:
        assert file.namelist() == ["Task1_plane.txt", "Task1_ship.txt", "Task1_small-vehicle.txt"]
        assert file.read("Task1_small-vehicle.txt").decode() == line
    before = packed.read_bytes()
    assert submission.write(tmp_path, 1, objects, ["plane", "ship", "small vehicle"]).read_bytes() == before
    submission.write(tmp_path, 1, objects, ["plane", "small vehicle"])  # what an earlier merge left goes
    assert not (tmp_path / "Task1/Task1_ship.txt").exists()
    submission.write(tmp_path, 2, objects, ["plane", "small vehicle"])
    assert (tmp_path / "Task2/Task2_small-vehicle.txt").read_text() == "a 1.0 1.50 2.00 11.00 8.26\n"


def test_scenes_whose_names_break_a_line(tmp_path):
    with pytest.raises(UserError, match="has a blank in its name"):
        submission.write(tmp_path, 1, [placed(0, square(0, 0), scene="a b")], ["ship"])


@pytest.fixture
def evaluated(tmp_path) -> Path:
    """The folder of an evaluation of one scene's tiles, all answered by the truth."""
    tiles = tmp_path / "tiles"
    objects = [Labelled(square(100, 20, 40), "plane"), Labelled(square(10, 150, 30), "small vehicle")]
    (tmp_path / "a.txt").write_text("stands for the scene's file")
    scene = Scene("a", str(tmp_path / "a.txt"), (300, 220), objects)
    manifest.begin(tiles, CUTTING, "scenes", True)
    manifest.append(tiles, cut.planned(scene, CUTTING)[1])
    folder = tmp_path / "answers"
    recipe = {
        "model": {"path": "m"}, "output": str(folder), "data": {"eval": [{"path": str(tiles), "format": "dota"}]},
        "prompt": {"style": "direct", "notation": "rscovlm_quad"}, "inside": "text",
    }  # fmt: skip
    config.save(config.build(recipe, EvalRecipe), folder / "recipe.yaml")
    predictions.write(folder / "predictions.jsonl", told(scene, CUTTING))
    return folder


def test_merging_a_folder(evaluated, tmp_path):
    found = merge(evaluated, tmp_path / "out")
    assert (found.task, found.tiles, found.scenes, found.objects, found.missing) == (1, 12, 1, 2, [])
    assert found.said > 2 and found.by_class == {"plane": 1, "small vehicle": 1}
    assert json.loads((tmp_path / "out/merge.json").read_text())["objects"] == 2
    (line,) = (tmp_path / "out/Task1/Task1_plane.txt").read_text().splitlines()
    assert [float(number) for number in line.split()[2:]] == pytest.approx(square(100, 20, 40), abs=0.1)
    assert merge(evaluated, tmp_path / "out", task=2).task == 2 and (tmp_path / "out/Task2.zip").exists()


def test_which_submission_is_written(evaluated):
    """Boxes make one of Task 2, other shapes one of Task 1; of both, somebody has to say it."""
    rows = predictions.read(evaluated / "predictions.jsonl")
    assert task_of(evaluated, rows, "rscovlm_quad") == 1 and task_of(evaluated, rows, "rscovlm") == 2
    with pytest.raises(UserError, match="--task 1 or 2"):
        task_of(evaluated, [*rows, replace(rows[0], written="rscovlm")], "rscovlm_obb")


def test_tiles_without_an_answer_are_refused(evaluated, tmp_path):
    rows = predictions.read(evaluated / "predictions.jsonl")
    predictions.write(evaluated / "predictions.jsonl", rows[:-1])
    with pytest.raises(UserError, match="1 tiles have no answer, such as a__1__188___108"):
        merge(evaluated, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = merge(evaluated, tmp_path / "out", partial=True)
    assert found.missing == ["a__1__188___108"] and "1 tiles without an answer" in str(found)


def test_unfinished_evaluations_are_refused(evaluated, tmp_path):
    (evaluated / "record.json").write_text(json.dumps({"asked": 20, "left_out": {"beyond limit": 3}}))
    with pytest.raises(UserError, match="3 beyond limit"):
        merge(evaluated, tmp_path / "out")


def test_folders_that_are_no_evaluation(evaluated, tmp_path):
    with pytest.raises(UserError, match="holds no predictions"):
        merge(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"holds no cut\.json"):
        merge(evaluated, tmp_path / "out", tiles=tmp_path)


def test_tiles_that_another_program_cut(evaluated, tmp_path, caplog):
    """No manifest: they are placed by their names, and that is said."""
    for file in (manifest.FILE, manifest.SCENES):
        (tmp_path / "tiles" / file).unlink()
    assert merge(evaluated, tmp_path / "out").objects == 2
    assert "placed by their names alone" in caplog.text


@pytest.mark.parametrize("name", ["car/truck", "x/../../evil", "a\\b"])
def test_a_class_cannot_lead_to_another_folder(tmp_path, name):
    (tmp_path / "out/Task1/Task1_x").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot name a file of a submission"):
        submission.write(tmp_path / "out", 1, [], ["plane", name])
    assert not list(tmp_path.rglob("*evil*"))
