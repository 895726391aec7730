"""Lettered options inside a text: "What is it?\\nA. harbor\\nB. airport", also without a blank ("A.No\\nB.Yes")."""

from __future__ import annotations

import re
import string
from typing import Any

from samples.readers.rows import RowFault, show

MARKS = 100
"""Letters looked at, the last ones: a text of nothing but "A. A. A. …" shall not take forever."""
_LINES = re.compile(r"^[ \t]*\(?([A-Z])[.):][ \t]*(?=\S)", re.MULTILINE)
_BLANKS = re.compile(r"(?:^|(?<=[\s(]))\(?([A-Z])[.):]\s+")
_TIGHT = re.compile(r"(?:^|(?<=[\s(]))\(?([A-Z])[.):]\s*(?=\S)")

_LISTED = re.compile(r"\s*\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


def split(said: str) -> tuple[str, list[str]] | None:
    """`"What? A. x B. y"` → ("What?", ["x", "y"]); None unless letters from A on stand there in order, two at least.

    A line for each option counts before letters with a blank behind them, and these before letters without one. The
    last row of letters counts, so that an "A. " in the question itself does not mislead.
    """
    return next((found for marks in (_LINES, _BLANKS, _TIGHT) if (found := _split(said, marks)) is not None), None)


def taken(said: str, field: str) -> tuple[str, list[str]]:
    """`split` of a text that must have options. Raises: RowFault."""
    found = split(said)
    if found is None:
        raise RowFault("choices", field, show(said), "choices such as 'A. harbor B. airport'")
    return found


def listed(value: Any, field: str) -> list[str]:
    """`["(A) harbor", "(B) airport"]` → ["harbor", "airport"]; a text may be empty. Raises: RowFault."""
    expected = "a list of options such as '(A) harbor', lettered in order"
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise RowFault("choices", field, show(value), expected)
    marks = [_LISTED.fullmatch(one) for one in value]
    letters = [mark and mark[1] for mark in marks]
    if letters != list(string.ascii_uppercase[: len(value)]):
        raise RowFault("choices", field, show(value), expected)
    return [mark[2].strip() for mark in marks if mark]


def _split(said: str, marks: re.Pattern[str]) -> tuple[str, list[str]] | None:
    places = list(marks.finditer(said))[-MARKS:]
    for first in reversed([place for place, match in enumerate(places) if match[1] == "A"]):
        run = [places[first]]
        for match in places[first + 1 :]:
            if match[1] == string.ascii_uppercase[len(run) % 26]:
                run.append(match)
        if len(run) > 1:
            ends = [match.start() for match in run[1:]] + [len(said)]
            texts = [said[match.end() : end].strip(" \t\r\n;,") for match, end in zip(run, ends, strict=True)]
            return said[: run[0].start()].rstrip(" \t\r\n(").removesuffix("Choices:").rstrip(), texts
    return None
