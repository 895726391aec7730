"""Captions: how near a text is to what several people have written of the picture, or of what changed between two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from rewards.registry import register
from rewards.rules.bleu import bleu
from rewards.rules.cider import Weighted, cider_d, weighted
from rewards.rules.frequencies import frequencies_of
from rewards.rules.rows import Column, Inside, given, name_of, per_row
from vlm.answers import words
from vlm.common.console import say
from vlm.common.errors import DataError, RecipeError

_KEPT = 1024
"""References that are kept as vectors: the completions of a group share theirs."""


class _References(NamedTuple):
    words: list[list[str]]
    vectors: list[Weighted]


@register("caption")
class Caption:
    """How well a caption agrees with its references, in [0, 1]: the row's `references`, else its `answer`.

        r = cider · min(1, CIDEr-D / full) + (1 − cider) · BLEU-4

    CIDEr-D with a fixed document frequency (`rewards.rules.cider`), equal to pycocoevalcap's with the same; BLEU-4 is
    smoothed (`rewards.rules.bleu`). Words are runs of letters and digits in lower case. An empty text earns 0.

    frequencies: reference captions, as a data source ({path, format, split, images, …}; no picture is opened), or a
        file that `launch/data.py RECIPE --frequencies FILE` wrote (`rewards.rules.frequencies`). Needed.
    cider: CIDEr-D's share; BLEU-4 has the rest. It rewards word order where nothing rare agrees, and holds no rarity.
    full: the CIDEr-D, on COCO's scale (1.0 is 100%, 10 the most), from which on its share is paid in full. "auto": what
        one human caption scores against the others of its picture, in `frequencies`; it is said at the start. Raise it
        (to 2 or 3 times that) once the share is paid for most completions of a group, for then only BLEU-4 tells them
        apart.

    No change: where two pictures are the same, a corpus of changes has a handful of sentences for all rows ("the scene
    is the same as before"). Where a pair's references are all that one, saying it scores 10, and 2 where it is one of
    five different ones; a good caption of a change scores 1 or less. Unbounded, these rows would be most of the mean
    reward. `full` bounds both at 1; and "auto" counts each text once, so that stock sentences do not set it. GRPO
    compares within a group: the sentence pays in groups of unchanged pairs, where it is true, and nothing in others.

    Hacking: what is in every caption weighs nothing (its rarity is log 1); n-grams that are said again are clipped to
    the reference's counts, while they lengthen the text and its vector; a text that is d words too long keeps
    exp(−d²/72) of CIDEr-D, so that several captions in one, or both "a road is built" and "nothing has changed", pay
    less than the one of them that is right. `tests/rewards/test_caption_hacks.py` plays them: the commonest caption of
    the corpus, of a pair that did change, earns 0.01, one human caption 0.77. Where it does not hold: the right words
    in any order earn a half (0.45), for unigrams are a quarter of CIDEr-D, and some longer n-grams survive; and what no
    reference mentions is not paid, be it true.
    """

    def __init__(
        self,
        frequencies: str | Mapping[str, Any] | None = None,
        cider: float = 0.8,
        full: float | Literal["auto"] = "auto",
        applies_to: Sequence[str] = ("caption",),
        inside: Inside = "answer",
    ) -> None:
        if not 0 <= cider <= 1:
            raise RecipeError(f"reward 'caption': cider is {cider}; expected its share, a number in [0, 1]")
        if full != "auto" and (isinstance(full, bool | str) or not 0 < full <= 10):
            raise RecipeError(f"reward 'caption': full is {full!r}; expected a CIDEr-D in (0, 10], or auto")
        self.__name__ = "caption"  # TRL's metrics: rewards/caption/mean
        self.cider, self.applies_to, self.inside = cider, applies_to, inside
        self.frequencies, where = frequencies_of(frequencies)
        known = self.frequencies
        self.full = (known.consensus or 0.0) if full == "auto" else float(full)
        if not self.full:
            raise RecipeError(
                f"reward 'caption': full is auto, and {where} does not tell what a human caption scores: no picture "
                "has two captions that share a word which some pictures' captions lack; write what CIDEr-D is to be "
                "paid in full, e.g. `full: 1.0`"
            )
        if full == "auto":
            why = "one human caption against the others" if not isinstance(frequencies, str) else "its consensus"
        else:
            why = "as the recipe says"
        say(
            f"reward 'caption': {known.documents:,} documents and {len(known.counts):,} n-grams of {where}; CIDEr-D is "
            f"paid in full from {self.full:.3g} on ({why})"
        )
        self._vectors = lru_cache(_KEPT)(self._read)

    def __call__(
        self,
        prompts: Any = None,
        completions: Sequence[Any] = (),
        references: Column = None,
        answer: Column = None,
        task: Column = None,
        **columns: Any,
    ) -> list[float | None]:
        def judge(row: int, said: str) -> float | None:
            texts = _texts(row, references, answer)
            if not texts:
                given("caption", row, task, columns, references=None)
                return None
            true, tokens = self._vectors(texts), words(said)
            if not true.words:
                raise DataError(
                    f"{name_of(row, columns)}: found the references {list(texts)}, in which the reward 'caption' finds "
                    "no words; expected captions"
                )
            return self.value(tokens, true)

        return per_row("caption", completions, columns, task, self.applies_to, self.inside, judge)

    def value(self, said: list[str], true: _References) -> float:
        """What words earn against references; in [0, 1]."""
        if not said:
            return 0.0
        agrees = min(1.0, cider_d(weighted(said, self.frequencies), true.vectors) / self.full)
        return min(1.0, self.cider * agrees + (1 - self.cider) * bleu(said, true.words))

    def _read(self, texts: tuple[str, ...]) -> _References:
        tokens = [one for one in map(words, texts) if one]
        return _References(tokens, [weighted(one, self.frequencies) for one in tokens])


def _texts(row: int, references: Column, answer: Column) -> tuple[str, ...]:
    found = references[row] if references is not None else None
    if not found:
        alone = answer[row] if answer is not None else None
        found = [] if alone is None else [alone]
    return tuple(text for text in found if text.strip())
