"""evals.scoring.detecting: AP equal to DOTA's devkit and to pycocotools on 1,000 scenes each; properties."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.scoring.detecting import coco
from evals.scoring.detecting import pictures as pooling
from evals.scoring.detecting.curves import devkit07, voc07, voc12, weighted
from evals.scoring.detecting.pictures import Picture, areas, pool
from evals.scoring.detecting.voc import firsts, hits
from tests.evals.detecting.scenes import NAMES, devkit_ap, devkit_points, overlap, scenes
from vlm.boxes import ious, quad_ious

ALL = tuple(coco.THRESHOLDS)


def flags(*right):
    """AP's arguments of ranked predictions, all of which count."""
    found = np.cumsum(right)[np.flatnonzero(right)].astype(float)
    return found / (np.flatnonzero(right) + 1), found


def test_curves_by_hand():
    # ranked right, wrong, right of 2 objects: (recall, precision) = (.5, 1), (.5, .5), (1, 2/3)
    # t = 0 … .5: 1 (six points), t = .6 … 1: 2/3 (five points)
    assert voc07(*flags(1, 0, 1), 2) == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert voc12(*flags(1, 0, 1), 2) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert coco.coco(*flags(1, 0, 1), 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    # wrong first: (0, 0), (.5, 1/2), (1, 2/3): 2/3 at every point
    assert voc07(*flags(0, 1, 1), 2) == pytest.approx(2 / 3)
    # 3 of 10 objects, all right: recall reaches .3, which is four points; in the devkit's floats it does not
    assert voc07(*flags(1, 1, 1), 10) == pytest.approx(4 / 11)
    assert devkit07(*flags(1, 1, 1), 10) == pytest.approx(3 / 11)
    assert voc07(*flags(), 5) == 0 == voc07(*flags(0, 0), 5) == voc12(*flags(0), 5)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=12), st.integers(0, 4))
def test_weights_are_copies_one_behind_the_other(ranked, more):
    right = np.array([one for one, _ in ranked], dtype=bool)
    weight = np.array([times for _, times in ranked], dtype=float)
    truths = float(weight[right].sum() + more)
    copies = np.repeat(right, weight.astype(int))
    for curve in (voc07, voc12, coco.coco):
        plain = curve(*flags(*copies), truths)
        assert weighted(right, np.ones(len(right), bool), weight, truths, curve) == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("upright", [False, True])
def test_equal_to_dotas_devkit_on_500_scenes(upright):
    """In groups of 1 to 40 pictures; IoU is never just 0.5 here, where the devkit asks for more."""
    pictures, compared = scenes(5, 500, upright=upright), 0
    sizes = np.random.default_rng(0).integers(1, 41, 100)
    for start, size in zip(np.cumsum(sizes), sizes, strict=True):
        some = pictures[start - size : start]
        found = pool(some)
        for label, threshold in itertools.product(found.classes, (0.5, 0.75)):
            recall, precision, positives = devkit_points(some, found.names[label], threshold)
            one = hits(found, label, (threshold,)).by_score(found.score[found.said == label])
            assert one.truths.sum() == positives
            for curve, eleven in ((devkit07, True), (voc12, False)):
                theirs = devkit_ap(recall, precision, eleven)
                assert one.as_they_stand(curve)[0] == pytest.approx(theirs, abs=1e-6)
                compared += 1
        if start >= len(pictures):
            break
    assert compared > 200


def as_coco(pictures: list[Picture]):
    """The same as pycocotools reads it: boxes x, y, width, height; difficult objects are crowds."""
    images, annotations, results = [], [], []
    for number, picture in enumerate(pictures, 1):
        images.append({"id": number})
        for box, label, hard in zip(picture.true, picture.labels, picture.difficult, strict=True):
            row = {"image_id": number, "category_id": NAMES.index(label) + 1, "bbox": xywh(box), "iscrowd": int(hard)}
            area = (box[2] - box[0]) * (box[3] - box[1])
            annotations.append({**row, "id": len(annotations) + 1, "area": area})
        for box, label, score in zip(picture.said, picture.said_labels, picture.scores, strict=True):
            row = {"image_id": number, "category_id": NAMES.index(label) + 1, "bbox": xywh(box), "score": score}
            results.append(row)
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def xywh(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def pycocotools_says(pictures: list[Picture]):
    """COCOeval's precisions: (thresholds, recalls, classes, sizes)."""
    coco_module = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    truth, results = as_coco(pictures)
    data = coco_module.COCO()
    data.dataset = truth
    data.createIndex()
    judge = COCOeval(data, data.loadRes(results), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge


@pytest.mark.parametrize("seed, count", [(1, 700), (2, 200), (3, 60), (4, 30), (5, 10)])
def test_equal_to_pycocotools_on_1000_scenes(seed, count, capsys):
    pictures = scenes(seed, count, upright=True)
    judge = pycocotools_says(pictures)
    matched = coco.match(pool(pictures))
    found = coco.summary(matched)
    for ours, theirs in zip(found.values(), judge.stats[:6], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6) or (np.isnan(ours) and theirs == -1)
    curves = judge.eval["precision"][..., -1].mean(axis=1)  # (thresholds, classes, sizes) at 100 detections
    for place, part in enumerate(coco.SIZES):
        theirs = curves[:, :, place]
        theirs = theirs[:, (theirs >= 0).all(axis=0)].T  # classes with objects, sorted as ours
        assert np.allclose(matched.average_precisions(part), theirs, atol=1e-9)


def test_more_than_100_predictions_and_crowded_objects(capsys):
    """130 predictions of a class in a picture, and objects so close that predictions compete for them."""
    rng = np.random.default_rng(3)
    boxes = [[x, y, x + 12, y + 12] for x in range(0, 80, 4) for y in range(0, 24, 6)]
    said = [np.array(boxes[place]) + rng.normal(0, 1, 4) for place in rng.integers(0, len(boxes), 130)]
    scores = [round(float(score), 1) for score in rng.random(130)]
    one = Picture("a", boxes, ["ship"] * 80, [False] * 80, [box.tolist() for box in said], ["ship"] * 130, scores)
    judge, found = pycocotools_says([one]), coco.summary(coco.match(pool([one])))
    assert [found["ap"], found["ap@0.5"], found["ap@0.75"]] == pytest.approx(judge.stats[:3].tolist(), abs=1e-9)


def brute_force(picture: Picture, name: str, threshold: float, order):
    """(right, counted) of a class's predictions in the order given."""
    taken, out = set(), []
    said = [shape for shape, label in zip(picture.said, picture.said_labels, strict=True) if label == name]
    for shape in (said[place] for place in order):
        true = [place for place, label in enumerate(picture.labels) if label == name]
        at = max(true, key=lambda place: overlap(shape, picture.true[place]), default=None)
        if at is None or overlap(shape, picture.true[at]) < threshold:
            out.append((False, True))
        elif picture.difficult[at]:
            out.append((False, False))
        else:
            out.append((at not in taken, True))
            taken.add(at)
    return out


class Fixed:
    """A generator that draws one order."""

    def __init__(self, order):
        self.order = order

    def permutation(self, count):
        assert count == len(self.order)
        return np.array(self.order, dtype=int)


@given(st.integers(0, 300), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_order_at_all_thresholds_against_brute_force(seed, random):
    picture = scenes(seed, 1, scored=False)[0]
    found = pool([picture])
    for label in found.classes:
        name = found.names[label]
        one = hits(found, label, ALL)
        order = list(range(len(one.target)))
        random.shuffle(order)
        drawn = one.shuffled(Fixed(order))
        for place, threshold in enumerate(ALL):
            ranked = brute_force(picture, name, threshold, order)
            right, counted = (np.array([pair[part] for pair in ranked], dtype=bool) for part in (0, 1))
            plain = weighted(right, counted, np.ones(len(right)), one.truths.sum(), voc07)
            assert drawn[place] == pytest.approx(plain, abs=1e-12)


@given(st.integers(0, 100), st.lists(st.integers(0, 3), min_size=3, max_size=3))
@settings(max_examples=40, deadline=None)
def test_a_resample_is_that_many_copies_of_the_pictures(seed, times):
    """With objects of their own: three pictures, each as often as drawn, against a data set that holds the copies. Only
    copies of one prediction tie."""
    rng, drawn = np.random.default_rng(seed), np.array(times)
    pictures = [replace(one, scores=rng.random(len(one.said)).tolist()) for one in scenes(seed, 3)]
    copies = [one for one, count in zip(pictures, times, strict=True) for _ in range(count)]
    if not copies:
        return
    once, often = pool(pictures), pool(copies)
    for label in often.classes:
        name = often.names[label]
        ours = hits(once, once.names.index(name), ALL)
        theirs = hits(often, label, ALL)
        score, copied = (one.score[one.said == one.names.index(name)] for one in (once, often))
        assert ours.by_score(score).as_they_stand(times=drawn) == pytest.approx(theirs.by_score(copied).as_they_stand())
        # in a random order: the same order of the same predictions, picture by picture
        order = np.random.default_rng(seed).permutation(len(theirs.target))
        source = np.repeat(np.arange(len(ours.target)), drawn[ours.picture])
        place = _matching(ours, theirs, source)
        assert ours.shuffled(Fixed(place[order]), drawn) == pytest.approx(theirs.shuffled(Fixed(order)))
    matched = [coco.precision(coco.match(once), times=drawn), coco.precision(coco.match(often))]
    assert matched[0] == pytest.approx(matched[1], nan_ok=True)


def _matching(ours, theirs, source):
    """Of each prediction of the copies its place among ours: there picture by picture, here each one's copies."""
    free = [list(np.flatnonzero(source == place)) for place in range(len(ours.target))]
    within = {}
    for place, picture in enumerate(ours.picture):
        within.setdefault(int(picture), []).append(place)
    order, at = [], 0
    pictures = list(theirs.picture)
    blocks = [list(group) for _, group in itertools.groupby(range(len(pictures)), key=lambda p: pictures[p])]
    repeats = [picture for picture in within for _ in range(len(free[within[picture][0]]))]
    for picture, block in zip(repeats, blocks, strict=True):
        order += [free[place].pop(0) for place in within[picture]]
        at += len(block)
    return np.array(order, dtype=int)


def test_sizes_leave_others_out():
    """A small, a medium and a large object, each said; one more small box on nothing, and one medium on nothing."""
    side = {"S": 20, "M": 50, "L": 200}
    corners = {"S": (0, 0), "M": (100, 0), "L": (300, 300)}
    boxes = [[x, y, x + side[part], y + side[part]] for part, (x, y) in corners.items()]
    astray = [[500, 0, 520, 20], [600, 0, 650, 50]]
    one = Picture("a", boxes, ["ship"] * 3, [False] * 3, [*astray, *boxes], ["ship"] * 5, [0.9, 0.8, 0.7, 0.6, 0.5])
    found = pool([one])
    ranges = {"S": (-1, 32**2), "M": (32**2, 96**2), "L": (96**2, float("inf"))}
    aps = {part: hits(found, 0, (0.5,), size).as_they_stand(voc12)[0] for part, size in ranges.items()}
    assert aps == {"S": 0.5, "M": 0.5, "L": 1.0}  # wrong before right; nothing wrong among the large
    assert coco.precision(coco.match(found), "L")[0] == 1


def test_areas_by_hand():
    assert areas([[0, 0, 3, 2]]).tolist() == [6]
    assert areas([[1e6, 0, 1e6 + 2, 2, 1e6, 4, 1e6 - 2, 2]]).tolist() == [8]  # a square on its corner
    assert areas([]).tolist() == []


@given(st.lists(st.integers(0, 4), max_size=9))
def test_firsts(objects):
    assert firsts(np.array(objects, dtype=int)).tolist() == sorted({objects.index(one) for one in objects})


@pytest.mark.parametrize("upright", [False, True])
def test_pairs_of_many_pictures_are_those_of_each(upright, monkeypatch):
    """All pictures at once, a few at a time, and one after another: the same pairs and IoUs."""
    some = scenes(8, 40, upright=upright)
    whole = pool(some)
    monkeypatch.setattr(pooling, "TOGETHER", 50)
    parts = pool(some)
    expected = []
    for place, one in enumerate(some):
        table = (quad_ious, ious)[upright](one.said, one.true) if one.said and one.true else np.zeros((0, 0))
        before = [sum(len(getattr(other, name)) for other in some[:place]) for name in ("said", "true")]
        expected += [(row + before[0], column + before[1], table[row, column]) for row, column in np.argwhere(table)]
    for found in (whole, parts):
        assert list(zip(*found.pairs, strict=True)) == expected
