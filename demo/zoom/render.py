"""Pixels of a yard with Pillow, whole or of a window alone: `window(scene, box)` equals `render(scene).crop(box)`.

As in `demo.world.render` a glow lies over the ground, red along x and blue along y: Qwen2-VL's positions are all
relative, and a model this small needs something absolute to read *where* from. It is stronger here, for pads are small:
which of four columns one is in was learned in 100 steps instead of 150. Pads and trucks have none of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from demo.world.shapes import RGB
from demo.zoom.scene import BLOCK, BLOCKS, ROAD, SIDE, Box, Scene

GLOW = 220.0
COARSE = 56
"""Side of the ground before it is enlarged."""
TEXEL = SIDE // COARSE
ROOF, MARK, ASPHALT, BUSH = (30, 30, 38), (250, 250, 250), (96, 96, 100), (60, 92, 52)


def _glowing(color: Sequence[int], x: float, y: float) -> tuple[int, ...]:
    """A colour where the glow is that of a place."""
    red, green, blue = color
    lit = (red + GLOW * (x / SIDE - 0.5), green, blue + GLOW * (y / SIDE - 0.5))
    return tuple(round(min(max(value, 0), 255)) for value in lit)


def _ground(scene: Scene) -> Image.Image:
    """Textured land under the glow, COARSE × COARSE."""
    rng = np.random.default_rng(scene.seed)
    coarse = rng.normal(0.0, 1.0, (COARSE, COARSE, 1)).astype(np.float32)
    wide = np.asarray(Image.fromarray(rng.normal(0.0, 1.0, (7, 7)).astype(np.float32)).resize((COARSE, COARSE)))
    ramp = np.linspace(-0.5, 0.5, COARSE, dtype=np.float32)
    land = np.array([110, rng.uniform(105, 140), 95], np.float32) + 3 * coarse + 3 * wide[..., None]
    land[..., 0] += GLOW * ramp[None, :]
    land[..., 2] += GLOW * ramp[:, None]
    return Image.fromarray(np.clip(land, 0, 255).astype(np.uint8))


def _mark(draw: ImageDraw.ImageDraw, name: str, box: Box) -> None:
    """A mark in a box, which it fills to 85%; its area is a quarter of the box's whatever its name."""
    x, y, a = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2

    def bar(u1: float, v1: float, u2: float, v2: float, turn: float = 0.0) -> None:
        cos, sin = math.cos(turn), math.sin(turn)
        corners = ((u1, v1), (u2, v1), (u2, v2), (u1, v2))
        draw.polygon([(x + a * (u * cos - v * sin), y + a * (u * sin + v * cos)) for u, v in corners], fill=MARK)

    def disc(u: float, v: float, r: float, fill: tuple[int, int, int] = MARK) -> None:
        draw.ellipse((x + a * (u - r), y + a * (v - r), x + a * (u + r), y + a * (v + r)), fill=fill)

    if name == "bar":
        bar(-0.85, -0.294, 0.85, 0.294)
    elif name == "pole":
        bar(-0.294, -0.85, 0.294, 0.85)
    elif name in ("cross", "ex"):
        turn = math.pi / 4 if name == "ex" else 0.0
        bar(-0.85, -0.163, 0.85, 0.163, turn)
        bar(-0.163, -0.85, 0.163, 0.85, turn)
    elif name == "ring":
        disc(0, 0, 0.85)
        disc(0, 0, 0.636, ROOF)
    elif name == "disc":
        disc(0, 0, 0.564)
    elif name == "wedge":
        draw.polygon([(x - a * 0.85, y + a * 0.6), (x + a * 0.85, y + a * 0.6), (x, y - a * 0.576)], fill=MARK)
    else:
        for u in (-0.55, 0.55):
            for v in (-0.55, 0.55):
                disc(u, v, 0.282)


def window(scene: Scene, box: Box, scale: float = 1.0) -> Image.Image:
    """The pixels of a box of whole numbers, drawn at a scale (for training data: all of a yard at half its size)."""
    x1, y1, x2, y2 = box
    size = (round((x2 - x1) * scale), round((y2 - y1) * scale))
    coarse = tuple(value / TEXEL for value in box)
    canvas = _ground(scene).resize(size, Image.Resampling.BILINEAR, box=coarse)
    draw = ImageDraw.Draw(canvas)

    def inside(shape: Box) -> Box | None:
        """A shape's box in the window; None where it cannot be seen."""
        u1, v1, u2, v2 = shape
        if u2 <= x1 or u1 >= x2 or v2 <= y1 or v1 >= y2:
            return None
        return (scale * (u1 - x1), scale * (v1 - y1), scale * (u2 - x1), scale * (v2 - y1))

    for line in range(BLOCKS + 1):
        for n in range(BLOCKS):
            at, low, middle = line * BLOCK, n * BLOCK, (n + 0.5) * BLOCK
            across, down = (low, at - ROAD, low + BLOCK, at + ROAD), (at - ROAD, low, at + ROAD, low + BLOCK)
            for shape, place in ((across, (middle, at)), (down, (at, middle))):
                if (seen := inside(shape)) is not None:
                    draw.rectangle((seen[0], seen[1], seen[2] - 1, seen[3] - 1), fill=_glowing(ASPHALT, *place))
    for x, y, radius in scene.bushes:
        if (seen := inside((x - radius, y - radius, x + radius, y + radius))) is not None:
            draw.ellipse(seen, fill=_glowing(BUSH, x, y))
    for pad in scene.pads:
        if (seen := inside(pad.box)) is None:
            continue
        fill = RGB[pad.color]
        rim = tuple(value // 2 if pad.color != "black" else 90 for value in fill)
        draw.rectangle((seen[0], seen[1], seen[2] - 1, seen[3] - 1), fill=fill, outline=rim, width=round(6 * scale))
        if (roof := inside(pad.truck)) is not None:
            draw.rectangle((roof[0], roof[1], roof[2] - 1, roof[3] - 1), fill=ROOF)
            _mark(draw, pad.mark, roof)
    return canvas


def render(scene: Scene) -> Image.Image:
    """The yard as an RGB image of SIDE × SIDE pixels; a pure function of the scene."""
    return window(scene, (0, 0, SIDE, SIDE))
