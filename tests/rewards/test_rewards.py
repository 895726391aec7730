"""The rule rewards, by hand and against brute force."""

from __future__ import annotations

import itertools
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from tests.support.completions import BOX, LEFT_HALF, SIZE, grounded, r1
from vlm.boxes import NOTATIONS, iou, write_boxes
from vlm.common.errors import DataError, RecipeError


def iou_of(completion, truth=(BOX,), **options) -> float | None:
    columns = {"boxes": [list(truth)], "size": [SIZE], "task": ["grounding"]}
    return rewards.resolve("iou", **options)(prompts=[""], completions=[completion], **columns)[0]


def test_format():
    completions = [
        r1("ship"),
        "<think>t</think><answer>a</answer>\n",
        "ship",
        r1(""),
        [],
        r1("a</answer><answer>b"),
    ]
    assert rewards.format(completions=completions) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_exact_match_judges_its_own_tasks_only():
    tasks = ["vqa", "vqa", "classification", "grounding", "choice", "open_ended", "vqa"]
    truth = ["Yes", "yes", "harbor", None, "B", "a ship", None]
    said = ["yes.", "no", "Harbor", "yes", "B", "a ship", "yes"]
    result = rewards.exact_match(completions=[r1(text) for text in said], answer=truth, task=tasks)
    assert result == [1.0, 0.0, 1.0, None, None, None, None]


def test_without_a_task_column_the_truth_decides():
    assert rewards.exact_match(completions=[r1("2"), r1("2")], answer=["2", None]) == [1.0, None]
    assert rewards.iou(completions=[grounded(BOX)] * 2, boxes=[[BOX], None], size=[SIZE, SIZE]) == [1.0, None]
    assert rewards.choice(completions=[r1("A")], answer=["A"]) == [None]


def test_applies_to_and_inside():
    columns = {"answer": ["a ship"] * 2, "task": ["open_ended", "vqa"]}
    everything = rewards.resolve("exact_match", applies_to="open_ended", inside="text")
    assert everything(completions=["A ship.", "A ship."], **columns) == [1.0, None]
    assert everything(completions=[r1("a ship"), ""], **columns) == [0.0, None]  # tags are text, too


def test_choice():
    columns = {"choices": [["airport", "harbor"]] * 5, "task": ["choice"] * 5}
    columns["answer"] = ["B", "B", "harbor", "B. harbor", "A"]
    completions = [r1("B"), r1("harbor"), r1("(B)"), r1("A"), r1("A satellite image")]
    assert rewards.choice(completions=completions, **columns) == [1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("predicted", "steps", "expected"),
    [
        (BOX, "continuous", 1.0),
        (LEFT_HALF, "continuous", 0.5),
        (LEFT_HALF, "graduated", 0.0),  # strictly greater
        (LEFT_HALF, "threshold", 1.0),  # at least
        ([10, 20, 60, 71], "graduated", 0.5),  # heights 51, 61, 71, 81 of 100
        ([10, 20, 60, 81], "graduated", 0.6),
        ([10, 20, 60, 91], "graduated", 0.7),
        ([10, 20, 60, 101], "graduated", 1.0),
        ([10, 20, 60, 69], "threshold", 0.0),
        ([60, 120, 90, 150], "continuous", 0.0),
    ],
)
def test_iou_steps(predicted, steps, expected):
    assert iou_of(grounded(predicted), steps=steps) == pytest.approx(expected, abs=1e-12)


def test_iou_threshold_and_notation():
    assert iou_of(grounded(LEFT_HALF), steps="threshold", threshold=0.6) == 0.0
    assert iou_of(r1("[[100,100,600,600]]"), notation="vhm") == 1.0
    assert iou_of(r1("[[100,100,600,600]]")) == 0.0
    assert typing.get_args(typing.get_type_hints(rewards.iou)["notation"]) == tuple(NOTATIONS)


def test_iou_of_several_boxes_counts_missing_and_surplus():
    other = [70, 150, 90, 190]
    assert iou_of(grounded(BOX, other), [BOX, other]) == 1.0
    assert iou_of(grounded(other, BOX), [BOX, other]) == 1.0
    assert iou_of(grounded(BOX), [BOX, other]) == 0.5
    assert iou_of(grounded(BOX, other), [BOX]) == 0.5
    assert iou_of(grounded(BOX, BOX, BOX, BOX), [BOX]) == 0.25
    assert iou_of(grounded(LEFT_HALF, other), [BOX, other]) == 0.75


@pytest.mark.parametrize(
    "completion",
    [
        "",
        [],
        r1(""),
        r1("nothing"),
        "(100,100),(600,600)",
        r1("(600,600),(100,100)"),
        r1("(100,100),(600,600) x"),
    ],
)
def test_iou_is_zero_on_what_is_no_box(completion):
    assert iou_of(completion) == 0.0


def test_nothing_is_earned_where_the_truth_is_empty():
    assert iou_of(r1(""), []) == 0.0
    assert iou_of(grounded(BOX), []) == 0.0
    assert rewards.exact_match(completions=[r1(""), r1("."), ""], answer=["", ".", ""]) == [0.0, 0.0, 0.0]


NAMED = {"source": ["lhrs"], "id": ["3"]}


@pytest.mark.parametrize(
    ("reward", "task", "columns", "message"),
    [
        (
            "iou",
            "grounding",
            {"boxes": [None], "size": [SIZE], "id": ["7"]},
            "id '7'.* needs the field 'boxes'",
        ),
        ("iou", "grounding", {"boxes": [[BOX]]}, "row 0 of the batch.*'size'"),
        ("choice", "choice", {"answer": ["B"], **NAMED}, "source 'lhrs', id '3'.*'choices'"),
        ("choice", "choice", {"answer": ["C"], "choices": [["x", "y"]]}, "names none of the choices"),
    ],
)
def test_rows_without_their_truth_are_errors_of_the_data(reward, task, columns, message):
    with pytest.raises(DataError, match=message):
        rewards.resolve(reward)(completions=[r1("A")], task=[task], **columns)


SAID = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="AB(),.0123456789[]<|box_startendhr>", max_size=60),
    st.text(max_size=20).map(lambda text: r1(text)[0]["content"]),
    st.lists(st.integers(0, 1000), min_size=4, max_size=8).map(
        lambda n: r1("({},{}),({},{})".format(*n))[0]["content"]
    ),
)


@settings(deadline=None)
@given(st.lists(SAID, min_size=4, max_size=4), st.sampled_from(["continuous", "graduated", "threshold"]))
def test_rewards_never_raise_and_stay_bounded(said, steps):
    columns = {
        "task": ["grounding", "choice", "vqa", "caption"],
        "boxes": [[BOX, LEFT_HALF], None, None, None],
        "size": [SIZE] * 4,
        "choices": [None, ["airport", "harbor"], None, None],
        "answer": [None, "B", "two", "text"],
    }
    gated = rewards.resolve("gated", tasks={"grounding": {"use": "iou", "steps": steps}})
    functions = [
        gated,
        rewards.format,
        rewards.exact_match,
        rewards.choice,
        rewards.resolve("iou", steps=steps),
    ]
    for function in functions:
        values = function(prompts=[""] * 4, completions=said, **columns)
        assert len(values) == 4
        assert all(value is None or 0 <= value <= 1 for value in values)
    assert gated(completions=said, **columns)[3] is None


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), min_size=1, max_size=3), st.data())
def test_iou_reward_equals_brute_force(corners, data):
    def proper(n):
        return [*map(float, (min(n[0], n[2]), min(n[1], n[3]), max(n[0], n[2]), max(n[1], n[3])))]

    truth = [proper(n) for n in corners]
    found = [
        proper(n)
        for n in data.draw(st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), min_size=1, max_size=3))
    ]
    short, long = sorted((found, truth), key=len)
    best = max(
        sum(iou(a, b) for a, b in zip(short, chosen, strict=True))
        for chosen in itertools.permutations(long, len(short))
    )
    size = (1000, 1000)  # a pixel is a per mille, so nothing is rounded
    text = write_boxes(found, "qwen2_vl", size)
    value = rewards.iou(completions=[r1(text)], boxes=[truth], size=[size])[0]
    assert value == pytest.approx(best / len(long), abs=1e-9)


def test_threshold_must_reward_something_and_not_everything():
    with pytest.raises(RecipeError, match=r"threshold is 0; expected a number in \(0, 1\]"):
        iou_of(grounded(BOX), steps="threshold", threshold=0)
