"""Masks: run lengths, grids, outlines, and the texts that models write them as.

A mask is stored as `Runs`, COCO's compressed run lengths of the original picture's pixels (`runs.py`), and compared by
pixels of that picture, whatever grid it was written on (`cells.py`). A form says how a mask is text (`forms.py`); an
answer is read by `read_mask`, with a tolerance that is counted.
"""

from vlm.masks.asking import AskingMask
from vlm.masks.cells import cells
from vlm.masks.forms import DEFAULT_FORM, FORMS, Form, asking, check_form, read_mask, write_mask, written_overlap
from vlm.masks.runs import Runs, area, check_runs, checked_runs, overlap, pixels_of, rings_to_runs, runs_of
from vlm.masks.said import SaidMask

__all__ = [
    "DEFAULT_FORM",
    "FORMS",
    "AskingMask",
    "Form",
    "Runs",
    "SaidMask",
    "area",
    "asking",
    "cells",
    "check_form",
    "check_runs",
    "checked_runs",
    "overlap",
    "pixels_of",
    "read_mask",
    "rings_to_runs",
    "runs_of",
    "write_mask",
    "written_overlap",
]
