"""What a completion says: its trace, its answer, and whether it keeps the R1 format.

>>> parse("<think>Two ships lie at the pier.</think>\\n<answer>2</answer>\\n")
Parsed(trace='Two ships lie at the pier.', answer='2', well_formed=True)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_R1 = re.compile(r"\s*<think>.*?</think>\s*<answer>.*?</answer>\s*", re.DOTALL)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
"""What shows nothing and is no white space: Unicode's Default_Ignorable_Code_Point (zero-width spaces, soft hyphens,
Hangul fillers, variation selectors, tags), control characters, and the empty Braille pattern."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+(?:['’][^\W_]+)?")
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»"}


@dataclass(frozen=True, slots=True)
class Parsed:
    """One completion, taken apart; texts are stripped of surrounding white space."""

    trace: str | None
    """Inside of the one ``<think>…</think>``; None when there is none or more than one."""
    answer: str | None
    """Inside of the one ``<answer>…</answer>`` (empty where `blank`, may span lines); None when it is not
    unambiguous."""
    well_formed: bool
    """The R1 format is kept."""


def parse(text: str) -> Parsed:
    """Take a completion apart. Never raises.

    ``well_formed`` is true exactly when the text is one ``<think>…</think>`` block, then one
    ``<answer>…</answer>`` block whose inside is not `blank`, with nothing but white space before, between and
    behind, and no further tag of either kind anywhere. The trace may be empty; both may span lines.

    ``answer`` is there for less: exactly one ``<answer>`` and one ``</answer>``, in this order, no think tag
    between them, and the block not inside a closed think block. So a completion without a trace, or with text
    around the blocks, has an answer but is not well formed; one with two answers, or whose only answer stands
    in its trace, has none. Tags are case-sensitive and written without inner spaces.
    """
    trace = _between(text, "<think>", "</think>")
    answer = _between(text, "<answer>", "</answer>")
    if answer is not None:
        before, after = text.split("<answer>")[0], text.split("</answer>")[1]
        inside_trace = before.count("<think>") > before.count("</think>") and "</think>" in after
        if inside_trace or any(tag in answer for tag in _TAGS):
            answer = None
    # One tag of each kind is left at this point, so the pattern can match in one way only.
    said = None if answer is None else "" if blank(answer) else answer.strip()
    well_formed = bool(trace is not None and said and _R1.fullmatch(text))
    return Parsed(
        trace=None if trace is None else trace.strip(),
        answer=said,
        well_formed=well_formed,
    )


def blank(text: str) -> bool:
    """Whether nothing of the text can be seen: white space, control and other invisible characters. Never raises."""
    return not _INVISIBLE.sub("", text).strip()


def _between(text: str, opening: str, closing: str) -> str | None:
    """What stands between the only ``opening`` and the only ``closing``; None unless there is one of each, in
    order."""
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, end = text.index(opening) + len(opening), text.index(closing)
    return text[start:end] if start <= end else None


def normalise(text: str) -> str:
    """The form in which two answers are compared for equality. Idempotent; never raises.

    Unicode NFKC, case folded, white space collapsed; without invisible characters, surrounding quotes and the one full
    stop that ends a sentence. A full stop inside stays ("3.5" is not "35", "3." is "3"), an ellipsis stays, and so do
    articles.
    """
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    text = " ".join(unicodedata.normalize("NFKC", text.casefold()).split())
    while True:
        shorter = _peel(text)
        if shorter == text:
            return text
        text = shorter


def _peel(text: str) -> str:
    """``text`` without its sentence full stop or, failing that, one pair of surrounding quotes."""
    if text.endswith(".") and not text.endswith(".."):
        return text[:-1].rstrip()
    if len(text) >= 2 and _QUOTES.get(text[0]) == text[-1]:
        return text[1:-1].strip()
    return text


_LETTER = re.compile(r"(?:\(([a-z])\)|([a-z])\)?):?")  # the full stop of "B." is gone by then
_LETTER_AND_TEXT = re.compile(r"(?:\(([a-z])\)[.:]?|([a-z])[.:)]?) (.+)")


def option(text: str, choices: Sequence[str]) -> int | None:
    """Index of the option that ``text`` names, or None where it does not name exactly one. Never raises.

    Options are lettered A, B, C … in order. Accepted, after ``normalise``: the letter alone ("B", "b", "(B)",
    "B.", "B)", "B:"); the letter and its own option's text ("B. harbor", "(B) harbor", "B harbor"); the text
    alone ("harbor"). Nothing else: no letter found somewhere in a sentence, no list of options, no letter
    with the text of another option. A text that two options share names neither. Where a bare letter is also
    the text of an option, the letter counts.
    """
    said = normalise(text)
    texts = [normalise(choice) for choice in choices]
    if letter := _LETTER.fullmatch(said):
        index = ord(letter[1] or letter[2]) - ord("a")
        if index < len(texts):
            return index
    same = [index for index, choice in enumerate(texts) if choice and choice == said]
    if same:
        return same[0] if len(same) == 1 else None
    if both := _LETTER_AND_TEXT.fullmatch(said):
        index = ord(both[1] or both[2]) - ord("a")
        if index < len(texts) and normalise(both[3]) == texts[index] != "":
            return index
    return None


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case; each Chinese character, or Japanese kana, is a word, for these are
    written without blanks. Captions are compared by them, in rewards and metrics."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())
