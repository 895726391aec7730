"""How a model's completions are read: what part of them is the answer, and how it writes boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from evals.predictions import Prediction
from vlm import answers, boxes
from vlm.boxes import Object, Said
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

    def said(self, prediction: Prediction) -> Said | None:
        """Predicted shapes in pixels of the original image, read as rewards read them (`vlm.boxes.said`); None where
        the answer is anything but boxes."""
        notation = prediction.written or self.notation
        return boxes.read_said(self.text(prediction), notation, *self._sizes(prediction))

    def objects(self, prediction: Prediction) -> tuple[list[Object], int]:
        """Predicted objects with their labels, and how many could not be read, or are no proper shapes.

        Read line by line where the whole cannot be read: an answer that is cut off keeps what came before.
        """
        text, sizes = self.text(prediction), self._sizes(prediction)
        if answers.normalise(text) in ("", *NOTHING):
            return [], 0
        whole = boxes.read_said(text, self.notation, *sizes)
        if whole is not None:
            return whole.objects, whole.missed
        lines = [line for line in text.splitlines() if line.strip()]
        read = [boxes.read_said(line, self.notation, *sizes) for line in lines]
        unread = sum(1 if found is None else found.missed for found in read)
        return [one for found in read if found is not None for one in found.objects], unread

    def _sizes(self, prediction: Prediction) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Of the original image, and that which the frame `resized` counts in. Raises: DataError for a lack of them."""
        notation = prediction.written or self.notation
        counted = f"the notation {notation} counts in"
        if boxes.NOTATIONS[notation].frame == "resized":
            truth(prediction, "resized", counted)
        return truth(prediction, "size", counted), prediction.resized

    @property
    def convention(self) -> str:
        """Goes behind a metric's own convention."""
        return "read from " + ("the one <answer>" if self.inside == "answer" else "the whole completion")


def truth(prediction: Prediction, name: str, use: str) -> Any:
    """What a field of the question holds. Raises: DataError where that is nothing; `use` says what needs it."""
    value = getattr(prediction, name)
    if value is None or value == []:
        raise DataError(f"question {prediction.key!r}: no '{name}', which {use}")
    return value
