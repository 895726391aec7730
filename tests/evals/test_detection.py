"""evals.scoring.detection: AP without scores against hand-worked curves and a second implementation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.benchmarks.questions import every_class
from evals.predictions import Prediction, from_sample
from evals.scoring.detection import Detection, Hits, hits, labels, voc07
from evals.scoring.reading import Reading
from samples import read
from tests.support import benchmark_folders
from vlm.boxes import Object, corners
from vlm.common.errors import DataError

SQUARES = {name: corners((x, 0, x + 10, 10)) for name, x in (("a", 0), ("b", 30), ("c", 60))}


def test_voc07_by_hand():
    # ranked right, wrong, right of 2 objects: (recall, precision) = (.5, 1), (.5, .5), (1, 2/3)
    # t = 0 … .5: 1 (six points), t = .6 … 1: 2/3 (five points)
    assert voc07(np.array([1, 0, 1]), 2) == pytest.approx((6 + 5 * 2 / 3) / 11)
    # wrong first: (0, 0), (.5, 1/2), (1, 2/3): 2/3 at every point
    assert voc07(np.array([0, 1, 1]), 2) == pytest.approx(2 / 3)
    # 3 of 10 objects, all right: recall reaches .3, which is four points
    assert voc07(np.array([1, 1, 1]), 10) == pytest.approx(4 / 11)
    assert voc07(np.array([]), 5) == 0 == voc07(np.array([0, 0]), 5)


def reference_ap(ranked: list[tuple[int, int]], truths: int) -> float:
    """VOC's own recipe, as a loop: ranked (question, object or -1), each object taken once."""
    taken, right, points = set(), 0, []
    for rank, (question, target) in enumerate(ranked, 1):
        if target >= 0 and (question, target) not in taken:
            taken.add((question, target))
            right += 1
        points.append((right, rank))
    total = 0.0
    for tenth in range(11):
        total += max((r / rank for r, rank in points if 10 * r >= tenth * truths), default=0)
    return total / 11


ranking = st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 3)), max_size=12)


@given(ranking, st.integers(0, 5))
def test_against_a_second_implementation(found, more):
    truths = [4 + more, 4, 4]  # every object that is hit exists
    question = np.array([q for q, _ in found], dtype=np.int64)
    target = np.array([q * 10 + t if t >= 0 else -1 for q, t in found], dtype=np.int64)
    one = Hits(question, target, np.array(truths, dtype=float))
    assert one.average_precision() == pytest.approx(reference_ap(found, sum(truths)), abs=1e-12)
    order = np.random.default_rng(0).permutation(len(found))
    ranked = [found[place] for place in order]
    assert one.average_precision(order) == pytest.approx(reference_ap(ranked, sum(truths)), abs=1e-12)
    # a resample: question 0 twice, 1 once, 2 not at all, its copies' objects apart
    doubled = [pair for q, t in found for pair in {0: [(0, t), (7, t)], 1: [(1, t)], 2: []}[q]]
    drawn = one.average_precision(times=np.array([2, 1, 0]))
    assert drawn == pytest.approx(reference_ap(doubled, 2 * truths[0] + truths[1]), abs=1e-12)


def detected(number, said, names=("ship", "ship"), quads=("a", "b"), difficult=None):
    answer = labels(names, difficult or [False] * len(names))
    size = {"size": (112, 112), "resized": (112, 112)}
    return Prediction(str(number), "d", "grounding", said, answer=answer, quads=[SQUARES[q] for q in quads], **size)


def line(name, label):
    return ",".join(f"{round(value)}" for value in SQUARES[name]) + f" {label}"


READ = Reading("rscovlm_quad", "text")


def test_ties_and_their_spread_by_enumeration():
    """One picture, two ships; said: ship a, nothing, ship b. The six orders give what the wrong one's place gives."""
    said = "\n".join([line("a", "ship"), line("c", "ship"), line("b", "ship")])
    metrics = Detection()([detected(1, said)], READ).metrics
    values = {  # place of the wrong one → AP: last: all right; middle: as above; first: 2/3
        "last": 1.0,
        "middle": (6 + 5 * 2 / 3) / 11,
        "first": 2 / 3,
    }
    mean = sum(values.values()) / 3
    assert metrics["detection/ap_nc@0.5:lowest"].value == pytest.approx(2 / 3)
    assert metrics["detection/ap_nc@0.5:highest"].value == 1
    assert metrics["detection/ap_nc@0.5:file_order"].value == pytest.approx(values["middle"])
    assert metrics["detection/ap_nc@0.5:together"].value == pytest.approx(2 / 3)
    assert metrics["detection/ap_nc@0.5"].value == pytest.approx(mean, abs=0.1)  # of 20 drawn orders
    one = hits([detected(1, said)], [READ.objects(detected(1, said))[0]], 0.5)["ship"]
    every = [one.average_precision(np.array(order)) for order in itertools.permutations(range(3))]
    assert np.mean(every) == pytest.approx(mean) and set(np.round(every, 9)) == set(np.round(list(values.values()), 9))
    assert "mean over 20 random orders (seed 0)" in metrics["detection/ap_nc@0.5"].convention


def test_classes_difficult_objects_and_doubles():
    asked = [
        detected(1, "\n".join([line("a", "ship"), line("a", "Ship"), line("b", "small-vehicle")]), ("ship", "plane")),
        detected(2, line("a", "ship") + "\n" + line("b", "ship"), ("ship", "ship"), difficult=[False, True]),
        detected(3, "There are none.", ("plane",), ("c",)),
    ]
    found = hits(asked, [READ.objects(one)[0] for one in asked], 0.5)
    assert set(found) == {"plane", "ship"}  # small vehicles are nowhere in the truth
    assert found["ship"].target.tolist() == [0, 0, 1]  # b of the second is difficult: neither right nor wrong
    assert found["ship"].truths.tolist() == [1, 1, 0] and found["plane"].truths.tolist() == [1, 0, 1]
    metrics = Detection()(asked, READ).metrics
    # ship: right, a double, right of 2 → middle of the test above; plane: nothing said → 0
    assert metrics["detection/ap_nc@0.5:file_order"].value == pytest.approx((6 + 5 * 2 / 3) / 11 / 2)
    assert metrics["detection/ap_nc@0.5[plane]"].value == 0
    # ships: 2 right of 3 said and 2 true; planes: none said of 2 true
    assert metrics["detection/precision@0.5"].value == pytest.approx(2 / 3)
    assert metrics["detection/recall@0.5"].value == pytest.approx(2 / 4)


def test_the_threshold_is_reached_by_equality():
    half = ",".join(map(str, corners((0, 0, 10, 5)))) + " ship"
    assert Detection()([detected(1, half, ("ship",), ("a",))], READ).metrics["detection/ap_nc@0.5"].value == 1
    less = ",".join(map(str, corners((0, 0, 10, 4)))) + " ship"
    assert Detection()([detected(1, less, ("ship",), ("a",))], READ).metrics["detection/ap_nc@0.5"].value == 0


def test_an_answer_that_is_cut_off_keeps_what_came_before():
    said = line("a", "ship") + "\n0,0,10"
    assert READ.objects(detected(1, said)) == ([Object([float(v) for v in SQUARES["a"]], "ship")], 1)
    metrics = Detection()([detected(1, said)], READ).metrics
    assert metrics["detection/unread"].value == 0.5
    assert metrics["detection/ap_nc@0.5"].value == pytest.approx(6 / 11)  # recall 1/2 at precision 1


def test_the_interval_covers_pictures():
    good, bad = line("a", "ship"), line("c", "ship")
    asked = [detected(n, good if n % 2 else bad, ("ship",), ("a",)) for n in range(40)]
    report = Detection()(asked, READ)
    low, high = report.intervals["detection/ap_nc@0.5"]
    assert low < report.metrics["detection/ap_nc@0.5"].value < high and 0.1 < high - low < 0.6
    again = Detection()(asked, READ)
    again.statistic("detection/ap_nc@0.5").of(np.ones((3, 40)))
    assert again.intervals == report.intervals  # whatever was asked before


def test_dota_asks_for_all_classes_of_the_data(tmp_path):
    benchmark_folders.dota(tmp_path)
    samples = every_class(list(read(tmp_path / "DOTA/labelTxt", "dota", tmp_path / "DOTA/images")))
    assert [sample.id for sample in samples] == ["P0001", "P0002"]
    assert [sample.messages[0]["content"] for sample in samples] == ["find the plane, ship."] * 2
    assert samples[0].answer == "plane\nship\nship (difficult)" and samples[1].answer == "ship"
    assert [len(sample.quads) for sample in samples] == [3, 1]
    said = "10,10,50,10,50,30,10,30 plane\n60,60,80,60,80,80,60,80 ship\n90,90,100,90,100,100,90,100 ship"
    asked = [
        from_sample(samples[0], said, resized=(112, 112)),
        from_sample(samples[1], "There are none.", resized=(112, 112)),
    ]
    metrics = Detection()(asked, READ).metrics
    assert metrics["detection/ap_nc@0.5[plane]"].value == 1
    assert metrics["detection/ap_nc@0.5[ship]"].value == pytest.approx(6 / 11)  # one of two, the difficult one apart


def test_truth_without_classes_is_refused():
    faulty = detected(1, "x")
    faulty.answer = None
    with pytest.raises(DataError, match="nothing to detect"):
        Detection()([detected(1, "x", difficult=[True, True])], READ)
    with pytest.raises(DataError, match="'d/1': found 0 classes in 'answer' for 2 quads"):
        Detection()([faulty], READ)
    faulty = detected(1, "x")
    faulty.size = None
    with pytest.raises(DataError, match="'d/1': no 'size', which the notation"):
        Detection()([faulty], READ)
