"""The built-in rule rewards. Each judges one row's answer and is bounded in [0, 1].

    format, exact_match, choice, label_set   texts.py
    numeric, count                           numbers.py
    iou                                      boxes.py: boxes, oriented boxes, quadrilaterals
    union                                    union.py: the area that boxes cover together
    detect                                   detect.py: all objects of a picture, with their classes
    mask                                     masks.py: one mask, by IoU with a soft border
    caption                                  captions.py: against several references (cider, bleu, frequencies)
    zoom                                     zoom.py: where a completion has looked, not what it answers

An empty, missing, ambiguous or unparsable answer earns 0, whatever the truth is; so does an answer that
echoes the options. None is for rows of another task: with a ``task`` column, rows whose task is not in
``applies_to``; without one, rows that do not have the truth the reward needs. A row of the right task that
lacks its boxes, size or choices is a fault of the data and raises DataError.

``inside``: "answer" judges what stands inside the one ``<answer>…</answer>`` (see vlm.answers.parse), "text"
the whole completion (for prompts that ask for no tags).
"""

from rewards.rules.boxes import iou
from rewards.rules.captions import Caption
from rewards.rules.detect import detect
from rewards.rules.masks import mask
from rewards.rules.numbers import count, numeric
from rewards.rules.rows import Inside, text_of
from rewards.rules.texts import choice, exact_match, format, label_set
from rewards.rules.union import union
from rewards.rules.zoom import zoom

__all__ = [
    "Caption",
    "Inside",
    "choice",
    "count",
    "detect",
    "exact_match",
    "format",
    "iou",
    "label_set",
    "mask",
    "numeric",
    "text_of",
    "union",
    "zoom",
]
