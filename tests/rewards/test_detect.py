"""The reward `detect`: by hand, against a search of all matchings, and what must hold of any answer."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from vlm.boxes import NOTHING, corners, hull, iou, quad_from_obb, quad_iou, write_detections
from vlm.common.errors import DataError, RecipeError

SIZE = (400, 400)
CLASSES = ["plane", "ship", "storage tank"]
PLANE, SHIP, TANK = [10, 10, 50, 50], [100, 100, 120, 110], [200, 200, 300, 300]
SCENE = [(PLANE, "plane"), (SHIP, "ship"), (TANK, "storage tank")]


def text_of(objects, notation="rscovlm"):
    """Objects are (box, label) or (quad, label) in pixels; also labels that are not asked for are written."""
    quads = [shape if len(shape) == 8 else corners(shape) for shape, _ in objects]
    return write_detections(quads, [label for _, label in objects], notation, SIZE, SIZE)


def value_of(said, truth=SCENE, difficult=None, classes=CLASSES, notation="rscovlm", **options):
    """said: a text, or objects."""
    text = said if isinstance(said, str) else text_of(said, notation)
    shapes = [list(shape) for shape, _ in truth]
    columns = {"labels": [[label for _, label in truth]], "difficult": [difficult], "classes": [classes]}
    columns |= {"boxes": [[hull(one) if len(one) == 8 else one for one in shapes]]}
    if options.get("shape") == "quad":
        columns["quads"] = [[one if len(one) == 8 else corners(one) for one in shapes]]
    reward = rewards.resolve("detect", notation=notation, inside="text", **options)
    return reward(completions=[text], task=["detection"], size=[SIZE], resized=[SIZE], **columns)[0]


def relabelled(objects, *labels):
    return [(shape, label) for (shape, _), label in zip(objects, labels, strict=True)]


def test_by_hand():
    assert value_of(SCENE) == 1.0 and value_of(SCENE[::-1]) == 1.0
    assert value_of(SCENE[:1]) == pytest.approx(2 / 4) and value_of(SCENE[:2]) == pytest.approx(4 / 5)
    assert value_of([*SCENE, ([350, 350, 390, 390], "ship")]) == pytest.approx(3 / 4)  # precision; F1 is 6/7
    assert value_of(SCENE * 2) == pytest.approx(3 / 6)
    assert value_of(relabelled(SCENE, "plane", "plane", "storage tank")) == pytest.approx(2 / 3)
    assert value_of(relabelled(SCENE, "ship", "plane", "plane")) == 0.0
    # One half as wide overlaps by 1/2: (1/2 − floor) / (full − floor).
    half = [([10, 10, 30, 50], "plane")]
    assert value_of(half, SCENE[:1]) == pytest.approx(0.4 / 0.9)
    assert value_of(half, SCENE[:1], floor=0.0) == pytest.approx(0.5)
    assert value_of(half, SCENE[:1], floor=0.25, full=0.75) == pytest.approx(0.5)
    assert value_of(half, SCENE[:1], floor=0.5, full=0.5) == 1.0  # at least
    assert value_of(half, SCENE[:1], floor=0.51, full=0.51) == 0.0
    assert value_of(half, SCENE[:1], floor=0.5, full=0.9) == 0.0


def test_small_objects_count_as_much_as_large_ones():
    """Tank and ship differ 50 times in area."""
    assert value_of(SCENE[:2]) == value_of([SCENE[0], SCENE[2]]) == value_of(SCENE[1:])


@pytest.mark.parametrize("difficult", [None, [True], [False]])
def test_pictures_without_objects(difficult):
    """Of an empty picture, and of one that has difficult objects alone."""
    truth, hard = ([], None) if difficult is None else (SCENE[:1], difficult)
    empty = difficult != [False]
    assert value_of(NOTHING, truth, hard) == float(empty)
    assert value_of(SCENE[1:2], truth, hard) == 0.0
    assert value_of(f"{NOTHING}\n{text_of(SCENE[1:2])}", truth, hard) == 0.0
    for text in ("", ".", '""', "``````", "?", "I see nothing here."):
        assert value_of(text, truth, hard) == 0.0
    assert value_of(SCENE[:1], truth, hard) == float(difficult is not None)
    assert value_of(SCENE[:1] * 2, truth, hard) == (0.5 if difficult == [False] else 0.0)
    reward = rewards.resolve("detect", shape="quad", notation="rscovlm_quad", inside="text")
    row = {"task": ["detection"], "labels": [[]], "boxes": [[]], "size": [SIZE], "resized": [SIZE]}
    assert reward(completions=[NOTHING], **row) == reward(completions=[NOTHING], quads=[[]], **row) == [1.0]


def test_difficult_objects_are_neither_right_nor_wrong():
    hard = [True, False, False]
    assert value_of(SCENE, difficult=hard) == value_of(SCENE[1:], difficult=hard) == 1.0
    assert value_of([*SCENE, SCENE[0]], difficult=hard) == pytest.approx(2 / 3)  # each excuses one
    assert value_of(relabelled(SCENE, "ship", "ship", "storage tank"), difficult=hard) == pytest.approx(2 / 3)
    far_off = [([10, 10, 50, 29], "plane"), *SCENE[1:]]  # IoU 0.475
    assert value_of(far_off, difficult=hard) == pytest.approx(2 / 3)
    # Two planes in one place, one of them difficult: the one that is said earns.
    twin = [(PLANE, "plane"), ([10, 10, 50, 49], "plane")]
    assert value_of(twin[:1], twin, [True, False], floor=0.0) == pytest.approx(39 / 40)
    # With a slope, what lies on a difficult object is not paid as a far hit of another one.
    two = [SCENE[0], ([300, 10, 340, 50], "plane")]
    assert value_of(two[:1], two, [True, False], distance=0.1) == 0.0
    assert value_of(two[:1], two, [False, True], distance=0.1) == 1.0


def test_what_is_mended_earns_the_same_and_no_more():
    """JSON with what RSCoVLM's reader mends, names in other spellings, and prose around lines."""
    written = text_of(SCENE, "qwen2_5_vl")
    assert value_of(written, notation="qwen2_5_vl") == pytest.approx(1.0, abs=0.03)
    broken = written.replace("},", "}").replace("[", "(", 2).replace("]", ")", 1)
    assert value_of(broken, notation="qwen2_5_vl") <= value_of(written, notation="qwen2_5_vl")
    lines = text_of(relabelled(SCENE, "planes", "boat", "Storage-Tank"))
    assert value_of(lines) == 1.0
    assert value_of(f"Here they are:\n{lines}") < 1.0  # what is no object counts as said
    assert value_of(text_of(relabelled(SCENE[:1], "plane ship")), SCENE[:1]) == 0.0  # two labels are none
    assert value_of(text_of(SCENE) + "1,2,3 ship\n") == pytest.approx(3 / 4)
    assert value_of(text_of(SCENE)[:-30], SCENE) < value_of(SCENE)


def test_quadrilaterals():
    turned, across = ([round(v) for v in quad_from_obb(200, 200, 160, 40, angle)] for angle in (30, -60))
    truth = [(turned, "ship")]
    expected = {"quad": quad_iou(across, turned), "box": iou(hull(across), hull(turned))}  # 0.14 and 0.56
    for shape, overlap in expected.items():
        options = {"shape": shape, "notation": "rscovlm_quad", "floor": 0.0}
        assert value_of(truth, truth, **options) == pytest.approx(1.0)
        assert value_of([(across, "ship")], truth, **options) == pytest.approx(overlap)
        assert value_of(truth * 2, truth, **options) == pytest.approx(0.5)
    overhanging = [([-20, 100, 60, 100, 60, 140, -20, 140], "ship")]
    cut = [([0, 100, 60, 140], "ship")]
    assert value_of(overhanging, cut, notation="rscovlm_quad") == 1.0  # the box around it, cut to the image


def test_rows_that_cannot_be_judged():
    row = {"boxes": [[PLANE]], "labels": [["plane"]], "size": [SIZE], "id": ["7"]}
    reward, task = rewards.resolve("detect", inside="text"), ["detection"]
    said = [text_of(SCENE[:1], "qwen2_vl")]
    assert reward(completions=said, task=task, **row)[0] > 0.8  # two per mille of 400 pixels are lost
    assert reward(completions=said, task=["grounding"], **row) == [None]
    for name in ("boxes", "labels", "size"):
        left = {key: value for key, value in row.items() if key != name}
        with pytest.raises(DataError, match=f"id '7': the reward 'detect' applies .* needs the field '{name}'"):
            reward(completions=said, task=task, **left)
        assert reward(completions=said, **left) == [None]
    with pytest.raises(DataError, match="id '7': the row has 1 boxes, 2 labels; expected one of each"):
        reward(completions=said, task=task, **row | {"labels": [["plane", "ship"]]})
    with pytest.raises(DataError, match="id '7': .* 1 labels, 3 difficult"):
        reward(completions=said, task=task, difficult=[[True] * 3], **row)
    with pytest.raises(DataError, match="id '7': the notation rscovlm counts pixels of the resized image"):
        rewards.resolve("detect", notation="rscovlm")(completions=said, task=task, **row)
    with pytest.raises(DataError, match="'quads'"):
        rewards.resolve("detect", shape="quad")(completions=said, task=task, **row)


@pytest.mark.parametrize(
    "options", [{"floor": 0.6, "full": 0.5}, {"floor": -0.1}, {"full": 1.1}, {"floor": 0.0, "full": 0.0}]
)
def test_ramps_that_are_none(options):
    with pytest.raises(RecipeError, match="expected 0 ≤ floor ≤ full ≤ 1"):
        value_of(SCENE, **options)


def test_what_it_tells_the_log():
    told = []
    reward = rewards.resolve("detect", inside="text")
    columns = {"boxes": [[PLANE]] * 2, "labels": [["plane"]] * 2, "size": [SIZE] * 2}
    reward(completions=["", NOTHING], log_metric=lambda *one: told.append(one), **columns)
    assert told == [("reward_unreadable/detect", 1.0), ("reward_unreadable/detect", 0.0)]


# Against a search of all matchings, and what must hold of any answer.


def boxes_within(side):
    corner = st.integers(0, side - 1)
    made = st.tuples(corner, corner, st.integers(1, side), st.integers(1, side))
    return made.map(lambda n: [n[0], n[1], min(side, n[0] + n[2]), min(side, n[1] + n[3])])


BOXES = boxes_within(12)  # small, so that many overlap
OBJECTS = st.lists(st.tuples(BOXES, st.sampled_from(CLASSES[:2])), min_size=0, max_size=4)
SPREAD = st.lists(st.tuples(boxes_within(400), st.sampled_from(CLASSES)), min_size=1, max_size=6)


def by_search(said, truth, difficult, floor, full, overlap):
    """(Σ s, left out) of the best of all assignments, by the definition; small scenes only."""
    places = [*range(len(truth)), *[None] * len(said)]
    best = (0.0, 0)
    for chosen in set(itertools.permutations(places, len(said))):
        worth, out = 0.0, 0
        for (shape, label), place in zip(said, chosen, strict=True):
            if place is None or label != truth[place][1]:
                continue
            covered = overlap(shape, truth[place][0])
            if difficult[place]:
                out += covered >= 0.5
            elif floor == full:
                worth += covered >= floor
            else:
                worth += min(1.0, max(0.0, (covered - floor) / (full - floor)))
        best = max(best, (round(worth, 9), out))
    return best


@settings(max_examples=250, deadline=None)
@given(
    OBJECTS,
    OBJECTS,
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.sampled_from([(0.0, 1.0), (0.1, 1.0), (0.2, 0.8), (0.5, 0.5)]),
    st.sampled_from(["box", "quad"]),
)
def test_it_equals_the_best_of_all_matchings(said, truth, difficult, ramp, shape):
    notation = "rscovlm" if shape == "box" else "rscovlm_quad"
    if shape == "quad":
        said, truth = ([(corners(box), label) for box, label in some] for some in (said, truth))
    difficult = difficult[: len(truth)]
    worth, out = by_search(said, truth, difficult, *ramp, iou if shape == "box" else quad_iou)
    true, stated = len(truth) - sum(difficult), len(said) - out
    expected = min(2 * worth / (stated + true), worth / max(stated, 1)) if true else float(stated == 0)
    found = value_of(said, truth, difficult, notation=notation, shape=shape, floor=ramp[0], full=ramp[1])
    assert found == pytest.approx(expected, abs=1e-7)


@settings(max_examples=150, deadline=None)
@given(SPREAD, SPREAD, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.1]), st.sampled_from([0.0, 0.2]))
def test_the_order_does_not_matter(said, truth, random, distance, floor):
    lines = text_of(said).splitlines()
    shuffled, scene = random.sample(lines, len(lines)), random.sample(truth, len(truth))
    options = {"distance": distance, "floor": floor}
    assert value_of("\n".join(shuffled), scene, **options) == pytest.approx(value_of(said, truth, **options), abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([0.0, 0.1]))
def test_a_right_object_more_never_costs_and_a_wrong_one_never_pays(data, distance):
    """Right: a true one that no said object overlaps, its class agreeing. Wrong: one that overlaps no object of its
    class; with a slope, one of a class that the picture has not."""
    truth = data.draw(SPREAD)
    said = data.draw(
        st.lists(st.one_of(st.sampled_from(truth), st.tuples(boxes_within(400), st.sampled_from(CLASSES))))
    )
    before = value_of(said or NOTHING, truth, distance=distance)
    assert 0 <= before <= 1
    free = [(box, label) for box, label in truth if not any(iou(box, one) and label == other for one, other in said)]
    if free and not distance:
        assert value_of([*said, free[0]], truth) >= before - 1e-12
    box, label = data.draw(st.tuples(boxes_within(400), st.sampled_from(CLASSES)))
    there = [one for one, other in truth if other == label]
    if there if distance else any(iou(box, one) for one in there):
        label = "helicopter"
    assert value_of([*said, (box, label)], truth, classes=[*CLASSES, "helicopter"], distance=distance) <= before + 1e-12


@settings(max_examples=200)
@given(
    st.one_of(st.text(), st.text(alphabet="0123456789, \n-shiplane()[]{}\"'`", max_size=200)),
    st.sampled_from(["rscovlm", "rscovlm_quad", "rscovlm_obb", "rscovlm_quad_json", "qwen2_5_vl"]),
    st.sampled_from(["box", "quad"]),
)
def test_any_text_earns_between_0_and_1(said, notation, shape):
    assert 0 <= value_of(said, notation=notation, shape=shape, distance=0.1) <= 1


def test_a_flood_costs_no_time_and_is_compared_in_part(monkeypatch):
    from vlm import boxes as vlm_boxes

    compared = []
    table = vlm_boxes.ious
    monkeypatch.setattr(vlm_boxes, "ious", lambda said, true: compared.append(len(said)) or table(said, true))
    flood = "".join(f"{n % 390},{n // 390},{n % 390 + 10},{n // 390 + 10} plane\n" for n in range(2000))
    assert value_of(flood) <= 1 / 2000
    assert value_of(text_of(SCENE) + flood) == pytest.approx(3 / 2003)
    assert compared == [256, 256]
