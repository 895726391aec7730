"""The one number that an answer states.

>>> read("1,200 m²")
Number(value=1200.0, unit='m2', whole=True)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlm.answers import normalise


@dataclass(frozen=True, slots=True)
class Number:
    """A text that states one number."""

    value: float
    unit: str
    """What stands behind it, normalised ("km2", "%", "ships"); may be empty."""
    whole: bool
    """Written as a whole number, without a decimal point."""


_ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_ONES += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = {word: value for value, word in enumerate(_ONES)} | {word: 10 * value for value, word in enumerate(_TENS, 2)}
_WORDS |= {
    f"{ten}{joint}{_ONES[one]}": 10 * tens + one
    for tens, ten in enumerate(_TENS, 2)
    for one in range(1, 10)
    for joint in ("-", " ")
}
_TIMES = "hundred thousand lakh million mio crore billion bn trillion dozen score gross pair couple point minus plus"
_PARTS = "half halve third quarter fourth fifth sixth seventh eighth ninth tenth hundredth thousandth millionth"
_MORE = set(f"{_TIMES} {_PARTS} st nd rd th or and to not than about maybe".split(" "))
"""Words behind a number, also with an s, that make it another one, or one of several."""

_MINUS = "\u2212"
# Numbers have 15 digits at most, which floats hold exactly.
_DIGITS = re.compile(
    rf"([-+{_MINUS}]?)(?:([0-9]{{1,3}}(?:,[0-9]{{3}}){{1,4}}|[0-9]{{1,15}})(\.[0-9]{{1,15}})?|(\.[0-9]{{1,15}}))(?![0-9.,])"
)
_WORD = re.compile("(?:" + "|".join(sorted(_WORDS, key=len, reverse=True)) + ")(?![a-z0-9-])")
_LENGTH = r"(?:km|cm|mm|m|ft|mi|yd|in|feet|foot|meters?|metres?)"
_UNIT_WORD = rf"(?:{_LENGTH}\^?[23]|[a-z°µ]+(?:[/-][a-z]+)?)"
_UNIT = re.compile(rf"%|{_UNIT_WORD}(?: {_UNIT_WORD}){{0,2}}")
_RAISED = re.compile("[0-9] ?[\u2070-\u2079\u00b9\u00b2\u00b3]")
_THOUSANDS = re.compile(r"[0-9]k\b")
"""12k; 300 K are kelvins."""


def read(text: str) -> Number | None:
    """The one number that ``text`` states, with nothing else but a unit of up to three words. Never raises.

    Accepted: "12", "-3.5", "1,200", "twelve", "twenty-one", each with a unit behind: "35 m2", "35 m²", "12%", "3 large
    ships". Not accepted: several numbers ("3 or 4", "1 of 2"), a number within a sentence, a comma that groups no
    thousands ("3,5"), exponents, fractions, powers, multiples ("12 millions", "two dozens", "12k"), ordinals ("12th"),
    words from a hundred on, more than 15 digits.
    """
    if (
        _RAISED.search(text) or _THOUSANDS.search(text) or "\n" in text.strip()
    ):  # normalising would make 32 of 3², and one line of several
        return None
    said = normalise(text)
    if digits := _DIGITS.match(said):
        sign, before, behind, bare = digits.groups()
        value, end = float((before or "0").replace(",", "") + (behind or bare or "")), digits.end()
        value, whole = (-value if sign in ("-", _MINUS) else value), behind is None and bare is None
    elif word := _WORD.match(said):
        value, end, whole = float(_WORDS[word[0]]), word.end(), True
    else:
        return None
    unit = said[end:].strip()
    if not unit:
        return Number(value, "", whole)
    words = re.split(r"[ /-]", unit)
    if not _UNIT.fullmatch(unit) or {*words, *(word.removesuffix("s") for word in words)} & (_WORDS.keys() | _MORE):
        return None
    return Number(value, unit.replace("^", ""), whole)


def same_unit(a: str, b: str) -> bool:
    """Whether two numbers' units do not contradict each other; one that is left out does not, nor does a plural."""
    return not a or not b or a.removesuffix("s") == b.removesuffix("s")
