"""Numbers in answers: what is one, and what is not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.common.numerals import Number, read


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("12", 12, ""),
        (" 12. ", 12, ""),
        ("-3.5", -3.5, ""),
        ("−3", -3, ""),
        ("1,200", 1200, ""),
        ("1,234,567.5", 1234567.5, ""),
        (".5", 0.5, ""),
        ("007", 7, ""),
        ("１２", 12, ""),
        ('"3"', 3, ""),
        ("zero", 0, ""),
        ("Twelve ships", 12, "ships"),
        ("twenty-one", 21, ""),
        ("ninety nine red balloons", 99, "red balloons"),
        ("35 m2", 35, "m2"),
        ("35 m²", 35, "m2"),
        ("35m^2", 35, "m2"),
        ("3 square kilometers", 3, "square kilometers"),
        ("12%", 12, "%"),
        ("45°", 45, "°"),
        ("3 m/s", 3, "m/s"),
        ("300 K", 300, "k"),
        ("999999999999999", 999999999999999, ""),
    ],
)
def test_numbers(text, value, unit):
    found = read(text)
    assert (found.value, found.unit) == (value, unit)


def test_whole_numbers_are_told():
    assert [read(text).whole for text in ("3", "three", "1,000", "3.0", ".5")] == [True, True, True, False, False]
    assert read("1,200 m²") == Number(1200.0, "m2", True)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "none", "yes", "ship 3", "There are 3 ships", "about 3",  # no number alone
        "3 or 4", "3, 4", "3 4", "3-4", "3 to five", "3 and four ships", "1 of 2", "3 not four", "two one",  # several
        "3,5", "1,2000", "1,20", "12 000", "1.2.3", "3..5",  # no grouping of thousands
        "1e5", "1/2", "½", "3½", "3²", "3 1/2", "one-third", "0x10", "3:4", "two hundred", "3 million", "one and half",
        "٣", "３，５", "nan", "inf", "9" * 16, "--3", "- 3", "+-3",
        "12 millions", "12 dozens", "2 thousands of ships", "3 tens", "5 halves", "7 tenths", "2 pairs", "12k",
        "12k ships",        "12th", "3rd", "2 scores", "4 lakh", "6 crores", "8 trillion",
        "3 ships in the harbor", "3<br>", "3\n\nBecause there are", "tenth", "oneself", "5x3",
    ],
)  # fmt: skip
def test_what_is_not_one_number(text):
    assert read(text) is None


@given(st.integers(-(10**14), 10**14), st.integers(0, 999))
def test_numbers_as_python_writes_them(whole, thousandths):
    for text in (f"{whole}", f"{whole:,}"):
        assert read(text) == Number(whole, "", True)
    text = f"{whole / 1e6:.3f}"
    assert read(text).value == pytest.approx(float(text), abs=0)
    assert read(f"{whole:,}.{thousandths:03d}").value == pytest.approx(float(f"{whole}.{thousandths:03d}"), rel=1e-15)


@settings(max_examples=300)
@given(st.one_of(st.text(), st.text(alphabet="0123456789.,-+ %/^onetwthrisyd²½−e")))
def test_never_raises_and_gives_finite_numbers(text):
    found = read(text)
    assert found is None or (math.isfinite(found.value) and abs(found.value) < 1e16)


def test_long_junk_is_quick():
    for junk in ("1," * 100_000, "12 " + "a " * 100_000, "twenty " * 50_000, "1" * 200_000, "1 " + "a" * 200_000 + "²"):
        read(junk)
