"""Masks: run lengths, grids, and the texts that models write them as.

A mask is of the upright picture in its original pixels; a text has it on a grid, which a form declares (`forms.py`).
"""

from vlm.masks.cells import cell_of, filled
from vlm.masks.forms import FORMS, Asking, Form, SaidMask, asking, check_form, read_mask, write_mask
from vlm.masks.runs import Runs, area, checked_runs, pixels_of, rings_to_runs, runs_of

__all__ = [
    "FORMS",
    "Asking",
    "Form",
    "Runs",
    "SaidMask",
    "area",
    "asking",
    "cell_of",
    "check_form",
    "checked_runs",
    "filled",
    "pixels_of",
    "read_mask",
    "rings_to_runs",
    "runs_of",
    "write_mask",
]
