"""Measuring a scorer: numbers found by hand, and a control that really shows other images."""

import math

import pytest

from rewards.score.training.metrics import CONVENTIONS, derange, dimensions, evaluate, markdown
from rewards.score.training.preferences import Preference
from vlm.common.errors import DataError


def pair(*about, images=(), source="s", ranked=("good", "bad"), **more):
    return Preference(list(images), "Q", list(ranked), list(about), source=source, **more)


def value(measured, name):
    return measured[name].value, measured[name].n


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_accuracy_overall_and_per_dimension():
    records = [pair("relevance"), pair("relevance", "clarity"), pair("clarity"), pair()]
    found = evaluate(records, [(2.0, 1.0), (0.0, 3.0), (5.0, 4.0), (1.0, 0.0)])
    assert value(found, "pair_accuracy") == (0.75, 4)
    assert value(found, "pair_accuracy[relevance]") == (0.5, 2)
    assert value(found, "pair_accuracy[clarity]") == (0.5, 2)
    assert not [name for name in found if "shuffled" in name]


def test_a_tie_orders_nothing():
    """A scorer that gives every candidate the same (fault 13) is never right, and honest about it."""
    found = evaluate([pair(), pair()], [(1.0, 1.0), (7.0, 7.0)])
    assert found["pair_accuracy"].value == 0
    assert found["calibration/ece"].value == 0 and found["calibration/brier"].value == 0.25
    assert found["nll"].value == pytest.approx(math.log(2))


def test_a_ranked_list_holds_all_its_pairs():
    """c b a d: of the six pairs a>b, a>c and b>c are wrong."""
    found = evaluate([pair(ranked="abcd")], [(2.0, 3.0, 4.0, 1.0)])
    assert value(found, "pair_accuracy") == (0.5, 6)


def test_ratings_order_a_dimension_their_own_way():
    """The judge ranks a over b over c, and finds c the clearest; b and c tie in relevance, and only a pair that is
    rated in a dimension counts there."""
    ratings = [
        {"relevance": 5.0, "clarity": 2.0, "richness": 4.0},
        {"relevance": 3.0, "clarity": 1.0},
        {"relevance": 3.0, "clarity": 5.0, "richness": 1.0},
    ]
    records = [pair(ranked="abc", ratings=ratings)]
    assert dimensions(records) == ["relevance", "clarity", "richness"]
    found = evaluate(records, [(3.0, 2.0, 1.0)])
    assert value(found, "pair_accuracy") == (1.0, 3)
    assert value(found, "pair_accuracy[relevance]") == (1.0, 2)
    assert value(found, "pair_accuracy[clarity]") == (pytest.approx(1 / 3), 3)
    assert value(found, "pair_accuracy[richness]") == (1.0, 1)


def test_a_record_that_names_its_dimensions_is_about_those():
    ratings = [{"relevance": 1.0, "clarity": 5.0}, {"relevance": 5.0, "clarity": 1.0}]
    assert dimensions([pair("clarity", ratings=ratings)]) == ["clarity"]


def test_calibration_by_hand():
    """Differences 2, 2, -2 fall in one bin (c = 0.88, two of three right), 0.1 in another (c = 0.525, right)."""
    found = evaluate([pair()] * 4, [(2.0, 0.0), (3.0, 1.0), (0.0, 2.0), (0.1, 0.0)])
    high, low = sigmoid(2), sigmoid(0.1)
    assert found["calibration/ece"].value == pytest.approx((abs(3 * high - 2) + abs(low - 1)) / 4)
    brier = (2 * (1 - high) ** 2 + (1 - sigmoid(-2)) ** 2 + (1 - low) ** 2) / 4
    assert found["calibration/brier"].value == pytest.approx(brier)
    assert found["nll"].value == pytest.approx(-(2 * math.log(high) + math.log(1 - high) + math.log(low)) / 4)


def test_differences_of_a_thousand_are_finite():
    found = evaluate([pair(), pair()], [(1000.0, 0.0), (0.0, 1000.0)])
    assert found["nll"].value == pytest.approx(500)
    assert found["calibration/brier"].value == pytest.approx(0.5)
    assert found["calibration/ece"].value == pytest.approx(0.5)


def test_sources_are_told_apart_where_there_are_several():
    records = [pair(source="icpd"), pair(source="vipd"), pair(source="vipd")]
    found = evaluate(records, [(1.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
    assert value(found, "icpd/pair_accuracy") == (1.0, 1) and value(found, "vipd/pair_accuracy") == (0.5, 2)


# --- the control ---


def test_no_record_of_the_control_has_its_own_images():
    records = [pair(images=[f"{number // 3}.png"], id=str(number)) for number in range(30)] + [pair(id="text")]
    control = derange(records, seed=0)
    assert sorted(control) == list(range(30))  # the text-only record has no place in it
    assert all(control[place].images != records[place].images for place in control)
    assert sorted(p.images[0] for p in control.values()) == sorted(p.images[0] for p in records if p.images)
    for place, shown in control.items():
        assert (shown.question, shown.ranked, shown.id) == ("Q", ["good", "bad"], str(place))
    assert derange(records, seed=0) == control != derange(records, seed=1)


def test_a_crowd_about_one_image_stays_out_in_part():
    """Five of a.png, one of b.png: two can swap."""
    records = [pair(images=["a.png"]) for _ in range(5)] + [pair(images=["b.png"])]
    control = derange(records, seed=0)
    assert len(control) == 2 and control[5].images == ["a.png"]
    assert derange(records[:5], seed=0) == {}
    assert derange([], seed=0) == derange([pair()], seed=0) == {}


def test_the_control_is_compared_over_its_own_pairs():
    records = [pair("relevance", images=["a"]), pair("clarity", images=["b"]), pair("clarity")]
    found = evaluate(records, [(1.0, 0.0), (1.0, 0.0), (0.0, 1.0)], {0: (0.0, 1.0), 1: (1.0, 0.0)})
    assert value(found, "pair_accuracy") == (pytest.approx(2 / 3), 3)
    assert value(found, "shuffled/pair_accuracy") == (0.5, 2) and value(found, "image_gain") == (0.5, 2)
    assert value(found, "image_gain[relevance]") == (1.0, 1) and value(found, "image_gain[clarity]") == (0.0, 1)
    assert value(found, "pair_accuracy[clarity]") == (0.5, 2)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([(1.0, math.nan)], "s/x: found the scores"),
        ([(1.0,)], "a finite one for each of 2"),
        ([], "scores of 0 records"),
    ],
)
def test_scores_that_say_nothing_are_an_error(scores, expected):
    with pytest.raises(DataError, match=expected):
        evaluate([pair(id="x")], scores)


def test_table():
    measured = evaluate([pair("relevance", images=["a"])], [(1.0, 0.0)], {0: (0.0, 1.0)})
    text = markdown(measured, "stage2")
    assert "| metric | stage2 | pairs |" in text and "| pair_accuracy[relevance] | 1.0000 | 1 |" in text
    assert "| image_gain | 1.0000 | 1 |" in text
    assert all(f"- {name}: " in text for name in CONVENTIONS)
