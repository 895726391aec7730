"""The IoU reward in every notation and shape, and `gated` choosing rewards by kind."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from vlm import boxes as vlm_boxes
from vlm.boxes import NOTATIONS, hull, quad_from_obb, quad_iou, write_boxes, write_quads
from vlm.common.errors import DataError, RecipeError

SIZE, RESIZED = (400, 400), (560, 560)
QUAD = quad_from_obb(200, 160, 160, 40, 30)
OTHER = quad_from_obb(80, 300, 60, 60, 10)
TURNED = quad_from_obb(200, 160, 160, 40, -60)  # a quarter turn off: they share 40 × 40 of 160 × 40 each


WHOLE = st.tuples(*[st.integers(0, 400)] * 2, *[st.integers(0, 200)] * 2, st.integers(-90, 89))
"""cx, cy, w, h, degrees that need no rounding."""


def r1(answer: str) -> str:
    return f"<think>t</think>\n<answer>{answer}</answer>"


def iou_of(said: str, *truth, notation="geochat", shape="quad", **options) -> float | None:
    columns = {"quads": [list(truth)], "boxes": [[hull(one) for one in truth]], "size": [SIZE], "resized": [RESIZED]}
    reward = rewards.resolve("iou", notation=notation, shape=shape, **options)
    return reward(prompts=[""], completions=[r1(said)], task=["grounding"], **columns)[0]


@pytest.mark.parametrize("notation", NOTATIONS)
def test_the_truth_in_any_notation(notation):
    """Two boxes whose numbers are whole in each frame earn 1, in either order, as boxes and as quadrilaterals."""
    boxes = [[40, 80, 200, 320], [240, 40, 360, 120]]
    truth = [quad_from_obb(120, 200, 160, 240, 0), quad_from_obb(300, 80, 120, 80, 0)]
    for shape in ("box", "quad"):
        for order in (boxes, boxes[::-1]):
            said = write_boxes(order, notation, SIZE, RESIZED)
            assert iou_of(said, *truth, notation=notation, shape=shape) == pytest.approx(1)
        one = write_boxes(boxes[:1], notation, SIZE, RESIZED)
        assert iou_of(one, *truth, notation=notation, shape=shape) == pytest.approx(0.5)  # one is missing
        many = write_boxes([*boxes, boxes[0], boxes[1]], notation, SIZE, RESIZED)
        assert iou_of(many, *truth, notation=notation, shape=shape) == pytest.approx(0.5)  # two too many
        assert iou_of("", *truth, notation=notation, shape=shape) == 0.0
        assert iou_of(one + " or so (1)", *truth, notation=notation, shape=shape) <= 0.5


def test_orientation_counts_in_quads_and_not_in_boxes():
    said, turned = (write_quads([quad], "rscovlm_obb", SIZE, RESIZED) for quad in (QUAD, TURNED))
    assert iou_of(said, QUAD, notation="rscovlm_obb") > 0.95
    assert iou_of(turned, QUAD, notation="rscovlm_obb") == pytest.approx(1600 / (2 * 6400 - 1600), abs=0.01)
    assert iou_of(said, QUAD, notation="rscovlm_obb", shape="box") > 0.95
    # The box around it, said as an upright box: nothing is lost for shape box, much for shape quad.
    upright = write_boxes([hull(QUAD)], "rscovlm_obb", SIZE, RESIZED)
    assert iou_of(upright, QUAD, notation="rscovlm_obb", shape="box") > 0.97
    x1, y1, x2, y2 = hull(QUAD)
    assert iou_of(upright, QUAD, notation="rscovlm_obb") == pytest.approx(6400 / ((x2 - x1) * (y2 - y1)), abs=0.02)


def test_missing_and_surplus_quadrilaterals_cost():
    def said(*quads):
        return write_quads(quads, "rscovlm_quad", SIZE, RESIZED)

    def value(*quads, **options):
        return iou_of(said(*quads), QUAD, OTHER, notation="rscovlm_quad", **options)

    both = value(QUAD, OTHER)
    assert both > 0.95 and value(OTHER, QUAD) == pytest.approx(both)
    assert value(QUAD) < 0.5 and value(QUAD, QUAD) < 0.51
    assert value(*[QUAD, OTHER] * 5) == pytest.approx(both / 5)
    assert value(QUAD, OTHER, steps="graduated") == 1.0  # never above 1 (published: 2)
    assert value(QUAD, TURNED, steps="threshold", threshold=0.9) == 0.5
    assert value(TURNED, TURNED, steps="threshold") == 0.0


def test_shapes_that_are_none_earn_nothing():
    bow_tie = "56,56,280,280,280,56,56,280"
    assert iou_of(bow_tie, [40, 40, 200, 40, 200, 200, 40, 200], notation="rscovlm_quad") == 0.0
    assert iou_of("100,100,100,100,100,100,100,100", QUAD, notation="rscovlm_quad") == 0.0
    # One that covers the image and more covers the truth, too, and earns its share of the area.
    everything = "-560,-560,1120,-560,1120,1120,-560,1120"
    assert iou_of(everything, QUAD, notation="rscovlm_quad") == pytest.approx(6400 / 1200**2)


def test_rows_without_quadrilaterals():
    row = {"boxes": [[hull(QUAD)]], "size": [SIZE], "id": ["7"]}
    with pytest.raises(DataError, match="id '7': the reward 'iou' applies to task 'grounding' and needs .* 'quads'"):
        rewards.iou(completions=[r1("x")], task=["grounding"], shape="quad", **row)
    assert rewards.iou(completions=[r1("x")], shape="quad", **row) == [None]
    with pytest.raises(RecipeError, match="option 'shape' is 'obb'; expected 'box' or 'quad'"):
        rewards.resolve("iou", shape="obb")


@settings(max_examples=150)
@given(
    st.one_of(st.text(), st.text(alphabet="0123456789,. -\n()[]{}<>|")),
    st.sampled_from(sorted(NOTATIONS)),
    st.sampled_from(["box", "quad"]),
    st.sampled_from(["continuous", "graduated", "threshold"]),
)
def test_iou_stays_between_0_and_1(said, notation, shape, steps):
    assert 0 <= iou_of(said, QUAD, OTHER, notation=notation, shape=shape, steps=steps) <= 1


@settings(max_examples=60)
@given(st.lists(WHOLE, min_size=1, max_size=3))
def test_quad_reward_equals_the_formula(found):
    """Numbers that the notation writes exactly: the best pairing of at most three with two, by trying."""
    quads = [quad_from_obb(*one) for one in found]
    said = "\n".join(",".join(map(str, one)) for one in found)
    reward = rewards.resolve("iou", notation="rscovlm_obb", shape="quad", inside="text")
    columns = {"quads": [[QUAD, OTHER]], "size": [SIZE], "resized": [SIZE]}
    table = [[quad_iou(quad, truth) for truth in (QUAD, OTHER)] for quad in quads]
    if len(quads) == 1:
        best = max(table[0])
    else:
        best = max(table[i][0] + table[j][1] for i in range(len(quads)) for j in range(len(quads)) if i != j)
    assert reward(completions=[said], **columns)[0] == pytest.approx(best / max(2, len(quads)), abs=1e-9)


# --- gated, by kind


def test_gated_rewards_kinds_of_a_task_in_their_own_ways():
    tasks = {"vqa/count": "count", "vqa/area": {"use": "numeric", "relative": 0.1}, "vqa/stub": None}
    reward = rewards.resolve("gated", format_share=0.0, tasks=tasks)
    logged = defaultdict(list)
    values = reward(
        completions=[r1("9"), r1("95 m2"), r1("yes"), r1("9"), r1("9"), r1("10")],
        answer=["10", "100 m2", "yes", "10", "10", "10"],
        task=["vqa"] * 6,
        kind=["count", "area", "presence", "stub", None, "comp, count"],
        log_metric=lambda name, value: logged[name].append(value),
    )
    assert values == pytest.approx([0.9, 1.0, 1.0, None, 0.0, 1.0])
    assert logged["reward_raw/vqa/count"] == pytest.approx([0.9, 1.0])
    assert logged["reward_raw/vqa"] == [1.0, 0.0] and logged["reward_raw/none_count"] == [1.0]
    reward.check_tasks({"vqa", "grounding"})
    rewards.resolve("gated", tasks={"caption/count": "count"}).check_tasks({"caption"})


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"vga/count": "count"}, "unknown task 'vga'"),
        ({"vqa/": "count"}, "names no kind"),
        ({"vqa/count": "cuont"}, "tasks.vqa/count: unknown reward"),
    ],
)
def test_gated_refuses_kinds_of_no_task(tasks, message):
    with pytest.raises(RecipeError, match=message):
        rewards.resolve("gated", tasks=tasks)


def test_an_answer_that_floods_the_image_is_compared_in_part(monkeypatch):
    """2,000 shapes for 3 true ones: the first 256 are compared, all of them are surplus."""
    compared = []
    match = vlm_boxes.match_ious
    monkeypatch.setattr(
        vlm_boxes, "match_ious", lambda said, true, how: compared.append(len(said)) or match(said, true, how)
    )
    truth = [QUAD, OTHER, TURNED]
    flood = write_quads([OTHER, *[QUAD] * 1999], "rscovlm_quad", SIZE, RESIZED)
    assert iou_of(flood, *truth, notation="rscovlm_quad") == pytest.approx(
        sum(match([OTHER, QUAD, QUAD], truth, quad_iou)) / 2000, rel=1e-2
    )
    assert compared == [256]
