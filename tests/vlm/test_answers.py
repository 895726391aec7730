"""Completions taken apart, answers compared, options named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm.answers import Parsed, blank, normalise, option, parse

PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "ship", " ", "\n", "<Answer>", "a<b"]),
    max_size=10,
).map("".join)


@pytest.mark.parametrize(
    ("text", "trace", "answer"),
    [
        ("<think>t</think><answer>a</answer>", "t", "a"),
        ("<think>t</think>\n<answer>a</answer>\n", "t", "a"),
        ("  \n<think> t </think>  \n\n <answer> a </answer> \n\n", "t", "a"),
        ("<think>one\ntwo</think>\n<answer>\nred\nship\n</answer>", "one\ntwo", "red\nship"),
        ("<think></think><answer>a</answer>", "", "a"),
        ("<think>a < b > c</think><answer><|box_start|>(1,2),(3,4)<|box_end|></answer>", "a < b > c", None),
    ],
)
def test_well_formed(text, trace, answer):
    answer = "<|box_start|>(1,2),(3,4)<|box_end|>" if answer is None else answer
    assert parse(text) == Parsed(trace, answer, True)


@pytest.mark.parametrize(
    "unseen", ["\u200b", "\u00ad", "\u3164", "\0", "\ufeff \u2060", "\u1160", "\ufe0f", "\u2800", "\x7f"]
)
def test_what_cannot_be_seen_is_no_answer(unseen):
    assert blank(unseen) and normalise(unseen) == ""
    assert parse(f"<think>t</think><answer>{unseen}</answer>") == Parsed("t", "", False)
    said = parse(f"<think>t</think><answer>har{unseen}bor</answer>")
    assert said.well_formed and not blank(said.answer)
    assert normalise(f"har{unseen.strip()}bor") == "harbor" or " " in unseen
    assert option(f"{unseen}B", ["a", "b"]) == 1  # what looks the same is the same


@pytest.mark.parametrize(
    ("text", "trace", "answer"),
    [
        ("", None, None),
        ("ship", None, None),
        ("<answer>a</answer>", None, "a"),  # no trace: an answer, but not the format
        ("So: <think>t</think><answer>a</answer>", "t", "a"),
        ("<think>t</think> so <answer>a</answer>", "t", "a"),
        ("<think>t</think><answer>a</answer> done", "t", "a"),
        ("<think>t</think><answer></answer>", "t", ""),  # nothing is answered
        ("<think>t</think><answer> \n </answer>", "t", ""),
        ("<answer>a</answer><think>t</think>", "t", "a"),  # the other order
        ("<think>t</think><answer>a</answer><answer>b</answer>", "t", None),
        ("<think>t</think><answer>a</answer></answer>", "t", None),
        ("<think>t</think><answer>a", "t", None),
        ("<think>t</think></answer>a<answer>", "t", None),
        ("<think>t</think><think>u</think><answer>a</answer>", None, "a"),
        ("<think>t<answer>a</answer>", None, "a"),  # the trace never ends
        ("<think>perhaps <answer>a</answer></think>", "perhaps <answer>a</answer>", None),  # only thought of
        ("<think>t</think><think><answer>a</answer></think>", None, None),
        ("<answer><think>t</think>a</answer>", "t", None),
        ("<think>t</think><ANSWER>a</ANSWER>", "t", None),
        ("<think>t</think>< answer>a</answer>", "t", None),
    ],
)
def test_not_well_formed(text, trace, answer):
    assert parse(text) == Parsed(trace, answer, False)


@given(st.one_of(st.text(), PIECES))
def test_parse_never_raises_and_well_formed_has_both_parts(text):
    parsed = parse(text)
    if parsed.well_formed:
        assert parsed.trace is not None
        assert parsed.answer
        assert [text.count(tag) for tag in ("<think>", "</think>", "<answer>", "</answer>")] == [1, 1, 1, 1]


@given(st.text(alphabet="ab \n.<>"), st.text(alphabet="ab \n.<>"), st.sampled_from(["", " ", "\n", "\r\n\t "]))
def test_what_is_put_in_comes_out(trace, answer, space):
    text = f"{space}<think>{trace}</think>{space}<answer>{answer}</answer>{space}"
    assert parse(text) == Parsed(trace.strip(), answer.strip(), bool(answer.strip()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("  Two \n SHIPS ", "two ships"),
        ('"Yes."', "yes"),
        ("'yes'.", "yes"),
        ("“Harbour”", "harbour"),
        ("3.", "3"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("3.5.", "3.5"),
        ("wait..", "wait.."),
        ("wait…", "wait..."),
        ("the ship", "the ship"),
        ("Straße", "strasse"),
        ("１２", "12"),  # full width
        ("ﬁeld", "field"),  # a ligature
        ("it's", "it's"),
        ('"', '"'),
        (".", ""),
        ("", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


@given(st.one_of(st.text(), st.text(alphabet="aA. \"'“”…\n3")))
def test_normalise_never_raises_and_is_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)


def test_numbers_stay_apart():
    assert normalise("3.5") != normalise("35")
    assert normalise("3.") == normalise("3")


CHOICES = ["airport", "harbor", "A golf course", "storage tank"]


@pytest.mark.parametrize(
    "text",
    ["B", "b", "(B)", "B.", "B)", "B:", "(B).", " B \n", "B. harbor", "B. Harbor.", "B) harbor", "(B) harbor"]
    + ["B: harbor", "B harbor", "harbor", "Harbor.", '"harbor"', "Ｂ"],
)
def test_option_named(text):
    assert option(text, CHOICES) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "A satellite image of a harbor",
        "I think B",
        "The answer is B.",
        "Because",
        "E",  # there is no fifth option
        "B. airport",  # letter and text disagree
        "A, B",
        "A B C D",
        "A or B",
        "AB",
        "(B",
        "airport harbor",
        "A. airport B. harbor C. A golf course D. storage tank",
        "A. airport\nB. harbor",
        "harbors",
        "not harbor",
    ],
)
def test_option_not_named(text):
    assert option(text, CHOICES) is None


def test_option_text_that_begins_like_a_letter():
    assert option("A golf course", CHOICES) == 2
    assert option("C. a golf course", CHOICES) == 2
    assert option("A", CHOICES) == 0


def test_option_ambiguous_texts():
    assert option("ship", ["ship", "Ship."]) is None
    assert option("B", ["ship", "Ship."]) == 1
    assert option("", ["", "ship"]) is None
    assert option("A ", ["", "ship"]) == 0
    assert option("B", []) is None


@given(st.text(), st.lists(st.text(), max_size=5))
def test_option_never_raises_and_stays_in_range(text, choices):
    index = option(text, choices)
    assert index is None or 0 <= index < len(choices)
    listed = " ".join(f"{chr(65 + i)}. {choice}" for i, choice in enumerate(["x", "y", *choices]))
    assert option(listed, ["x", "y", *choices]) is None
