"""evals.scoring.overlap and the grounding metrics: the same predictions under each project's convention, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.predictions import Prediction
from evals.scoring.overlap import CONVENTIONS, quad_parts, size_class
from evals.scoring.reading import Reading
from evals.scoring.scores import Grounding
from vlm.boxes import iou, quad_from_obb
from vlm.common.errors import DataError

SIZE = (100, 100)  # pixels are percents, and per mille are tenths of pixels
TEXT = Reading("qwen2_vl", "text")


def ground(number, said, truth, **more):
    return Prediction(str(number), "g", "grounding", said, boxes=[list(truth)], size=SIZE, **more)


# Truth 0,0,10,10 (area 100) in the first two.
SAME = [
    ground(1, "(0,0),(50,100)", (0, 0, 10, 10)),  # half: plain 50/100; percent and +1: 6·11 / 11·11
    ground(2, "(0,0),(100,48)", (0, 0, 10, 10)),  # plain 48/100; 4.8 is 5 percent: 11·6 / 121
    ground(3, "(0,0),(10,500)", (0, 0, 1, 50)),  # the very box, but one pixel wide
]


def test_the_same_predictions_are_three_numbers():
    values = {
        name: Grounding((name,))(SAME, TEXT).metrics["grounding/acc@0.5"].value
        for name in ("plain", "vrsbench", "rscovlm")
    }
    # plain: 0.5 is a hit, 0.48 is none, 1 is; VRSBench: 0.545, 0.545, 1; RSCoVLM: 0.5 is not > 0.5, an overlap of one
    # pixel is none
    assert values == {"plain": 2 / 3, "vrsbench": 1.0, "rscovlm": 0.0}
    together = Grounding(("plain", "vrsbench", "rscovlm"))(SAME, TEXT).metrics
    assert [together[f"grounding/acc@0.5{end}"].value for end in ("", ":vrsbench", ":rscovlm")] == [2 / 3, 1, 0]
    said = [together[f"grounding/acc@0.5{end}"].convention for end in ("", ":vrsbench", ":rscovlm")]
    assert said[0].startswith("IoU >= 0.5, plain IoU in pixels") and "+1 on every side" in said[1]
    assert said[2].startswith("IoU > 0.5") and all("kept in the denominator" in one for one in said)


def test_each_iou_by_hand():
    truth, half = (0, 0, 10, 10), (0, 0, 5, 10)
    assert CONVENTIONS["plain"].iou(half, truth, SIZE) == 0.5
    assert CONVENTIONS["rscovlm"].iou(half, truth, SIZE) == 0.5
    assert CONVENTIONS["vrsbench"].iou(half, truth, SIZE) == pytest.approx(66 / 121)
    # in an image of 200 x 400 pixels the same pixels are 0,0,2.5→2,2.5→2 and 0,0,5,2.5→2 percents: 3·3 / 6·3
    assert CONVENTIONS["vrsbench"].iou((0, 0, 5, 10), (0, 0, 10, 10), (200, 400)) == pytest.approx(9 / 18)
    # boxes that only touch: +1 makes them overlap in a line of one, 1·11 / (121 + 121 - 11)
    assert CONVENTIONS["vrsbench"].iou((10, 0, 20, 10), truth, SIZE) == pytest.approx(11 / 231)
    assert CONVENTIONS["plain"].iou((10, 0, 20, 10), truth, SIZE) == 0


corner = st.integers(0, 60)
box = st.tuples(corner, corner, st.integers(1, 40), st.integers(1, 40)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(box, box)
def test_against_other_ways_to_compute_them(a, b):
    """Plain against vlm.boxes, +1 by counting pixels, and the mixed one step by step."""
    assert CONVENTIONS["plain"].iou(a, b, SIZE) == pytest.approx(iou(a, b), abs=1e-12)
    pixels = [{(x, y) for x in range(q[0], q[2] + 1) for y in range(q[1], q[3] + 1)} for q in (a, b)]
    counted = len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])
    assert CONVENTIONS["vrsbench"].iou(a, b, SIZE) == pytest.approx(counted, abs=1e-12)
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[2] - 1, b[2] - 1), min(a[3] - 1, b[3] - 1)
    shared = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    assert CONVENTIONS["rscovlm"].iou(a, b, SIZE) == pytest.approx(shared / union, abs=1e-12)


def test_mean_iou_and_ciou_with_failures():
    asked = [
        ground(1, "(0,0),(100,100)", (0, 0, 10, 10)),  # 100 / 100
        ground(2, "(0,0),(400,400)", (0, 0, 40, 20)),  # 800 / 1600
        ground(3, "nowhere", (0, 0, 10, 20)),  # a failure: 0 / 200
        ground(4, "(0,0),(100,100),(0,0),(100,100)", (0, 0, 10, 10)),  # one box too many: 0 / 100
    ]
    metrics = Grounding(thresholds=(0.5, 0.7))(asked, TEXT).metrics
    assert metrics["grounding/miou"].value == pytest.approx((1 + 0.5) / 4)
    assert metrics["grounding/ciou"].value == pytest.approx(900 / 2000)
    assert [metrics[f"grounding/acc@{t}"].value for t in (0.5, 0.7)] == [2 / 4, 1 / 4]
    assert {metric.n for metric in metrics.values()} == {4}  # nothing leaves the denominator


def test_size_classes():
    # areas in pixels: 32² = 1024 is S still, 25·41 = 1025 is M, 96² = 9216 is M still, 97·96 is L; 0 is S
    corners = ((32, 32), (25, 41), (96, 96), (97, 96), (5, 0))
    assert [size_class((0, 0, *corner)) for corner in corners] == ["S", "M", "M", "L", "S"]
    asked = [
        ground(1, "(0,0),(310,330)", (0, 0, 31, 33)),
        ground(2, "(0,0),(10,10)", (0, 0, 31, 33)),
        ground(3, "(0,0),(320,330)", (0, 0, 32, 33)),
    ]
    metrics = Grounding(sizes=True)(asked, TEXT).metrics
    assert (metrics["grounding/acc@0.5[S]"].value, metrics["grounding/acc@0.5[S]"].n) == (0.5, 2)
    assert (metrics["grounding/acc@0.5[M]"].value, metrics["grounding/acc@0.5[M]"].n) == (1, 1)
    assert "grounding/acc@0.5[L]" not in metrics


def test_rotated_boxes():
    """A square of side 20 and the same turned by 45°: they share a regular octagon, 8 (√2 - 1) r² with r = 10."""
    upright, turned = quad_from_obb(50, 50, 20, 20, 0), quad_from_obb(50, 50, 20, 20, 45)
    octagon = 8 * (2**0.5 - 1) * 100
    assert quad_parts(turned, upright) == pytest.approx((octagon, 800 - octagon))
    assert quad_parts([0] * 8, upright) == pytest.approx((0, 400))
    asked = [Prediction("1", "g", "grounding", "{<40><40><60><60>|<45>}", quads=[upright], boxes=[[40, 40, 60, 60]])]
    asked[0].size = SIZE
    reading = Reading("geochat", "text")
    metrics = Grounding(rotated=True, thresholds=(0.7, 0.75))(asked, reading).metrics
    assert metrics["grounding/miou"].value == pytest.approx(octagon / (800 - octagon))  # 0.707
    assert [metrics[f"grounding/acc@{t}"].value for t in (0.7, 0.75)] == [1, 0]
    assert "polygons" in metrics["grounding/acc@0.7"].convention
    assert Grounding()(asked, reading).metrics["grounding/miou"].value == pytest.approx(0.5)  # 20² in (20√2)²


def test_several_boxes_and_all_of_them():
    truth = [[0, 0, 10, 10], [50, 50, 60, 60]]
    asked = [
        Prediction("both", "g", "grounding", "(500,500),(600,600),(0,0),(100,100)", boxes=truth, size=SIZE),
        Prediction("one half", "g", "grounding", "(0,0),(100,100),(500,500),(600,540)", boxes=truth, size=SIZE),
        Prediction("one", "g", "grounding", "(0,0),(100,100)", boxes=truth, size=SIZE),
    ]
    metrics = Grounding(every=True)(asked, TEXT).metrics
    assert metrics["grounding/every@0.5"].value == 1 / 3  # 0.4 < 0.5 spoils the second, a missing box the third
    assert metrics["grounding/acc@0.5"].value == 2 / 3  # (1 + 0.4) / 2 = 0.7
    assert metrics["grounding/ciou"].value == pytest.approx((200 + 140) / (200 + 200 + 200))


def test_pixels_of_the_resized_image():
    """A 100 x 100 picture enlarged to 112 x 112: 56 of its pixels are 50 of the original's."""
    asked = [ground(1, "0,0,56,56 dam", (0, 0, 50, 50), resized=(112, 112))]
    assert Grounding()(asked, Reading("rscovlm", "text")).metrics["grounding/miou"].value == 1
    asked[0].resized = None
    with pytest.raises(DataError, match="'g/1': no 'resized'"):
        Grounding()(asked, Reading("rscovlm", "text"))
