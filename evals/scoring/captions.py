"""Caption metrics through pycocoevalcap, COCO's own evaluation (arXiv 1504.00325), on which published numbers rest.

BLEU-1…4 (corpus, closest reference length), ROUGE-L (β = 1.2) and CIDEr (as COCO computes it: CIDEr-D, n = 1…4, σ = 6,
times 10) are Python there. METEOR 1.5 is a Java program that comes with the package: without a `java` it is not
computed, and says so. COCO's tokeniser is Java, too: without one captions are split into words by a pattern instead,
which is close and not the same, so the tokeniser is in every convention.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from evals.predictions import Prediction
from evals.scoring.reading import Reading
from evals.scoring.report import Scores
from vlm import answers
from vlm.common.bootstrap import Statistic, means
from vlm.common.errors import DataError

NAMES = ("caption/bleu1", "caption/bleu2", "caption/bleu3", "caption/bleu4", "caption/rouge_l", "caption/cider")
METEOR = "caption/meteor"
INSTALL = "pycocoevalcap is not installed (pip install 'nadir-rl[captions]')"
Texts = dict[str, list[str]]
"""Question → its one caption, or its references, tokens separated by single blanks."""


@dataclass(frozen=True)
class Captions:
    """BLEU, METEOR, ROUGE-L and CIDEr against all references of each question (`references`, else `answer`)."""

    tasks: tuple[str, ...] = ("caption",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores()
        if not installed():
            out.missing |= dict.fromkeys((*NAMES, METEOR), INSTALL)
            return out
        said = {prediction.key: reading.text(prediction) for prediction in predictions}
        true = {prediction.key: _references(prediction) for prediction in predictions}
        tokeniser = "ptb" if java() and _writable() else "words"
        # both at once: a Java takes its time to start
        tokens = TOKENISERS[tokeniser]([*said.values(), *chain.from_iterable(true.values())])
        found = {key: [text] for key, text in zip(said, tokens, strict=False)}
        behind_them = iter(tokens[len(said) :])
        references = {key: list(islice(behind_them, len(texts))) for key, texts in true.items()}
        behind = f"{_counted(true)}; tokens: {ABOUT[tokeniser]}; an empty caption scores 0; {reading.convention}"
        _bleu(out, found, references, behind)
        _means(out, found, references, behind)
        if java():
            from pycocoevalcap.meteor.meteor import Meteor

            score, _ = Meteor().compute_score(references, found)
            how = "METEOR 1.5 over the corpus (no mean of questions, so without an interval)"
            out.alone(METEOR, score, len(found), f"{how}; {behind}")
        else:
            out.missing[METEOR] = "METEOR 1.5 is a Java program, and no `java` is on the PATH"
        return out


def installed() -> bool:
    """Whether pycocoevalcap can be imported."""
    from importlib.util import find_spec

    return find_spec("pycocoevalcap") is not None


def java() -> bool:
    """Whether there is a Java to run METEOR and COCO's tokeniser with."""
    return shutil.which("java") is not None


def _writable() -> bool:
    """COCO's tokeniser leaves a temporary file beside itself."""
    import pycocoevalcap.tokenizer

    return os.access(Path(pycocoevalcap.tokenizer.__path__[0]), os.W_OK)


def _references(prediction: Prediction) -> list[str]:
    found = [text for text in prediction.references or [prediction.answer or ""] if text.strip()]
    if not found:
        raise DataError(f"question {prediction.key!r}: no 'answer', which captions are scored by")
    return found


def _counted(true: Texts) -> str:
    """How many references the questions have: "5 references", "4 to 5 references"."""
    counts = sorted({len(texts) for texts in true.values()})
    if counts == [1]:
        return "one reference"
    return f"{counts[0]} to {counts[-1]} references" if len(counts) > 1 else f"{counts[0]} references"


def _ptb(texts: Sequence[str]) -> list[str]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # one line each: the tokeniser tells captions apart by lines, and U+2028 and the like are lines to it, too
    found = PTBTokenizer().tokenize({place: [{"caption": " ".join(text.split())}] for place, text in enumerate(texts)})
    return [found[place][0] for place in range(len(texts))]


def _words(texts: Sequence[str]) -> list[str]:
    return [" ".join(answers.words(text)) for text in texts]


TOKENISERS = {"ptb": _ptb, "words": _words}
ABOUT = {
    "ptb": "Stanford PTB in lower case without punctuation, as COCO",
    "words": "runs of letters and digits in lower case (COCO's own tokeniser needs Java)",
}


def _bleu(out: Scores, found: Texts, references: Texts, behind: str) -> None:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for key in found:
        scorer += (found[key][0], references[key])
    library, _ = scorer.compute_score(option="closest")
    # n-grams that are right and that were said, lengths of caption and reference, of each question: (N, 10)
    counts = np.array([_counts(one) for one in scorer.ctest], dtype=float)
    for n, value in enumerate(library, 1):
        said = f"BLEU-{n} of the corpus, closest length"
        out.add(NAMES[n - 1], Statistic(list(found), _bleu_of(counts, n), point=float(value)), f"{said}; {behind}")


def _counts(one: dict[str, Any]) -> list[float]:
    closest = min((abs(length - one["testlen"]), length) for length in one["reflen"])[1]
    return [*one["correct"], *one["guess"], one["testlen"], closest]


def _bleu_of(counts: np.ndarray, n: int) -> Callable[[np.ndarray], np.ndarray]:
    """BLEU-n of resampled corpora, Papineni et al. 2002: brevity penalty · geometric mean of the precisions, with the
    library's own tiny terms, so that each question once is the library's number."""

    def of(drawn: np.ndarray) -> np.ndarray:
        total = drawn @ counts  # (R, 10)
        right, said, length, wanted = total[:, :n], total[:, 4 : 4 + n], total[:, 8], total[:, 9]
        precision = np.log((right + 1e-15) / (said + 1e-9)).mean(axis=1)
        brevity = np.minimum(0.0, 1 - (wanted + 1e-9) / (length + 1e-15))
        return np.exp(precision + brevity)

    return of


def _means(out: Scores, found: Texts, references: Texts, behind: str) -> None:
    """ROUGE-L and CIDEr: means of what each question scores (CIDEr's document frequencies stay those of the whole)."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    _, rouge = Rouge().compute_score(references, found)
    said = "ROUGE-L, F with beta 1.2, mean over questions"
    out.add("caption/rouge_l", means([dict(zip(found, rouge.tolist(), strict=True))]), f"{said}; {behind}")
    _, cider = Cider().compute_score(references, found)
    said = "CIDEr-D as COCO computes it (10 is 1000%), frequencies from these references, mean over questions"
    out.add("caption/cider", means([dict(zip(found, cider.tolist(), strict=True))]), f"{said}; {behind}")
