"""What a benchmark is: data, prompt, and scoring, declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from evals.predictions import Prediction
from evals.scoring.reading import Reading
from evals.scoring.report import Scores
from evals.scoring.scores import formatted
from samples import Sample, kinds_of
from vlm.common.errors import UserError


class Score(Protocol):
    """The metrics of some tasks (`evals.scoring.scores`)."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Whose predictions it is given."""

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores: ...


@dataclass(frozen=True)
class Source:
    """One data file or folder of a benchmark, below the data root."""

    path: str
    format: str
    images: str | None = None
    "Folder that image names start from; None: what the format prescribes."
    split: str | None = None
    task: str | None = None
    frames: int | None = None
    "Pictures of a series that a row shows at most."

    def section(self, root: Path) -> dict[str, Any]:
        """The entry of a recipe's `data.eval`."""
        fields: dict[str, Any] = {"path": str(root / self.path), "format": self.format, "frames": self.frames}
        fields |= {"split": self.split, "task": self.task}
        if self.images is not None:
            fields["images"] = str(root / self.images)
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: what lies where, how it is asked, how it is scored."""

    name: str
    title: str
    "With its source."
    sources: tuple[Source, ...]
    layout: str
    "What to put where below the data root, for the message when it is missing."
    scores: tuple[Score, ...]
    headline: str
    "The metric that comparisons show first."
    wording: Mapping[str, str] = field(default_factory=dict)
    "Task → how its project asks; `{question}`, and `{options}` or `{lines}` for choices."
    system: str | None = None
    "System prompt of its project, for the style `direct`."
    images: Mapping[str, Any] = field(default_factory=dict)
    "Keys of the recipe's `images:` that its pictures need; what the command line says goes on top."
    classes: int | None = None
    "How many classes a complete copy has."
    unzoomed: tuple[str, ...] = ()
    "Question types that its project asks without the tool that zooms in, in lower case."

    def zooms(self, sample: Sample) -> bool:
        """Whether a question is asked with the tool that zooms in, where the evaluation has it."""
        return not any(kind.lower() in self.unzoomed for kind in kinds_of(sample.kind))

    def missing(self, root: Path) -> list[str]:
        """Paths of the data that are not there."""
        places = [place for source in self.sources for place in (source.path, source.images) if place is not None]
        return [str(root / place) for place in dict.fromkeys(places) if not (root / place).exists()]

    def check(self, root: Path) -> None:
        """Raises: UserError saying what to put where."""
        if missing := self.missing(root):
            raise UserError(
                f"{self.name}: not found: {', '.join(missing)}. {self.title} is expected below {root} as\n"
                f"{self.layout}\nGet it from its authors, or name the folder that holds it with --data"
            )

    def score(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        """All numbers of the benchmark. Raises: DataError for a prediction that lacks its truth."""
        out = Scores()
        for score in self.scores:
            if chosen := [prediction for prediction in predictions if prediction.task in score.tasks]:
                out.join(score(chosen, reading))
        out.join(formatted(predictions, reading))
        return out
