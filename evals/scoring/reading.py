"""How a model's completions are read: what part of them is the answer, and how it writes boxes and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from evals.predictions import Prediction
from vlm import answers, boxes, masks
from vlm.boxes import Detected, Said
from vlm.common.errors import DataError

Inside = Literal["answer", "text"]


@dataclass(frozen=True)
class Reading:
    """Notation of boxes, part of the completion, form of masks."""

    notation: str
    inside: Inside = "answer"
    form: str = masks.DEFAULT_FORM
    "Of `vlm.masks.FORMS`; that of predictions that do not tell theirs."

    @classmethod
    def of(cls, recipe: Any) -> Reading:
        """As the answers of a recipe (`EvalRecipe` and those like it) are read."""
        return cls(recipe.prompt.notation, recipe.inside, recipe.prompt.masks)

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

    def detections(self, prediction: Prediction) -> Detected:
        """All objects that the answer states, read as the reward reads them (`vlm.boxes.read_detections`); labels are
        brought to the classes that were asked for."""
        notation = prediction.written or self.notation
        return boxes.read_detections(self.text(prediction), notation, *self._sizes(prediction), prediction.classes)

    def mask(self, prediction: Prediction) -> masks.SaidMask:
        """The mask that the answer states, read as the reward reads it (`vlm.masks.read_mask`); an empty one that is
        not readable where it states none."""
        form = self.form_of(prediction)
        size = truth(prediction, "size", f"masks written as {form} are read by")
        try:
            return masks.read_mask(self.text(prediction), form, size, prediction.resized, prediction.prompt)
        except DataError as error:  # the form counts pixels of a resized image whose size is not known
            raise DataError(f"question {prediction.key!r}: {error}") from error

    def form_of(self, prediction: Prediction) -> str:
        """The form of a prediction's mask."""
        return prediction.form or self.form

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
