"""How a model's completions are read: what part of them is the answer, and how it writes boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evals.predictions import Prediction
from vlm import answers, boxes
from vlm.boxes import Object
from vlm.common.errors import DataError

Inside = Literal["answer", "text"]
NOTHING = ("there are none", "none", "[]")
"""What detectors that speak say where they find nothing, normalised."""


@dataclass(frozen=True)
class Reading:
    """Notation, and part of the completion."""

    notation: str
    inside: Inside = "answer"

    def text(self, prediction: Prediction) -> str:
        """The answer; empty where there is not just one."""
        if self.inside == "text":
            return prediction.completion.strip()
        return answers.parse(prediction.completion).answer or ""

    def boxes(self, prediction: Prediction) -> list[list[float]] | None:
        """Predicted boxes in pixels of the original image; None where the answer is anything but boxes."""
        return boxes.read_boxes(self.text(prediction), self.notation, prediction.size, self._seen(prediction))

    def quads(self, prediction: Prediction) -> list[list[float]] | None:
        """Predicted quadrilaterals, likewise."""
        return boxes.read_quads(self.text(prediction), self.notation, prediction.size, self._seen(prediction))

    def objects(self, prediction: Prediction) -> tuple[list[Object], int]:
        """Predicted objects with their labels, and how many lines could not be read.

        Read line by line where the whole cannot be read: an answer that is cut off keeps what came before.
        """
        text, seen = self.text(prediction), self._seen(prediction)
        if answers.normalise(text) in ("", *NOTHING):
            return [], 0
        whole = boxes.read_objects(text, self.notation, prediction.size, seen)
        if whole is not None:
            return whole, 0
        lines = [line for line in text.splitlines() if line.strip()]
        read = [boxes.read_objects(line, self.notation, prediction.size, seen) for line in lines]
        return [one for found in read if found for one in found], sum(found is None for found in read)

    def _seen(self, prediction: Prediction) -> tuple[int, int] | None:
        """The size that the frame `resized` counts in. Raises: DataError where it is needed and not known."""
        if boxes.NOTATIONS[self.notation].frame == "resized" and prediction.resized is None:
            raise DataError(f"question {prediction.key!r}: no 'resized', which the notation {self.notation} counts in")
        return prediction.resized

    @property
    def convention(self) -> str:
        """Goes behind a metric's own convention."""
        return "read from " + ("the one <answer>" if self.inside == "answer" else "the whole completion")
