"""Pictures with nothing to see: nearly black, nearly white, or of one brightness. A wrong stretch makes all three."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vlm.pictures.digests import FLAT

BLACK, WHITE = 16, 239
"""Grey levels of 256 (ITU-R 601 luma, Pillow's "L"): below the one, above the other; imagery of 11 bits whose low byte
was cut off has 8 at most, and 16-bit imagery with values to 3,000 has 11."""
SHARE = 0.99
"""Of the pixels that must be so. A mosaic that is half nodata is none of these."""
KINDS = {
    "black": f"nearly black (grey below {BLACK} of 256 in {SHARE:.0%} of the pixels)",
    "white": f"nearly white (grey above {WHITE} of 256 in {SHARE:.0%} of the pixels)",
    "constant": f"constant (grey varies by less than {FLAT:g} level of 256)",
}
"""What messages say of each."""


def tone(picture: Image.Image) -> str:
    """A key of KINDS, the first that holds; "" of a picture with something to see."""
    counts = np.asarray(picture.convert("L").histogram(), np.float64)
    shares = counts / counts.sum()
    if shares[:BLACK].sum() >= SHARE:
        return "black"
    if shares[WHITE + 1 :].sum() >= SHARE:
        return "white"
    levels = np.arange(256)
    mean = shares @ levels
    return "constant" if np.sqrt(shares @ (levels - mean) ** 2) < FLAT else ""
