"""evals.scoring.detectors: DOTA submissions and COCO results against their truth, θ, and what does not fit."""

import argparse
import json
import zipfile

import numpy as np
import pytest

from evals.scoring.detecting import coco
from evals.scoring.detecting.pictures import Picture, pool
from evals.scoring.detectors import command, cut, results, submission
from evals.scoring.detectors.found import pictures
from evals.scoring.detectors.truth import read as read_truth
from tests.evals.detecting.scenes import NAMES, devkit_ap, devkit_points, scenes
from vlm.boxes import corners
from vlm.common.errors import DataError, UserError


def spelt(name):
    return name.replace(" ", "-")


def as_dota(folder, some, task=1):
    """Labels and a submission of these pictures."""
    labels, found = folder / "labelTxt", folder / f"Task{task}"
    labels.mkdir(parents=True)
    found.mkdir()
    for one in some:
        rows = zip(one.true, one.labels, one.difficult, strict=True)
        lines = [" ".join(map(repr, quad_of(shape))) + f" {spelt(name)} {int(hard)}" for shape, name, hard in rows]
        (labels / f"{one.key}.txt").write_text(
            "imagesource:GoogleEarth\ngsd:0.1\n" + "".join(f"{one}\n" for one in lines)
        )
    for name in NAMES:
        lines = [
            f"{one.key} {score} " + " ".join(map(repr, shape))
            for one in some
            for shape, label, score in zip(one.said, one.said_labels, one.scores, strict=True)
            if label == name
        ]
        (found / f"Task{task}_{spelt(name)}.txt").write_text("".join(f"{line}\n" for line in lines))
    return found, labels


def quad_of(shape):
    return shape if len(shape) == 8 else corners(shape)


def as_coco(folder, some, quads=False):
    """A COCO file and results; ids count from 1."""
    images = [{"id": number, "file_name": f"{one.key}.png"} for number, one in enumerate(some, 1)]
    ids = {name: number for number, name in enumerate(NAMES, 1)}
    annotations, found = [], []
    for number, one in enumerate(some, 1):
        for shape, name, hard in zip(one.true, one.labels, one.difficult, strict=True):
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[name], "iscrowd": int(hard)}
            annotations.append({**row, **shaped(shape, quads), "area": area(shape)})
        for shape, name, score in zip(one.said, one.said_labels, one.scores, strict=True):
            found.append({"image_id": number, "category_id": ids[name], "score": score, **shaped(shape, quads)})
    truth = {"images": images, "annotations": annotations}
    truth["categories"] = [{"id": number, "name": spelt(name)} for name, number in ids.items()]
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(found))
    return folder / "results.json", folder / "truth.json"


def shaped(shape, quads):
    if quads:
        return {"segmentation": [shape]}
    return {"bbox": [shape[0], shape[1], shape[2] - shape[0], shape[3] - shape[1]]}


def area(shape):
    return (shape[2] - shape[0]) * (shape[3] - shape[1]) if len(shape) == 4 else 1000.0


def score(*words, **more):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    arguments = parser.parse_args(["score", *map(str, words)])
    return arguments.run(arguments)


def values(report):
    return {name: one.value for name, one in report.metrics.items()}


def test_a_dota_submission_as_the_devkit_scores_it(tmp_path, capsys):
    some = scenes(11, 60)
    found, labels = as_dota(tmp_path, some)
    with zipfile.ZipFile(tmp_path / "Task1.zip", "w") as file:
        for path in found.iterdir():
            file.write(path, f"results/{path.name}")
    reports = score(found, "--truth", labels, "--out", tmp_path / "out")
    ours, again = values(reports["by score"]), values(score(tmp_path / "Task1.zip", "--truth", labels)["by score"])
    assert ours == again
    points = {name: devkit_points(some, name, 0.5) for name in NAMES}
    for kind, eleven in (("voc07", True), ("voc12", False)):
        theirs = {name: devkit_ap(recall, precision, eleven) for name, (recall, precision, _) in points.items()}
        for name, value in theirs.items():
            assert ours[f"detection/ap_{kind}@0.5[{name}]"] == pytest.approx(value, abs=1e-9)
        assert ours[f"detection/ap_{kind}@0.5"] == pytest.approx(np.mean(list(theirs.values())), abs=1e-9)
    low, high = reports["by score"].intervals["detection/ap_voc07@0.5"]
    assert low < ours["detection/ap_voc07@0.5"] < high
    stored = json.loads((tmp_path / "out/metrics.json").read_text())
    assert stored["by_score"]["detection/ap_voc07@0.5"]["value"] == ours["detection/ap_voc07@0.5"]
    assert "optimistic" in stored["theta"]["chosen"] and len(stored["theta"]["tried"]) == 20
    assert "| detection/ap_nc@0.5 |" in (tmp_path / "out/table.md").read_text()
    assert "optimistic" in capsys.readouterr().out


@pytest.mark.parametrize("quads", [False, True])
def test_coco_results(tmp_path, quads, capsys):
    """Boxes as pycocotools scores them, to which it was compared; polygons as the same shapes by hand."""
    some = scenes(12, 30, upright=not quads)
    found, truth = as_coco(tmp_path, some, quads)
    ours = values(score(found, "--truth", truth)["by score"])
    known = [Picture(**{**vars(one), "areas": [area(shape) for shape in one.true]}) for one in some]
    theirs = coco.summary(coco.match(pool(known)))
    for name, value in theirs.items():
        if not np.isnan(value):
            assert ours[f"detection/ap_coco{name[2:]}"] == pytest.approx(value, abs=1e-12)


def test_boxes_of_task_2_against_the_boxes_around_the_labels(tmp_path):
    some = scenes(13, 20, upright=True)
    found, labels = as_dota(tmp_path, some, task=2)
    ours = values(score(found, "--truth", labels)["by score"])
    theirs = [devkit_ap(*devkit_points(some, name, 0.5)[:2], True) for name in NAMES]
    assert ours["detection/ap_voc07@0.5"] == pytest.approx(np.mean(theirs), abs=1e-9)


def detector(noise, seed=0):
    """Twenty pictures with a ship each: found with the score 0.6; and `noise` wrong boxes with scores up to 0.3."""
    rng = np.random.default_rng(seed)
    ship, out = [50.0, 50.0, 90.0, 90.0], []
    for number in range(20):
        wrong = [[x, 200.0, x + 9, 209.0] for x in rng.uniform(0, 300, noise)]
        scores = [0.6, *np.round(rng.uniform(0.05, 0.3, noise), 3).tolist()]
        out.append(Picture(str(number), [ship], ["ship"], [False], [ship, *wrong], ["ship"] * (noise + 1), scores))
    return out


def test_the_threshold_is_the_argmax_and_no_key(tmp_path):
    """Published once as max({θ: AP}), which is the greatest θ: there this detector would keep nothing."""
    chosen = cut.choose(pool(detector(5)))
    assert chosen.theta == 0.3 and max(chosen.tried) == 0.95
    assert chosen.tried[0.3] == 1 and chosen.tried[0.95] == 0 and chosen.tried[0] < 0.5
    assert chosen.theta != max(chosen.tried)
    # above θ, not at it: all at 0.6 are gone at θ = 0.6
    assert chosen.tried[0.55] == 1 and chosen.tried[0.6] == 0
    kept = cut.cut(detector(5), 0.3)
    assert all(len(one.said) == 1 and one.scores is None for one in kept)


def test_theta_from_other_data(tmp_path, capsys):
    """Chosen where nothing is wrong, it is 0, and what is wrong elsewhere stays."""
    clean, dirty = tmp_path / "clean", tmp_path / "dirty"
    clean.mkdir()
    dirty.mkdir()
    here, there = as_coco(dirty, detector(5)), as_coco(clean, detector(0))
    best = score(here[0], "--truth", here[1])
    assert list(best)[1] == "s > 0.3" and values(best["s > 0.3"])["detection/ap_nc@0.5"] == 1
    assert (
        values(best["s > 0.3"])["detection/boxes_said"] == 1 and values(best["by score"])["detection/boxes_said"] == 6
    )
    other = score(here[0], "--truth", here[1], "--choose-on", *there)["s > 0"]
    assert values(other)["detection/ap_nc@0.5"] < 0.5
    said = other.metrics["detection/ap_nc@0.5"].convention
    assert "scores above θ = 0, chosen on" in said and "clean" in said and "optimistic" not in said
    stated = score(here[0], "--truth", here[1], "--theta", "0.5")["s > 0.5"]
    assert values(stated)["detection/precision@0.5"] == 1
    with pytest.raises(UserError, match="expected one of them"):
        score(here[0], "--truth", here[1], "--theta", "0.5", "--choose-on", *there)
    with pytest.raises(UserError, match="--theta 1: expected"):
        score(here[0], "--truth", here[1], "--theta", "1")


def test_mf1_over_the_scores(tmp_path):
    """At s >= 0, 0.1, 0.2 and 0.3 wrong ones are there, until 0.6 none, above it nothing."""
    some = detector(1)
    found, truth = as_coco(tmp_path, some)
    numbers = values(score(found, "--truth", truth)["by score"])
    precisions = [20 / (20 + sum(one.scores[1] >= theta for one in some)) for theta in (0, 0.1, 0.2, 0.3)]
    f1 = [2 * precision / (1 + precision) for precision in precisions] + [1.0] * 3 + [0.0] * 3
    assert numbers["detection/mf1"] == pytest.approx(np.mean(f1))
    assert numbers["detection/mf1:highest"] == 1
    assert numbers["detection/mf1:published"] == pytest.approx(np.mean(f1) / 2)


# --- what fits half


@pytest.fixture
def dota(tmp_path):
    return as_dota(tmp_path, [*scenes(14, 3), Picture("empty", [], [], [], [], [], [])])


@pytest.mark.parametrize(
    "line, told",
    [
        ("7 0.5 0 0 1 0 1 1 0 1", "line 1: found the picture '7', which the truth does not have"),
        ("000 1.5 0 0 1 0 1 1 0 1", "line 1: found the score 1.5, expected 0 to 1"),
        ("000 nan 0 0 1 0 1 1 0 1", "line 1: found .*, expected image, score and 8 numbers"),
        ("000 0.5 0 0 1 0 1 1 0", "line 1: found .*, expected image, score and 8 numbers"),
        ("000 0.5 0 0 1 0 1 1 0 x", "line 1: found .*, expected image, score and 8 numbers"),
        ("000", "line 1: found .*, expected image, score and 8 numbers"),
    ],
)
def test_lines_that_do_not_fit(dota, line, told):
    found, labels = dota
    (found / "Task1_ship.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=f"Task1_ship.txt, {told}"):
        score(found, "--truth", labels)


def test_files_that_do_not_fit(dota, tmp_path, capsys):
    found, labels = dota
    (found / "Task1_tank.txt").write_text("")
    with pytest.raises(
        DataError, match="Task1_tank.txt: found the class 'tank', expected one of the truth: plane, ship"
    ):
        score(found, "--truth", labels)
    (found / "Task1_tank.txt").rename(found / "Task1_Small_Vehicle.txt")
    with pytest.raises(DataError, match="found Task1_Small_Vehicle.txt and Task1_small-vehicle.txt, expected one file"):
        score(found, "--truth", labels)
    (found / "Task1_Small_Vehicle.txt").rename(found / "Task2_ship.txt")
    with pytest.raises(DataError, match="found files of both tasks"):
        score(found, "--truth", labels)
    (found / "Task2_ship.txt").unlink()
    (found / "Task1_ship.txt").unlink()
    score(found, "--truth", labels)
    assert "no file for ship: as if none was found" in capsys.readouterr().err
    with pytest.raises(DataError, match="no file of that name"):
        score(labels, "--truth", labels)
    (tmp_path / "no.zip").write_text("no zip")
    with pytest.raises(DataError, match=r"no.zip: cannot be read .*; expected a folder or a zip"):
        score(tmp_path / "no.zip", "--truth", labels)
    with pytest.raises(DataError, match="gone: not found; expected a DOTA folder of labels, or a COCO file"):
        score(found, "--truth", tmp_path / "gone")
    (labels / "000.txt").write_text("1 2 3 ship\n")
    with pytest.raises(DataError, match="000.txt, line 1"):
        score(found, "--truth", labels)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"image_id": 99}, "item 1, field 'image_id': found 99, which the truth does not know"),
        ({"category_id": 99}, "item 1, field 'category_id': found 99, which the truth does not know"),
        ({"score": 2}, "item 1, field 'score': found 2, expected 0 to 1"),
        ({"score": "high"}, "item 1, field 'score': found"),
        ({"bbox": [1, 2, 3]}, r"item 1, field 'bbox': found \[1, 2, 3\], expected 4 numbers"),
        ({"bbox": [1, 2, -3, 4]}, "item 1, field 'bbox': found .*, expected x, y, width, height"),
        ({"bbox": None}, "item 1, field 'bbox': found None, expected 4 numbers"),
    ],
)
def test_results_that_do_not_fit(tmp_path, change, told):
    found, truth = as_coco(tmp_path, detector(1))
    rows = json.loads(found.read_text())
    rows[0] |= change
    found.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=f"results.json, {told}"):
        score(found, "--truth", truth)


def test_truths_that_do_not_fit(tmp_path):
    found, truth = as_coco(tmp_path, detector(1))
    good = json.loads(truth.read_text())
    for broken, told in (
        ("[]", "found no lists images, annotations, categories"),
        ("{", "found no JSON"),
        (json.dumps(good | {"annotations": [{"image_id": 1}]}), "annotations, item 1, field 'category_id'"),
        (json.dumps(good | {"images": good["images"] * 2}), "images: found two of one id, 1"),
        (json.dumps(good | {"annotations": [good["annotations"][0] | {"image_id": 77}]}), "found 77, which"),
    ):
        truth.write_text(broken)
        with pytest.raises(DataError, match=told):
            score(found, "--truth", truth)
    truth.write_text(json.dumps(good))
    with pytest.raises(DataError, match="COCO results name pictures by number"):
        results.read(found, read_truth(as_dota(tmp_path / "dota", detector(0))[1], False))
    found.write_text("{}")
    with pytest.raises(DataError, match="found dict, expected a list of results"):
        score(found, "--truth", truth)


def test_nothing_found_at_all(tmp_path):
    found, truth = as_coco(tmp_path, detector(1))
    found.write_text("[]")
    reports = score(found, "--truth", truth)
    assert values(reports["by score"])["detection/ap_coco"] == 0
    assert list(reports)[1] == "s > 0" and values(reports["s > 0"])["detection/ap_nc@0.5"] == 0


def test_a_submission_against_a_coco_file(tmp_path):
    """Pictures by the name of their file."""
    some = scenes(15, 10, upright=True)
    (tmp_path / "a").mkdir()
    _, truth = as_coco(tmp_path / "a", some)
    found, labels = as_dota(tmp_path / "b", some, task=2)
    ours, theirs = (values(score(found, "--truth", one)["by score"]) for one in (truth, labels))
    assert ours["detection/ap_voc07@0.5"] == pytest.approx(theirs["detection/ap_voc07@0.5"], abs=1e-9)
    side = pictures(read_truth(truth, False), submission.read(found, read_truth(truth, False))[0])
    assert [one.key for one in side] == [one.key for one in some]
