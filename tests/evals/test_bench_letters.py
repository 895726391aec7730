"""Benchmarks of large pictures: letters read as their evaluators read them, means by hand, and who zooms."""

from __future__ import annotations

import pytest

from evals.benchmarks import BENCHMARKS, find, session
from evals.predictions import Prediction
from evals.scoring.letters import all_letters, first_letter, strict
from evals.scoring.reading import Reading
from samples import Sample
from vlm import prompts
from vlm.common.errors import DataError

WHOLE = Reading("qwen2_vl", "text")
COLOURS = ["Yellow", "Blue", "Gray", "White", "The image does not feature the color."]
LAND = "Land use classification/Overall Land use classification"


# What is read out of one answer. Expected by hand, from what the scripts do.


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("D", "D"), ("(B)", "B"), ("The best answer is C.", "C"), ("The answer is: D", "D"),
        ("white", "D"), ("Blue", "B"),  # a capital B
        ("the color", "E"), ("yellow", "A"), ("low", "A"),  # parts of an option
        ("green", ""), ("", ""), (" ", ""), ("The answer", ""),
        ("I think it might be one of those that are white", ""),  # ten words are looked for, eleven are not
        ("It is white. Answer: D", "A"),  # the A of Answer
    ],
)  # fmt: skip
def test_first_letter(said, expected):
    assert first_letter(said, COLOURS) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("A B D", "ABD"), ("(A) port (C) housing", "AC"), ("A, C.", "AC"), ("ABD", "ABD"), ("a b", ""), ("", ""),
        ("The correct answer is B", "B"), ("The answer is (c) or B", "C"),  # brackets first
        ("B because it is", "ABCE"),  # every letter a to e of every word
        ("Farmland", ""), ("Answer: B", "ABE"),
    ],
)  # fmt: skip
def test_all_letters(said, expected):
    assert all_letters(said) == set(expected)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("B", "B"), ("b", "B"), ("(B)", "B"), ("B. Blue", "B"), ("blue", "B"), ("A B D", "ABD"), ("A, B and D.", "ABD"),
        ("(A)(B)", "AB"), ("ABD", "ABD"), ("A/B", "AB"), ("A & B", "AB"), ("A B A", ""), ("A F", ""), ("AND", ""),
        ("A or B", ""), ("The answer is B", ""), ("", ""), ("not B", ""),
    ],
)  # fmt: skip
def test_strictly(said, expected):
    assert strict(said, COLOURS) == set(expected)


# Means.


def asked(number, said, true, kind, task="choice", choices=COLOURS):
    return Prediction(str(number), "MME_RealWorld", task, said, kind=kind, answer=true, choices=list(choices))


MME = [
    asked(1, "D", "D", "color"),
    asked(2, "Blue.", "B", "color"),
    asked(3, "white", "A", "color"),
    asked(4, "It may be D", "D", "count"),
    asked(5, "E", "B", "position"),
    asked(6, "The best answer is C", "C", "position"),
    asked(7, "", "A", "position"),
]
"""By MME-RealWorld's script 1, 2, 4 and 6 are right (of 4, I is no letter from A to E): 2/3, 1/1, 1/3."""


def test_mme_realworld_by_hand():
    found = find("mme-realworld-rs").score(MME, WHOLE).metrics
    values = {name: metric.value for name, metric in found.items()}
    assert values["choice/accuracy:mme_realworld"] == 4 / 7
    assert values["choice/accuracy:mme_realworld[color]"] == 2 / 3
    assert values["choice/mean_of_kinds:mme_realworld"] == pytest.approx((2 / 3 + 1 + 1 / 3) / 3)
    assert values["choice/not_shown:mme_realworld"] == 1 / 7
    # strictly: 1, 2; leniently 6, too; RSCoVLM: "d", "b" in "blue", "a" not in "white", "d", no, "c", no
    assert (values["choice/accuracy"], values["choice/accuracy:lenient"]) == (2 / 7, 3 / 7)
    assert values["choice/accuracy:rscovlm"] == 4 / 7
    assert "empty = wrong" in found["choice/accuracy:mme_realworld"].convention
    assert "in words, too" in found["choice/accuracy:rscovlm"].convention


def test_rscovlm_takes_a_letter_in_a_word():
    """Its script asks whether "a" is in "yellow paint"."""
    found = find("mme-realworld-rs").score([asked(1, "yellow paint", "A", "color")], WHOLE).metrics
    assert found["choice/accuracy:rscovlm"].value == 1 and found["choice/accuracy:mme_realworld"].value == 0


LANDS = ["port", "farmland", "housing", "forest"]
XLRS = [
    asked(1, "B", "B", "Counting/Regional counting", choices=["3", "5", "7", "9"]),
    asked(2, "The answer is B", "B", "Counting/Regional counting", choices=["3", "5", "7", "9"]),
    asked(3, "(A) 1", "B", "Counting/Overall counting", choices=["1", "5", "7", "9"]),
    asked(4, "C A", "A C", LAND, "vqa", LANDS),
    asked(5, "A", "A C", LAND, "vqa", LANDS),
    asked(6, "A B C D", "A C", LAND, "vqa", LANDS),
    asked(7, "The answer is A and C.", "A C", LAND, "vqa", LANDS),
    asked(8, "D", "D", LAND, "vqa", LANDS),
]
"""As lmms-eval: 1, 2 of 2; 0 of 1; of land use 4 and 8 ("and" has an a and a d) of 5."""


def test_xlrs_bench_by_hand():
    found = find("xlrs-bench").score(XLRS, WHOLE).metrics
    values = {name: metric.value for name, metric in found.items()}
    assert values["choice/accuracy:xlrs_bench"] == 4 / 8
    assert values["choice/mean_of_kinds:xlrs_bench"] == pytest.approx((1 + 0 + 2 / 5) / 3)
    assert values["choice/accuracy:xlrs_bench[Counting]"] == 2 / 3
    assert values[f"choice/accuracy:xlrs_bench[{LAND}]"] == 2 / 5
    assert values["choice/accuracy"] == 3 / 8 and values["choice/accuracy:lenient"] == 5 / 8
    assert found["choice/accuracy"].n == 8 and found["choice/mean_of_kinds"].n == 8
    assert values["choice/mean_of_kinds"] == pytest.approx((1 / 2 + 0 + 2 / 5) / 3)


def test_as_lmms_eval_counts():
    """Restated: sets of characters; a mean over subtasks of each one's share."""
    shares = {}
    for one in XLRS:
        read = all_letters(one.completion)
        shares.setdefault(one.kind, []).append(read == set(one.answer.replace(" ", "")))
    found = find("xlrs-bench").score(XLRS, WHOLE).metrics
    macro = sum(sum(right) / len(right) for right in shares.values()) / len(shares)
    assert found["choice/mean_of_kinds:xlrs_bench"].value == pytest.approx(macro)


def test_inside_of_tags():
    tagged = [asked(1, "<think>A or B?</think><answer>D</answer>", "D", "color")]
    found = find("mme-realworld-rs").score(tagged, Reading("qwen2_vl", "answer")).metrics
    assert found["choice/accuracy:mme_realworld"].value == found["format"].value == 1


def test_a_truth_that_is_no_option_is_named():
    with pytest.raises(DataError, match="'MME_RealWorld/1': the answer 'F' names none of"):
        find("mme-realworld-rs").score([asked(1, "A", "F", "color")], WHOLE)
    with pytest.raises(DataError, match="no 'choices', which this benchmark's choice needs"):
        find("mme-realworld-rs").score([Prediction("1", "s", "choice", "A", answer="A")], WHOLE)


# How they ask.


def question(task, choices, kind=None):
    return Sample([], [{"role": "user", "content": "What?"}], task, "A", choices=choices, kind=kind)


def test_wordings():
    """By the README of MME-RealWorld and of XLRS-Bench."""
    told = prompts.user_text(question("choice", ["x", "y"]), "What?", find("mme-realworld-rs").wording)
    assert told == (
        "What? The choices are listed below: \n(A) x\n(B) y\nSelect the best answer to the above multiple-choice "
        "question based on the image. Respond with only the letter (A, B, C, D, or E) of the correct option.\n"
        "The best answer is:"
    )
    one, several = (
        prompts.user_text(question(task, ["x", "y"]), "What?", find("xlrs-bench").wording) for task in ("choice", "vqa")
    )
    assert one.startswith("What? The choices are listed below:\n(A) x\n(B) y\n") and one.endswith("The answer is:")
    assert "There may be more than one correct option." in several and "(A) x\n(B) y\n" in several


# The zoom.


def test_who_zooms_is_as_published():
    """RSCoVLM asks LRS-VQA's counts, and MME-RealWorld's counts and positions, without the tool."""
    said = {name: one.unzoomed for name, one in BENCHMARKS.items() if one.unzoomed}
    assert said == {"lrs-vqa": ("count",), "mme-realworld-rs": ("count", "position")}
    for name, kind, expected in (
        ("lrs-vqa", "count", False),
        ("lrs-vqa", "object color", True),
        ("lrs-vqa", None, True),
        ("mme-realworld-rs", "color", True),
        ("mme-realworld-rs", "Position", False),
        ("mme-realworld-rs", "count,color", False),
        ("lrs-gro", "object,Counting", True),
        ("xlrs-bench", "Counting/Regional counting", True),
        ("aid", "count", True),
    ):
        assert find(name).zooms(question("vqa", None, kind)) is expected, (name, kind)


def test_the_list_says_what_is_asked_without_a_zoom(tmp_path, capsys):
    session.listing(tmp_path)
    said = capsys.readouterr().out
    assert "3,738 questions of 3 types; data not below" in said and "; no zoom for count, position\n" in said
    assert said.count("no zoom for") == 2
