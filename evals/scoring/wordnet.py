"""Which words WordNet knows as synonyms, from its own database files (Debian's package `wordnet-base`).

LRS-VQA counts an answer as right where some synset of it and some synset of the truth have a path similarity above 0.8
(NLTK's `path_similarity`: 1 / (1 + d), d the number of edges between them). That is above 0.8 only where d = 0, so
where both words are in one synset, and hypernyms need not be read. Words are looked up as NLTK does it: in lower case,
in all four parts of speech, with the one inflection that Morphy takes off (earlier NLTK took off several, which only
non-words such as `collecteds` have); a text with blanks in it is found nowhere.

Read are, of wndb(5WN), `index.{noun,verb,adj,adv}` and `{noun,verb,adj,adv}.exc`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vlm.common.errors import DataError

FOLDERS = ("/usr/share/wordnet", "/usr/local/share/wordnet")
"""Where packages put it; the environment variable WNSEARCHDIR, which WordNet's own programs read, comes first."""
ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z")),
        *(("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
    ),
    "verb": (
        *(("s", ""), ("ies", "y"), ("es", "e"), ("es", "")),
        *(("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}
"""Part of speech → inflections and what stands for them in the lemma (Morphy's rules of detachment)."""


@dataclass(frozen=True)
class WordNet:
    """Lemmas and exceptions, by part of speech."""

    lemmas: dict[str, dict[str, frozenset[str]]]
    "Part of speech → lemma → offsets of its synsets."
    exceptions: dict[str, dict[str, list[str]]]
    "Part of speech → irregular form → its lemmas."

    def synsets(self, word: str) -> set[tuple[str, str]]:
        """(part of speech, offset) of every synset that a word is in, in any form of it."""
        word = word.lower()
        return {
            (part, offset)
            for part, known in self.lemmas.items()
            for lemma in self._lemmas(word, part)
            for offset in known[lemma]
        }

    def lemma(self, word: str) -> str:
        """A word as a noun without its inflection, the shortest there is (NLTK's WordNetLemmatizer); others as they
        are."""
        return min(self._lemmas(word, "noun"), key=len, default=word)

    def synonyms(self, a: str, b: str) -> bool:
        """Whether two words are in one synset."""
        return not self.synsets(a).isdisjoint(self.synsets(b))

    def _lemmas(self, form: str, part: str) -> list[str]:
        known = self.lemmas[part]
        if form in self.exceptions[part]:
            return [one for one in (form, *self.exceptions[part][form]) if one in known]
        shorter = [form.removesuffix(old) + new for old, new in ENDINGS[part] if form.endswith(old)]
        return [one for one in (form, *shorter) if one in known]


def folder() -> Path | None:
    """Where WordNet's files are; None where they are not."""
    places = [os.environ.get("WNSEARCHDIR"), *FOLDERS]
    return next((Path(place) for place in places if place and (Path(place) / "index.noun").is_file()), None)


ABSENT = (
    "it counts WordNet's synonyms as right, and WordNet's files are not here (looked for index.noun in $WNSEARCHDIR "
    f"and {', '.join(FOLDERS)}); install Debian's wordnet-base, or name their folder in WNSEARCHDIR, and score again"
)


def at_hand() -> WordNet | None:
    """WordNet, read once; None where its files are not here."""
    return None if (place := folder()) is None else load(place)


@lru_cache(maxsize=4)
def load(place: Path) -> WordNet:
    """WordNet from its database files. Raises: DataError naming the file, and the line that cannot be read."""
    lemmas = {part: _index(place / f"index.{part}") for part in ENDINGS}
    return WordNet(lemmas, {part: _exceptions(place / f"{part}.exc") for part in ENDINGS})


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a file of WordNet's database") from error


def _index(path: Path) -> dict[str, frozenset[str]]:
    """`lemma pos synset_cnt p_cnt [pointers] sense_cnt tagsense_cnt offset …`; a licence's line begins with a blank."""
    found = {}
    for number, line in enumerate(_lines(path), 1):
        if line.startswith(" ") or not line:
            continue
        lemma, *fields = line.split()
        try:
            count, pointers = int(fields[1]), int(fields[2])
            offsets = fields[5 + pointers :]
            if not count == len(offsets) > 0 or not all(one.isdigit() for one in offsets):
                raise ValueError
        except (IndexError, ValueError):
            raise DataError(
                f"{path}, line {number}: found {line[:60]!r}, expected `lemma pos synset_cnt p_cnt [pointers] "
                "sense_cnt tagsense_cnt offset …`, as many offsets as synset_cnt says"
            ) from None
        found[lemma] = frozenset(offsets)
    return found


def _exceptions(path: Path) -> dict[str, list[str]]:
    """`form lemma [lemma …]`."""
    return {words[0]: words[1:] for line in _lines(path) if (words := line.split())}
