"""Multiple choice counted by letters, as the evaluators of large pictures' benchmarks read them out of an answer.

    mme_realworld   the first capital A to E, behind what announces an answer; without one, the first option that the
                    answer is a part of (yfzhang114/MME-RealWorld, evaluation/eval_your_results.py at 11af66f). Its
                    script takes an empty answer for A, as a part of every option; here that is wrong.
    xlrs_bench      every letter A to E that stands in brackets, or without brackets every one there is, in words, too,
                    where at least one is a capital; right is the whole set (EvolvingLMMs-Lab/lmms-eval,
                    lmms_eval/tasks/xlrs/mcq_utils.py at 70b804f)
    rscovlm         the true letter stands anywhere in the answer, in any case, as in a word (VisionXLab/RSCoVLM,
                    rscovlm/eval/metric/metric.py at bfc2ff7)

The strict and the lenient number stand beside them. Where a question has several right options (task vqa, with
`choices`), strict takes nothing but letters: "A B D", "A, B and D", "(A)(B)(D)", "ABD".
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evals.predictions import Prediction
from evals.scoring import lenient, metrics
from evals.scoring.reading import Reading, truth
from evals.scoring.report import Scores
from samples import kinds_of
from vlm import answers
from vlm.common.bootstrap import means
from vlm.common.errors import DataError

Letters = frozenset[str]
Right = Callable[[str, Sequence[str], Letters], bool]
"""(answer, options, true letters) → whether it counts."""
Convention = Literal["mme_realworld", "xlrs_bench", "rscovlm"]
ANNOUNCED = ("The best answer is", "The correct answer is", "The answer is", "The answer")
"""Taken out of an answer before it is read: in this order, wherever they stand."""
NOT_SHOWN = "E"
"""MME-RealWorld's last option: the picture does not show it."""
_SEVERAL = re.compile(r"\(?[A-Z]\)?(?:(?:\s*[,;/&]\s*|,?\s+and\s+|\s*)\(?[A-Z]\)?)*\.?")


def strict(text: str, choices: Sequence[str]) -> Letters:
    """The options that an answer names and does nothing else: one (`vlm.answers.option`), or the letters of several."""
    index = answers.option(text, choices)
    if index is not None:
        return frozenset(string.ascii_uppercase[index])
    said = text.strip()
    found = re.findall("[A-Z]", said) if _SEVERAL.fullmatch(said) else []
    known = len(set(found)) == len(found) and set(found) <= set(string.ascii_uppercase[: len(choices)])
    return frozenset(found) if known else frozenset()


def first_letter(text: str, choices: Sequence[str]) -> str:
    """What MME-RealWorld's script reads: a letter, or "" for nothing."""
    said = _unannounced(text)
    if found := re.search("[A-E]", said):
        return found[0]
    if not said.strip() or len(said.split()) > 10:
        return ""
    lines = (f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))
    return next((line[1] for line in lines if said.lower() in line.lower()), "")


def all_letters(text: str) -> Letters:
    """What lmms-eval reads for XLRS-Bench."""
    said = _unannounced(text)
    if not re.search("[A-E]", said):
        return frozenset()
    found = re.findall(r"\(([a-eA-E])\)", said) or re.findall("[a-eA-E]", said)
    return frozenset(letter.upper() for letter in found)


def _unannounced(text: str) -> str:
    said = text.strip()
    for phrase in ANNOUNCED:
        said = said.replace(phrase, "")
    return said


def _contained(text: str, choices: Sequence[str], true: Letters) -> bool:
    return "".join(sorted(true)).lower() in text.lower().strip().strip(".")


def _lenient(text: str, choices: Sequence[str], true: Letters) -> bool:
    if strict(text, choices) == true:
        return True
    index = lenient.option(text, choices)
    found = lenient.letters(text, lambda said: strict(said, choices) or None) if index is None else None
    return true == (found if index is None else frozenset(string.ascii_uppercase[index]))


CONVENTIONS: dict[str, tuple[Right, str]] = {
    "mme_realworld": (
        lambda text, choices, true: true == frozenset(first_letter(text, choices)),
        "the first capital A to E of the answer, else the first option that it is a part of, is the true letter "
        "(MME-RealWorld's script; empty = wrong)",
    ),
    "xlrs_bench": (
        lambda text, choices, true: true == all_letters(text),
        "all letters A to E of the answer, in brackets if any are, are the set of the true ones (lmms-eval)",
    ),
    "rscovlm": (_contained, "the true letter stands anywhere in the answer, in any case, in words, too (RSCoVLM)"),
}
STRICT = "the answer names exactly the right option, by letter or text, or exactly the letters of all right ones"


@dataclass(frozen=True)
class Lettered:
    """Accuracy over all questions (micro), by type, and the mean of the types (macro), each by several conventions:
    strict, leniently, and as `conventions` says, behind a colon.

    A type `Counting/Regional counting` counts in the mean; `[Counting]` is there beside it.
    """

    conventions: tuple[Convention, ...]
    "The first is the benchmark's own."
    not_shown: bool = False
    "Also the share of answers that are read as E."
    tasks: tuple[str, ...] = ("choice", "vqa")

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores()
        ways: dict[str, tuple[Right, str]] = {
            "": (lambda text, choices, true: strict(text, choices) == true, STRICT),
            metrics.LENIENT: (_lenient, f"{STRICT}; announced, set off or explained, too (lenient)"),
        }
        ways |= {f":{name}": CONVENTIONS[name] for name in self.conventions}
        for how, (right, said) in ways.items():
            values = {p.key: float(right(reading.text(p), options(p), letters(p))) for p in predictions}
            self._add(out, how, values, predictions, f"{said}; {reading.convention}")
        if self.not_shown:
            how = f":{self.conventions[0]}"
            shares = {p.key: float(first_letter(reading.text(p), options(p)) == NOT_SHOWN) for p in predictions}
            said = f"share of answers that are read as {NOT_SHOWN}, the option that the picture does not show it"
            out.add(f"choice/not_shown{how}", means([shares]), f"{said}; {reading.convention}")
        return out

    @staticmethod
    def _add(out: Scores, how: str, values: Mapping[str, float], predictions: Sequence[Prediction], said: str) -> None:
        kinds: dict[str, dict[str, float]] = {}
        heads: dict[str, dict[str, float]] = {}
        for prediction in predictions:
            for kind in kinds_of(prediction.kind):
                kinds.setdefault(kind, {})[prediction.key] = values[prediction.key]
                head, slash, _ = kind.partition("/")
                if slash:
                    heads.setdefault(head, {})[prediction.key] = values[prediction.key]
        out.add(f"choice/accuracy{how}", means([values]), f"{said}; over all questions (micro)")
        for name, group in [*sorted(heads.items()), *sorted(kinds.items())]:
            out.add(f"choice/accuracy{how}[{name}]", means([group]), said)
        if kinds:
            told = f"{said}; mean over the {len(kinds)} question types of each one's share (macro)"
            out.add(f"choice/mean_of_kinds{how}", means(list(kinds.values())), told)


def options(prediction: Prediction) -> list[str]:
    """The texts of a question's options. Raises: DataError where it has none."""
    return truth(prediction, "choices", f"this benchmark's {prediction.task} needs")


def letters(prediction: Prediction) -> Letters:
    """The true letters of a question. Raises: DataError where its answer names no option."""
    found = strict(truth(prediction, "answer", f"this benchmark's {prediction.task} needs"), options(prediction))
    if not found:
        raise DataError(
            f"question {prediction.key!r}: the answer {prediction.answer!r} names none of {options(prediction)}"
        )
    return found
