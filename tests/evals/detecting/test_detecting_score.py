"""evals.scoring.detecting: AP without scores, mF1 and what answers are like, from predictions, against hand-worked
values and plain counts."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import predictions
from evals.comparing.compare import paired
from evals.predictions import Prediction
from evals.scoring import metrics
from evals.scoring.detecting import f1
from evals.scoring.detecting.pictures import Picture, pool
from evals.scoring.detecting.score import Detection, f1_of
from evals.scoring.detecting.voc import hits
from evals.scoring.reading import Reading
from tests.evals.detecting.scenes import overlap, scenes
from vlm.boxes import corners, hull, write_detections
from vlm.common.errors import DataError

SQUARES = {name: corners((x, 0, x + 10, 10)) for name, x in (("a", 0), ("b", 30), ("c", 60))}
CLASSES = ["plane", "ship"]
READ = Reading("rscovlm_quad", "text")


def detected(number, said, names=("ship", "ship"), quads=("a", "b"), difficult=None, classes=CLASSES):
    size = {"size": (112, 112), "resized": (112, 112)}
    shapes = [SQUARES[quad] for quad in quads]
    truth = {"labels": list(names), "quads": shapes, "boxes": [hull(quad) for quad in shapes], "difficult": difficult}
    return Prediction(str(number), "d", "detection", said, classes=list(classes), **truth, **size)


def line(name, label):
    return ",".join(f"{round(value)}" for value in SQUARES[name]) + f" {label}"


def numbers(asked, reading=READ, **options):
    return {name: one.value for name, one in Detection(**options)(asked, reading).metrics.items()}


def test_ties_and_their_spread_by_enumeration():
    """One picture, two ships; said: ship a, nothing, ship b. The six orders give what the wrong one's place gives."""
    asked = [detected(1, "\n".join([line("a", "ship"), line("c", "ship"), line("b", "ship")]))]
    report = Detection()(asked, READ)
    found = {name: one.value for name, one in report.metrics.items()}
    values = {  # place of the wrong one → AP: last: all right; middle: .5 at 1, 1 at 2/3; first: 2/3
        "last": 1.0,
        "middle": (6 + 5 * 2 / 3) / 11,
        "first": 2 / 3,
    }
    mean = sum(values.values()) / 3
    for name in ("0.5", "0.75", "0.5-0.95"):  # all IoUs are 1
        assert found[f"detection/ap_nc@{name}:lowest"] == pytest.approx(2 / 3)
        assert found[f"detection/ap_nc@{name}:highest"] == 1
        assert found[f"detection/ap_nc@{name}:file_order"] == pytest.approx(values["middle"])
        assert found[f"detection/ap_nc@{name}:together"] == pytest.approx(2 / 3)
        assert found[f"detection/ap_nc@{name}"] == pytest.approx(mean, abs=0.1)  # of 20 drawn orders
    one = hits(pool([picture_of(asked[0])]), 0, (0.5,))
    every = [one._ranked(np.array(order), one.target[list(order)], 2)[0] for order in itertools.permutations(range(3))]
    assert np.mean(every) == pytest.approx(mean) and set(np.round(every, 9)) == set(np.round(list(values.values()), 9))
    assert "mean over 20 random orders (seed 0)" in report.metrics["detection/ap_nc@0.5"].convention
    assert found["detection/ap_coco"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def picture_of(prediction, rotated=True):
    from evals.scoring.detecting.score import picture

    return picture(prediction, READ.detections(prediction), rotated)


def test_classes_difficult_objects_and_doubles():
    """A label that is no class of the question stays, is wrong, and counts for precision."""
    said = "\n".join([line("a", "ship"), line("a", "Ship"), line("b", "small-vehicle")])
    asked = [
        detected(1, said, ("ship", "plane")),
        detected(2, line("a", "ship") + "\n" + line("b", "ship"), ("ship", "ship"), difficult=[False, True]),
        detected(3, "There are none.", ("plane",), ("c",)),
    ]
    pooled = pool([picture_of(one) for one in asked])
    assert [pooled.names[label] for label in pooled.classes] == ["plane", "ship"]
    ships = hits(pooled, pooled.names.index("ship"), (0.5,))
    assert ships.first.tolist() == [[True, False, True, False]]  # the second is a double
    assert ships.counted.tolist() == [[True, True, True, False]]  # the last is on a difficult one
    assert ships.truths.tolist() == [1, 1, 0]
    found = numbers(asked)
    # ships: right, a double, right of 2 → middle of the test above; planes: nothing said → 0
    assert found["detection/ap_nc@0.5:file_order"] == pytest.approx((6 + 5 * 2 / 3) / 11 / 2)
    assert found["detection/ap_nc@0.5[plane]"] == 0
    assert found["detection/precision@0.5"] == pytest.approx(2 / 4)  # ships 2 of 3, and the vehicle
    assert found["detection/recall@0.5"] == pytest.approx(2 / 4)
    # ships: P 2/3, R 1; planes: P 0, R 0
    assert found["detection/mf1"] == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert found["detection/boxes_said"] == pytest.approx(5 / 3) and found["detection/boxes_true"] == pytest.approx(
        5 / 3
    )
    assert found["detection/repaired"] == pytest.approx(1 / 3) == found["detection/repaired[spelling]"]


def test_a_perfect_answer_and_the_published_background():
    asked = [detected(1, line("a", "plane") + "\n" + line("b", "ship"), ("plane", "ship"))]
    found = numbers(asked)
    shares = ("ap_nc@0.5", "ap_nc@0.75", "ap_nc@0.5-0.95", "ap_coco", "mf1", "precision@0.5", "recall@0.5")
    assert [found[f"detection/{name}"] for name in shares] == pytest.approx([1.0] * len(shares))
    assert found["detection/mf1:published"] == pytest.approx(2 / 3)  # of two classes and the background


def test_pictures_without_objects_count_what_is_said_of_them():
    right = detected(1, line("a", "ship"), ("ship",), ("a",))
    quiet, loud = detected(2, "There are none.", (), ()), detected(3, line("a", "ship"), (), ())
    assert numbers([right, quiet])["detection/ap_nc@0.5"] == 1 == numbers([right, quiet])["detection/mf1"]
    found = numbers([right, loud])
    assert found["detection/precision@0.5"] == 0.5 and found["detection/recall@0.5"] == 1
    assert found["detection/mf1"] == pytest.approx(2 / 3)
    assert found["detection/ap_nc@0.5:together"] == pytest.approx(0.5)
    assert found["detection/empty_right"] == 0 and numbers([right, quiet])["detection/empty_right"] == 1
    assert numbers([right, loud, quiet])["detection/empty_right"] == 0.5
    report = Detection()([quiet, loud], READ)  # nothing to be found anywhere
    assert "detection/ap_nc@0.5" in report.missing and report.metrics["detection/empty_right"].value == 0.5
    assert report.metrics["detection/boxes_said"].value == 0.5
    # no answer is not the answer that there is nothing
    found = numbers([right, detected(4, "", (), ()), detected(5, "I see no ships", (), ())])
    assert found["detection/empty_right"] == 0 and found["detection/unreadable"] == pytest.approx(2 / 3)


def test_the_threshold_is_reached_by_equality():
    half, less = (",".join(map(str, corners((0, 0, 10, height)))) + " ship" for height in (5, 4))
    assert numbers([detected(1, half, ("ship",), ("a",))])["detection/ap_nc@0.5"] == 1
    assert numbers([detected(1, half, ("ship",), ("a",))])["detection/ap_nc@0.75"] == 0
    assert numbers([detected(1, half, ("ship",), ("a",))])["detection/ap_nc@0.5-0.95"] == pytest.approx(1 / 10)
    assert numbers([detected(1, less, ("ship",), ("a",))])["detection/ap_nc@0.5"] == 0


def test_rotated_or_upright():
    """A thin diagonal strip against the box around it: another shape, but the same upright box."""
    strip = [0.0, 0.0, 100.0, 96.0, 100.0, 100.0, 0.0, 4.0]
    truth = {"labels": ["ship"], "quads": [strip], "boxes": [hull(strip)], "classes": CLASSES}
    sizes = {"size": (112, 112), "resized": (112, 112)}
    asked = [Prediction("1", "d", "detection", "0,0,100,0,100,100,0,100 ship", **truth, **sizes)]
    assert numbers(asked)["detection/ap_nc@0.5"] == 0 == numbers(asked, rotated=True)["detection/ap_nc@0.5"]
    assert numbers(asked, rotated=False)["detection/ap_nc@0.5"] == 1
    upright = Detection()([detected_upright("0,0,10,10 ship")], Reading("rscovlm", "text"))
    assert upright.metrics["detection/ap_nc@0.5"].value == 1
    assert "IoU of upright boxes >= 0.5" in upright.metrics["detection/ap_nc@0.5"].convention


def detected_upright(said):
    truth = {"labels": ["ship"], "boxes": [[0.0, 0.0, 10.0, 10.0]], "classes": CLASSES}
    return Prediction("1", "d", "detection", said, size=(112, 112), resized=(112, 112), **truth)


def test_by_size_of_the_true_object():
    """20², 60² and 200² pixels: S, M, L; the large one is missed."""
    boxes = [[0.0, 0.0, 20.0, 20.0], [100.0, 0.0, 160.0, 60.0], [200.0, 200.0, 400.0, 400.0]]
    truth = {"labels": ["ship"] * 3, "boxes": boxes, "classes": CLASSES}
    said = write_detections([corners(box) for box in boxes[:2]], ["ship"] * 2, "rscovlm", (512, 512), (512, 512))
    asked = [Prediction("1", "d", "detection", said, size=(512, 512), resized=(512, 512), **truth)]
    found = numbers(asked, Reading("rscovlm", "text"))
    assert [found[f"detection/ap_nc@0.5[{part}]"] for part in "SML"] == [1, 1, 0]
    assert [found[f"detection/ap_coco[{part}]"] for part in "SML"] == pytest.approx([1, 1, 0])
    assert found["detection/ap_nc@0.5"] == pytest.approx(7 / 11)  # recall 2/3 reaches 0 … 0.6


def test_an_answer_that_is_cut_off_keeps_what_came_before():
    said = line("a", "ship") + "\n0,0,10"
    found = numbers([detected(1, said)])
    assert found["detection/unread"] == 0.5 and found["detection/boxes_said"] == 2
    assert found["detection/ap_nc@0.5"] == pytest.approx(6 / 11)  # recall 1/2 at precision 1
    assert found["detection/precision@0.5"] == 0.5 and found["detection/repaired[pieces]"] == 1


def test_the_interval_covers_pictures():
    good, bad = line("a", "ship"), line("c", "ship")
    asked = [detected(n, good if n % 2 else bad, ("ship",), ("a",)) for n in range(40)]
    report = Detection()(asked, READ)
    for name in ("ap_nc@0.5", "ap_nc@0.5-0.95", "ap_coco", "mf1", "mf1:published", "precision@0.5"):
        low, high = report.intervals[f"detection/{name}"]
        assert low < report.metrics[f"detection/{name}"].value < high and 0.1 < high - low < 0.6, name
    again = Detection()(asked, READ)
    again.statistic("detection/ap_nc@0.5").of(np.ones((3, 40)))
    assert again.intervals == report.intervals  # whatever was asked before


def test_an_evaluation_by_recipe_has_them_too(tmp_path):
    """Beside other tasks, and out of the file."""
    asked = [detected(1, line("a", "ship")), detected(2, "There are none.", (), ())]
    asked.append(Prediction("3", "v", "vqa", "yes", answer="yes"))
    predictions.write(tmp_path / "p.jsonl", asked)
    report = metrics.evaluate(predictions.read(tmp_path / "p.jsonl"), "rscovlm_quad", "text")
    assert report.metrics["detection/ap_nc@0.5"].value == pytest.approx(6 / 11)
    assert report.metrics["vqa/exact"].value == 1 and report.metrics["detection/ap_nc@0.5"].n == 2
    assert "Max Mode" in report.missing["detection/max_mode"]


def test_answers_about_other_classes_are_not_paired():
    """Of the same pictures: fewer classes are an easier question, and the difference would look like progress."""
    both, one = (Detection()([detected(1, line("a", "ship"), classes=names)], READ) for names in (CLASSES, ["ship"]))
    assert paired(both, both, "detection/mf1").difference == 0
    with pytest.raises(DataError, match=r"2 questions are in one run only \(such as 'd/1 \(plane, ship\)'\)"):
        paired(one, both, "detection/mf1")


def test_truth_without_classes_is_refused():
    faulty = detected(1, "x")
    faulty.labels = None
    with pytest.raises(DataError, match="'d/1': found none 'labels' for 2 true objects"):
        Detection()([faulty], READ)
    faulty = detected(1, "x")
    faulty.size = None
    with pytest.raises(DataError, match="'d/1': no 'size', which the notation"):
        Detection()([faulty], READ)


# --- mF1 against plain counts


def plain_mf1(pictures: list[Picture]) -> float:
    """Each prediction in the order of the file goes to the true object of its class that it overlaps most."""
    right, said, true = {}, {}, {}
    for picture in pictures:
        taken = set()
        for label, hard in zip(picture.labels, picture.difficult, strict=True):
            true[label] = true.get(label, 0) + (not hard)
        for shape, label in zip(picture.said, picture.said_labels, strict=True):
            mine = [(overlap(shape, quad), -n) for n, quad in enumerate(picture.true) if picture.labels[n] == label]
            iou, at = max(mine, default=(0, 0))
            if iou >= 0.5 and picture.difficult[-at]:
                continue
            said[label] = said.get(label, 0) + 1
            if iou >= 0.5 and at not in taken:
                taken.add(at)
                right[label] = right.get(label, 0) + 1
    classes = [label for label, count in true.items() if count]
    precision = np.mean([right.get(label, 0) / max(said.get(label, 0), 1) for label in classes])
    recall = np.mean([right.get(label, 0) / true[label] for label in classes])
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_published(pictures: list[Picture]) -> float:
    """A confusion matrix as the published script fills it; the last row and column are the background."""
    classes = sorted(
        {label for one in pictures for label, hard in zip(one.labels, one.difficult, strict=True) if not hard}
    )
    matrix = np.zeros((len(classes) + 1, len(classes) + 1))
    for picture in pictures:
        true = [place for place, hard in enumerate(picture.difficult) if not hard]
        found = dict.fromkeys(true, 0)
        for shape, label in zip(picture.said, picture.said_labels, strict=True):
            if label not in classes:
                continue
            column, hit = classes.index(label), 0
            for place in true:
                if overlap(shape, picture.true[place]) >= 0.5:
                    hit += 1
                    found[place] += picture.labels[place] == label
                    matrix[classes.index(picture.labels[place]), column] += 1
            if not hit:
                matrix[-1, column] += 1
        for place, times in found.items():
            if not times:
                matrix[classes.index(picture.labels[place]), -1] += 1
    right = np.diag(matrix)
    columns, rows = matrix.sum(axis=0), matrix.sum(axis=1)
    precision = np.mean(right / np.where(columns == 0, 1, columns))
    recall = np.mean(right / np.where(rows == 0, 1, rows))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_mf1_against_plain_counts(seed, count):
    pictures = scenes(seed, count)
    found = pool(pictures)
    if not found.classes:
        return
    classes = [hits(found, label, (0.5,)) for label in found.classes]
    assert f1.mean_f1(classes).value == pytest.approx(plain_mf1(pictures), abs=1e-9)
    if {name for one in pictures for name in one.said_labels} <= {found.names[label] for label in found.classes}:
        assert f1.published(found).value == pytest.approx(plain_published(pictures), abs=1e-9)


def test_the_published_counts_what_ours_do_not():
    """One box over two ships side by side, twice: two objects found, four right; here one is right and one a double."""
    both = [0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0]
    halves = [corners((0, 0, 10, 5)), corners((0, 5, 10, 10))]
    one = Picture("a", halves, ["ship"] * 2, [False] * 2, [both, both], ["ship"] * 2)
    found = pool([one])
    assert f1.mean_f1([hits(found, 0, (0.5,))]).value == pytest.approx(0.5)
    assert f1.published(found).value == pytest.approx(0.5)  # P and R 1, halved by the background


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_bounds_and_what_another_wrong_prediction_does(seed):
    """All shares lie in [0, 1]; a prediction on nothing lowers what depends on it, or leaves it."""
    pictures = scenes(seed, 6, scored=False)
    more = [*pictures[:5], Picture("5", *(getattr(pictures[5], name) for name in ("true", "labels", "difficult")),
            [*pictures[5].said, corners((-500, -500, -400, -400))], [*pictures[5].said_labels, "ship"])]  # fmt: skip
    found, spoilt = pool(pictures), pool(more)
    if not found.classes:
        return
    before, after = (
        [f1.mean_f1([hits(one, one.names.index(found.names[label]), (0.5,)) for label in found.classes]).value]
        + [hits(one, one.names.index(found.names[label]), (0.5,)).as_they_stand()[0] for label in found.classes]
        for one in (found, spoilt)
    )
    assert all(0 <= value <= 1 for value in [*before, *after])
    assert all(b >= a - 1e-12 for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("10,10,30,30 ship\n50,50,70,70 plane", 1.0),
        ("10,10,30,30 ship", 2 / 3),
        ("10,10,30,30 plane\n50,50,70,70 plane", 1 / 2),
        ("10,10,30,30 ship\n10,10,30,30 ship\n50,50,70,70 plane", 4 / 5),
        ("10,10,30,30 ship\n80,80,90,90 ship\n50,50,70,70 plane", 1.0),  # one on a difficult object
        ("10,10,30,30 ship\nand so on", 2 / 4),
        ("There are none.", 0.0),
    ],
)
def test_f1_of_one_picture(said, expected):
    """Two true objects and a difficult one; by hand: 2 · right / (said + true)."""
    boxes = [[10, 10, 30, 30], [50, 50, 70, 70], [80, 80, 90, 90]]
    asked = Prediction(
        "1", "x", "detection", said, boxes=boxes, labels=["ship", "plane", "ship"], classes=["plane", "ship"],
        difficult=[False, False, True], size=(100, 100), resized=(100, 100),
    )  # fmt: skip
    assert f1_of(asked, Reading("rscovlm", "text")) == pytest.approx(expected)
    empty = dataclasses.replace(asked, boxes=[], labels=[], difficult=None)
    assert f1_of(empty, Reading("rscovlm", "text")) == float(said == "There are none.")
