"""RSCoVLM's preparation of true masks, for who reproduces it; no writer here does it.

Source: `get_seg_messages` of rscovlm/training/data/refgeo_dataset.py in VisionXLab/RSCoVLM at bfc2ff7, which does it by
OpenCV: values above 1, closing by 50 x 50, contours without a parent filled.

What it changes: gaps and bays narrower than 50 pixels of the original picture are filled, parts nearer than that grow
together, and holes vanish. A model that is taught such masks is taught to fill them, and scored against the true mask
it loses that. OpenCV shifts what it closes by one pixel right and down, since a square of 50 has no middle; so does
this.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from vlm.masks.runs import Runs, pixels_of, runs_of

KERNEL = 50
"""Pixels of the original picture along the side of the closing's square."""


def prepared(mask: Runs) -> Runs:
    """A true mask as RSCoVLM writes it on its grid. Takes memory of a few bytes a pixel."""
    pixels = pixels_of(mask).astype(np.uint8)
    for axis in (0, 1):  # a maximum over a square is one over its rows and one over its columns
        pixels = ndimage.maximum_filter1d(pixels, KERNEL, axis, mode="constant", cval=0)
    for axis in (0, 1):  # what lies outside does not count, as in OpenCV
        pixels = ndimage.minimum_filter1d(pixels, KERNEL, axis, mode="constant", cval=1)
    return runs_of(ndimage.binary_fill_holes(pixels))
