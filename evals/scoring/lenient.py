"""Answers read as published evaluators read the models of others: what is announced, set off or explained counts, too.

The strict numbers take an answer that is nothing but the answer, as this project's rewards do; a model that was never
taught that says "The answer is **B**." and is right. The lenient numbers stand beside the strict ones, never for them.

What is read, in this order:

    strict          what the strict number reads
    set off         markdown's ** and __ and `, LaTeX's $…$ and \\(…\\), the one \\boxed{…} (its inside is the answer)
    announced       behind "The answer is", "Answer:", "Option", "答案：" …: the whole rest must be the answer, or a
                    letter and then a reason ("B, because …")
    lettered        a letter with its mark, then anything ("B. It is a harbor.", "(B) since …")
    yes or no       the first word, where the truth is one of the two
    numbers         equal as numbers: "1,200" is 1200, "35 m²" is 35; a unit that contradicts the truth's is wrong

What names two options, or denies one, is read as none: "A or B", "B and C", "not B", "B. No, C.", "yes and no".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from vlm import answers
from vlm.common import numerals

T = TypeVar("T")
_WIDE = str.maketrans("：＝（）．，", ":=().,")
"""Not all of NFKC, which would make 32 of 3²."""
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_MARKS = re.compile(r"\*\*|__|`+|\$|\\[()\[\]]")
_SAID = r"(?:final |correct |right |best |true )*(?:answer|option|choice)s?\b(?: letter)?"
_ANNOUNCED = re.compile(
    rf"\b(?:my |the |so |thus |therefore |hence |,)*{_SAID}(?: (?:is|are|would be|should be|must be)\b)?\s*[:=]?\s*"
    r"|(?:正确)?答案(?:是|为)?\s*[:=]?\s*|选项?\s*[:=]?\s*(?=[A-Za-z])",
    re.IGNORECASE,
)
_HINTS = re.compile(r" (?:is|are|be)\b|[:=]|答案|选", re.IGNORECASE)
"""What an announcement within a text needs: "the answer" alone announces nothing."""
_REASON = re.compile(
    r"\(?([A-Z])\)?(?:\s*[.,;:)\n—–-]\s*|\s+(?=(?:because|since|as|for|is (?:right|correct))\b))(.*)", re.DOTALL
)
_LETTERED = re.compile(r"(?:\(([A-Z])\)|([A-Z])[.):,])\s+(.*)", re.DOTALL)
_ALONE = re.compile(r"(?<![\w'’])(?!I\b)([A-Z])(?![\w'’])")
_DENIED = re.compile(r"\b(?:not|no|never|neither|nor|isn't|wrong|incorrect|rather|instead|actually)\b", re.IGNORECASE)
_FIRST = re.compile(r"[a-z]+")


def option(text: str, choices: Sequence[str]) -> int | None:
    """Index of the one option that a text names; None where it names none, or more than one. Never raises."""
    return _read(text, lambda said: answers.option(said, choices), lambda said: _explained(said, choices))


def letters(text: str, read: Callable[[str], T | None]) -> T | None:
    """What `read` makes of the letters of several options: of the whole text, or of what it announces or sets off."""
    return _read(text, read, lambda said: None)


def equal(text: str, truth: str) -> bool:
    """Whether a text gives the true answer, a word or a number. An empty one never does; never raises."""
    wanted = answers.normalise(truth)
    number = numerals.read(truth)

    def judge(said: str) -> bool | None:
        found = answers.normalise(said)
        if found == "":
            return None
        if found == wanted:
            return True
        if number is not None and (one := numerals.read(said)) is not None:
            return one.value == number.value and numerals.same_unit(one.unit, number.unit)
        if wanted in ("yes", "no"):
            return _polar(found, wanted)
        return None

    return bool(wanted) and bool(_read(text, judge, lambda said: None))


def same_class(text: str, truth: str, key: Callable[[str], str]) -> bool:
    """Whether a text names the true class; `key` is what spellings of a class share. Never raises."""
    wanted = key(truth)
    return bool(wanted) and bool(_read(text, lambda said: True if key(said) == wanted else None, lambda said: None))


def _read(text: str, whole: Callable[[str], T | None], explained: Callable[[str], T | None]) -> T | None:
    """The first form of a text that can be read; `whole` reads one that is nothing but the answer."""
    if (found := whole(text)) is not None:
        return found
    boxes = {inside.strip() for inside in _BOXED.findall(text)}
    if len(boxes) > 1:
        return None
    said = next(iter(boxes)) if boxes else text
    said = _MARKS.sub("", _TEXT.sub(r"\1", said.translate(_WIDE))).strip()
    if (found := whole(said)) is not None:
        return found
    announced = [match for match in _ANNOUNCED.finditer(said) if match.start() == 0 or _HINTS.search(match[0])]
    if not announced:
        return explained(said)
    told = {_behind(said[match.end() :], whole, explained) for match in announced}
    return told.pop() if len(told) == 1 else None


def _behind(rest: str, whole: Callable[[str], T | None], explained: Callable[[str], T | None]) -> T | None:
    """What an announcement announces: all that follows, a letter with a reason, or the first sentence or line."""
    while again := _ANNOUNCED.match(rest):  # "The answer is option B"
        rest = rest[again.end() :]
    for read in (whole, explained):
        if (found := read(rest)) is not None:
            return found
    first = re.split(r"(?<=[^.])\.(?:\s|$)|\n", rest, maxsplit=1)[0]
    return None if _REASON.match(first + ".") else whole(first)  # a letter alone was weighed with what follows it


def _explained(said: str, choices: Sequence[str]) -> int | None:
    """A letter with its mark or a reason behind it, in a text that names no other option and denies nothing."""
    found = _LETTERED.fullmatch(said) or _REASON.fullmatch(said)
    if found is None:
        return None
    *letters, rest = found.groups()
    index = ord(next(one for one in letters if one)) - ord("A")
    if index >= len(choices) or _DENIED.search(rest):
        return None
    others = {ord(one) - ord("A") for one in _ALONE.findall(rest)} - {index}
    if re.search(r"(?:^|[.!?] )A [a-z]", rest):
        others.discard(0)  # the article that begins a sentence is no option
    named = {number for number, text in enumerate(choices) if _holds(rest, text)}
    clear = not any(other < len(choices) for other in others) and (not named or index in named)
    return index if clear else None


def _holds(said: str, text: str) -> bool:
    """Whether words stand in a text."""
    wanted = answers.normalise(text)
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", answers.normalise(said)) is not None


def _polar(said: str, wanted: str) -> bool | None:
    """Whether a text that begins with yes or no says what is wanted; None where it says both, or neither first."""
    words = _FIRST.findall(said)
    if not words or words[0] not in ("yes", "no"):
        return None
    other = "no" if words[0] == "yes" else "yes"
    return None if other in words else words[0] == wanted
