"""How a mask is asked for in a form, in the words of the project that made it.

Wordings are those that a published model was trained with, where there is one; spelling and all. RSCoVLM draws among
this wording and six paraphrases of it, Text4Seg among six questions and ten sentences before the mask ("Sure, here is
the segmentation mask for …:"); the first question of each stands here, and no sentence before it is written. Forms
without a project of their own have words of ours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AskingMask:
    """How one form is asked for."""

    wording: str
    "With `{question}`, what the mask is described by."
    system: str | None = None
    "The system prompt that tells of the text form, for the style `direct`."
    told: str = ""
    "A line behind the question that tells of it where that system prompt cannot stand."


_RSCOVLM = AskingMask(
    # VisionXLab/RSCoVLM, rscovlm/training/data/refgeo_dataset.py at bfc2ff7
    "Locate the {question}, output the segmentation mask",
    "As an AI assistant, you specialize in segmentation, delivering segmentation results as Row-wise RLE format. Each "
    "row is represented as '<value>*<count>', and rows are separated by ';'. The last row ends with a semicolon. For "
    "example, '0*1,1*2;0*3;' represents the mask.",
    "Answer with the mask between <seg> and </seg>: for each row of the grid, runs value*count joined by commas and a "
    "semicolon behind; 1 is the object.",
)
_GRID32 = AskingMask(
    "Segment on a grid of 32 x 32 cells: {question}",
    "You answer with masks on a grid of 32 rows and 32 columns over the image. Write each row as runs value*count "
    "joined by commas, and a semicolon behind it, 1 for the object and 0 for all else; all rows between <seg> and "
    "</seg>. For example, of a grid of 2 x 3, <seg>0*1,1*2;0*3;</seg>.",
    "Answer with 32 rows of 32 cells between <seg> and </seg>, each as runs value*count joined by commas, and a "
    "semicolon behind; 1 is the object.",
)
_POLYGON = AskingMask(
    "Outline as polygons: {question}",
    "You answer with outlines in JSON, [[[x, y], [x, y], ...], ...]: a list of polygons, each a list of its corners, "
    "from 0 to 1000 across and down the image; [] where there is nothing.",
    "Answer with polygons in JSON, [[[x, y], [x, y], ...], ...], from 0 to 1000 across and down the image; [] where "
    "there is nothing.",
)


def text4seg(side: int) -> AskingMask:
    """mc-lan/Text4Seg, playground/data/create_json/question_answer_list.py at fdd1188; it has no system prompt."""
    return AskingMask(
        "Please segment only the {question} in the image.",
        None,
        f"Answer with {side} rows of {side} cells between <seg> and </seg>, each as runs label *count joined by | , "
        "with the description as label, and others for all else.",
    )


ASKING = {
    "rscovlm": _RSCOVLM,
    "grid32": _GRID32,
    "text4seg": text4seg(16),
    "text4seg24": text4seg(24),
    "polygon": _POLYGON,
}
