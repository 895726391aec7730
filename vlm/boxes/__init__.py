"""Boxes: geometry, the frames they are measured in, and the texts that models write them as.

A box is ``[x1, y1, x2, y2]`` with y pointing down and x1 <= x2, y1 <= y2; a quadrilateral ``[x1, y1, …, x4, y4]`` goes
around its shape; an oriented box ``[cx, cy, width, height, degrees]`` is a way to write the latter. None ever travels
without its frame (`frames.py`), and nothing here guesses a frame from the size of the numbers: a notation declares its
frame and its shape. Data is read by `read_boxes` and its siblings, strictly; a model's answer by `read_said`.
"""

from vlm.boxes.detections import NOTHING, Detected, check_labels, class_key, read_detections, spoken, write_detections
from vlm.boxes.frames import FRAMES, Frame, convert
from vlm.boxes.geometry import clip, corners, hull, obb_from_quad, ordered, quad_from_obb
from vlm.boxes.notation import Notation
from vlm.boxes.notations import (
    FALLBACK,
    NOTATIONS,
    Object,
    check_notation,
    find,
    read_boxes,
    read_objects,
    read_quads,
    write_boxes,
    write_quads,
)
from vlm.boxes.overlaps import iou, ious, match_ious, pair_ious, pair_quad_ious, quad_iou, quad_ious
from vlm.boxes.said import CONVENTION, Said, read_said

__all__ = [
    "CONVENTION",
    "FALLBACK",
    "FRAMES",
    "NOTATIONS",
    "NOTHING",
    "Detected",
    "Frame",
    "Notation",
    "Object",
    "Said",
    "check_labels",
    "check_notation",
    "class_key",
    "clip",
    "convert",
    "corners",
    "find",
    "hull",
    "iou",
    "ious",
    "match_ious",
    "obb_from_quad",
    "ordered",
    "pair_ious",
    "pair_quad_ious",
    "quad_from_obb",
    "quad_iou",
    "quad_ious",
    "read_boxes",
    "read_detections",
    "read_objects",
    "read_quads",
    "read_said",
    "spoken",
    "write_boxes",
    "write_detections",
    "write_quads",
]
