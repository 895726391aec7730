"""Boxes: geometry, the frames they are measured in, and the texts that models write them as.

A box is ``[x1, y1, x2, y2]`` with y pointing down and x1 <= x2, y1 <= y2; a quadrilateral ``[x1, y1, …, x4, y4]`` goes
around its shape. Neither ever travels without its frame (`frames.py`), and nothing here guesses a frame from the size
of the numbers: a notation declares its frame.
"""

from vlm.boxes.frames import FRAMES, Frame, convert
from vlm.boxes.geometry import hull, iou, match_ious, quad_from_obb, quad_iou
from vlm.boxes.notations import NOTATIONS, Notation, read_boxes, write_boxes

__all__ = [
    "FRAMES",
    "NOTATIONS",
    "Frame",
    "Notation",
    "convert",
    "hull",
    "iou",
    "match_ious",
    "quad_from_obb",
    "quad_iou",
    "read_boxes",
    "write_boxes",
]
