"""The rewards of numbers, counts and sets of labels, by hand, and the exploits that they withstand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from vlm.common.errors import DataError, RecipeError


def r1(answer: str) -> str:
    return f"<think>t</think>\n<answer>{answer}</answer>"


def earned(name: str, said: str, truth: str | None, task: str | None = "vqa", choices=None, **options) -> float | None:
    """What one answer earns."""
    columns = {"answer": [truth], "choices": [choices], "id": ["4"]} | ({} if task is None else {"task": [task]})
    return rewards.resolve(name, **options)(prompts=[""], completions=[r1(said)], **columns)[0]


# --- numeric


@pytest.mark.parametrize(
    ("said", "truth", "expected"),
    [
        ("3", "3", 1.0),
        ("three", "3", 1.0),
        ("3.0", "3", 1.0),
        ("1,000", "1000", 1.0),
        ("3.5", "35", 0.0),  # published: full stops are deleted
        ("35", "3.5", 0.0),
        ("1,000", "1", 0.0),
        ("3 or 4", "3", 0.0),
        ("3, 4, 5", "4", 0.0),
        ("It is 3", "3", 0.0),
        ("", "3", 0.0),
        ("35 m²", "35m2", 1.0),
        ("35", "35m2", 1.0),
        ("35 km2", "35m2", 0.0),
        ("1 ship", "1 ships", 1.0),
        ("yes", "3", 0.0),
        ("3", "yes", None),  # the row's own answer is no number
        ("yes", "yes", None),
        ("3", None, None),
    ],
)
def test_numeric(said, truth, expected):
    assert earned("numeric", said, truth) == expected


def test_numeric_tolerances():
    assert [earned("numeric", said, "100", absolute=5) for said in ("95", "105", "105.1", "94")] == [1, 1, 0, 0]
    assert [earned("numeric", said, "-200", relative=0.1) for said in ("-180", "-220", "-179", "200")] == [1, 1, 0, 0]
    assert earned("numeric", "7", "0", relative=0.5) == 0.0
    assert earned("numeric", "1", "0", relative=0.5, absolute=1) == 1.0  # the wider of the two
    for options in ({"absolute": -1}, {"relative": 1.0}, {"absolute": math.inf}):
        with pytest.raises(RecipeError, match="reward 'numeric': absolute"):
            earned("numeric", "1", "1", **options)


# --- count


@pytest.mark.parametrize(
    ("said", "truth", "linear", "exp"),
    [
        ("10", "10", 1.0, 1.0),
        ("ten ships", "10", 1.0, 1.0),
        ("9", "10", 0.9, math.exp(-0.3)),
        ("12", "10", 0.8, math.exp(-0.6)),
        ("30", "10", 0.0, math.exp(-6)),
        ("1", "0", 0.0, math.exp(-3)),
        ("0", "0", 1.0, 1.0),
        ("999999999999999", "1", 0.0, 0.0),
        ("9.5", "10", 0.0, 0.0),  # a count is whole
        ("10.0", "10", 0.0, 0.0),
        ("-10", "10", 0.0, 0.0),
        ("10%", "10", 0.0, 0.0),
        ("9 10 11", "10", 0.0, 0.0),
        ("9-11", "10", 0.0, 0.0),
        ("between 9 and 11", "10", 0.0, 0.0),
        ("", "0", 0.0, 0.0),
        ("none", "0", 0.0, 0.0),
        ("3", "no", None, None),
        ("3", "3.5", None, None),
    ],
)
def test_count(said, truth, linear, exp):
    assert earned("count", said, truth) == (linear if linear is None else pytest.approx(linear, abs=1e-12))
    assert earned("count", said, truth, closeness="exp") == (exp if exp is None else pytest.approx(exp, abs=1e-12))
    if linear is not None:
        assert earned("count", said, truth, closeness="exact") == float(linear == 1)


def test_count_options():
    assert earned("count", "9", "10", closeness="exp", rate=5.0) == pytest.approx(math.exp(-0.5))
    with pytest.raises(RecipeError, match="rate is 0"):
        earned("count", "9", "10", rate=0)


# --- label_set

KNOWN = ["ship", "harbor", "plane", "court"]


@pytest.mark.parametrize(
    ("said", "truth", "f1", "jaccard"),
    [
        ("ship, harbor", "harbor, ship", 1.0, 1.0),
        ("Ship; Harbor.", "harbor, ship", 1.0, 1.0),
        ("harbor\nship", "harbor, ship", 1.0, 1.0),
        ("ship", "harbor, ship", 2 / 3, 1 / 2),
        ("ship, harbor, plane", "harbor, ship", 4 / 5, 2 / 3),
        ("ship, plane", "harbor, ship", 1 / 2, 1 / 3),
        ("ship, ship, ship, ship", "ship", 2 / 5, 1 / 4),  # repeating is no free try
        ("plane", "harbor, ship", 0.0, 0.0),
        ("", "harbor, ship", 0.0, 0.0),
        (", ;", "harbor, ship", 0.0, 0.0),
        ("ship and harbor", "harbor, ship", 0.0, 0.0),
        ("", "", 0.0, 0.0),
        ("ship", "ship", 1.0, 1.0),
        ("ship", None, None, None),
    ],
)
def test_label_set(said, truth, f1, jaccard):
    for agreement, expected in (("f1", f1), ("jaccard", jaccard)):
        value = earned("label_set", said, truth, "classification", agreement=agreement)
        assert value == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("agreement", ["f1", "jaccard"])
@pytest.mark.parametrize("where", ["choices", "vocabulary"])
def test_naming_all_labels_earns_nothing_where_they_are_known(agreement, where):
    def value(said, truth):
        return earned("label_set", said, truth, "classification", agreement=agreement, **{where: KNOWN})

    for truth in ("ship", "ship, plane", "ship, harbor, court"):
        assert value(", ".join(KNOWN), truth) == 0.0
        assert value("A, B, C, D", truth) == 0.0  # by letter
        assert value(", ".join(KNOWN * 3), truth) == 0.0
        assert value(truth, truth) == 1.0
    assert value(", ".join(KNOWN), ", ".join(KNOWN)) == 1.0
    assert value("A; C", "ship, plane") == 1.0
    # One of two: F1 2/3 over an echo's 4/6, so nothing; jaccard 1/2 over 2/4 likewise. Three, two of them right: more.
    assert value("ship", "ship, plane") == pytest.approx(0, abs=1e-12)
    expected = {"f1": (4 / 5 - 2 / 3) / (1 / 3), "jaccard": (2 / 3 - 1 / 2) / (1 / 2)}[agreement]
    assert value("ship, plane, court", "ship, plane") == pytest.approx(expected)
    assert value("ship, plane, tank", "ship, plane") == pytest.approx(expected)  # not in the vocabulary: surplus


def test_labels_of_the_row_must_be_known():
    with pytest.raises(DataError, match="id '4': answer 'ship, tank' has labels beyond"):
        earned("label_set", "ship", "ship, tank", "classification", choices=KNOWN)


# --- all of them


def test_other_tasks_and_missing_columns_are_none():
    for name in ("numeric", "count", "label_set"):
        assert earned(name, "3", "3", "grounding") is None
        assert rewards.resolve(name)(completions=[r1("3")]) == [None]
        assert earned(name, "3", "3", None) == 1.0
        assert earned(name, "3", "3", "caption", applies_to="caption") == 1.0


@pytest.mark.parametrize("name", ["numeric", "count", "label_set"])
def test_answers_that_are_no_answer(name):
    """Published: an answer over several lines is lost, a second answer passes, the reasoning stands in for it."""
    reward = rewards.resolve(name)
    said = [
        "<think>t</think><answer>\n3\n</answer>\n",
        "<answer>3</answer><answer>3</answer>",
        "3",
        "<answer></answer>",
    ]
    assert reward(completions=said, answer=["3"] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert rewards.resolve(name, inside="text")(completions=["3"], answer=["3"]) == [1.0]


@settings(max_examples=250)
@given(
    st.one_of(st.text(), st.text(alphabet="0123456789., -;\nABCD%shipon")),
    st.sampled_from(["3", "0", "-2.5 km", "ship", "ship, harbor", "", "A,B", "10000000"]),
)
def test_every_reward_stays_between_0_and_1(said, truth):
    for name in ("numeric", "count", "label_set", "exact_match"):
        value = earned(name, said, truth, None)
        assert value is None or 0 <= value <= 1
    for options in ({"closeness": "exp"}, {"closeness": "exact"}):
        value = earned("count", said, truth, None, **options)
        assert value is None or 0 <= value <= 1
    for agreement in ("f1", "jaccard"):
        value = earned("label_set", said, "ship, plane", None, agreement=agreement, vocabulary=KNOWN)
        assert 0 <= value <= 1


@pytest.mark.parametrize(
    ("reward", "answers_", "columns", "unreadable"),
    [
        ("exact_match", ["2", "", "The answer is 2"], {"answer": ["2"] * 3}, [0, 1, 0]),
        ("choice", ["B", "Option B", "B or C"], {"answer": ["B"] * 3, "choices": [["x", "y", "z"]] * 3}, [0, 1, 1]),
        ("numeric", ["2", "two ships", "2 or 3"], {"answer": ["2"] * 3}, [0, 0, 1]),
        ("count", ["2", "2.5", "many"], {"answer": ["2"] * 3}, [0, 1, 1]),
        ("label_set", ["x, y", "x, w", ""], {"answer": ["x"] * 3, "choices": [["x", "y"]] * 3}, [0, 1, 1]),
        (
            "iou",
            ["(0,0),(100,100)", "the dam", "(100,100),(0,0)"],
            {"boxes": [[[0, 0, 10, 10]]] * 3, "size": [(100, 100)] * 3},
            [0, 1, 0],  # an inverted box is read, and missed
        ),
    ],
)
def test_the_share_that_cannot_be_read_is_logged(reward, answers_, columns, unreadable):
    """Inside of `gated` and alone, for the rows that the reward applies to; rewards stay as strict as they were."""
    logged = []
    function = rewards.resolve(reward, inside="text")
    values = function(completions=answers_, log_metric=lambda name, value: logged.append((name, value)), **columns)
    assert logged == [(f"reward_unreadable/{reward}", float(value)) for value in unreadable]
    assert all(value == 0 for value, bad in zip(values, unreadable, strict=True) if bad)


def test_rows_of_another_task_are_not_counted_as_unreadable():
    logged = []
    gated = rewards.resolve("gated")
    gated(
        completions=["<think>a</think><answer>B</answer>", "<think>a</think><answer>?</answer>", "no tags"],
        task=["choice", "choice", "vqa"],
        answer=["B", "A", "yes"],
        choices=[["x", "y"], ["x", "y"], None],
        log_metric=lambda name, value: logged.append((name, value)),
    )
    assert [entry for entry in logged if "unreadable" in entry[0]] == [
        ("reward_unreadable/exact_match", 1.0),
        ("reward_unreadable/choice", 0.0),
        ("reward_unreadable/choice", 1.0),
    ]
