"""Controls: every question asked again in a way that should change the answer, to see whether the picture matters.

    controls: [blind, shuffled]          # of an evaluation's recipe; `--controls blind,shuffled` of launch/eval.py

A control is a name, a line that says what it means, and a function: the questions and the recipe → what is asked
instead (`Asked`), or a text that says why it cannot be asked. One more is one more function:

    @register("centre", "a crop of the middle instead of the region that the model chose")
    def centre(samples, recipe):
        return Asked([...], recipe.model_copy(update={...}))

Its answers come from the model that is loaded already, through the same backend; they stand in
`<output>/controls/<name>/predictions.jsonl`, are scored by the same metrics, and are shown beside the main numbers.

    registry   what a control is, and by which name it is found
    pictures   without the pictures, with those of another question, and with the own ones in reversed order
    zooms      without the tool that zooms in, and with a first call on the true region, or on another one
    lists      the lists of questions of an evaluation: its own, and one for each control
    marking    training rows that a model answers without their picture (`launch/data.py --blind`)
"""

from evals.controls import pictures as pictures  # registers its controls
from evals.controls import zooms as zooms  # and its own
from evals.controls.registry import CONTROLS, Asked, Control, find, register

__all__ = ["CONTROLS", "Asked", "Control", "find", "register"]
