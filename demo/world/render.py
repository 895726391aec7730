"""Pixels of a scene, with Pillow and numpy. About 2 ms an image.

The glow is the one physical oddity of this world: a smooth cast over the whole image, red along x and blue along y.
Qwen2-VL's positions are all relative, and a two-million-parameter model needs something absolute to read *where* from.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from demo.world.scene import SIDE, Scene, Thing
from demo.world.shapes import PARTS, RGB, to_pixels

GLOW = 120.0
_RAMP = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
_GRID_Y, _GRID_X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


def _ground(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Textured land and water, (SIDE, SIDE, 3) float32."""
    coarse = rng.normal(0.0, 1.0, (9, 9)).astype(np.float32)
    texture = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    land = np.array([95, rng.uniform(95, 150), 85], np.float32)
    water = np.array([80, rng.uniform(55, 85), 105], np.float32)
    if scene.shore is None:
        base = np.broadcast_to(land, (SIDE, SIDE, 3))
    else:
        nx, ny, d = scene.shore
        depth = nx * _GRID_X + ny * _GRID_Y - d + 6 * texture
        base = np.where((depth > 0)[..., None], water, land)
    grain = rng.integers(-9, 10, (SIDE, SIDE, 1)).astype(np.float32)
    return base + 9 * texture[..., None] + grain


def _draw(draw: ImageDraw.ImageDraw, thing: Thing) -> None:
    fill = RGB[thing.color]
    dark = tuple(int(c * 0.55) for c in fill) if thing.color != "black" else (90, 90, 90)
    if thing.name == "tank":
        draw.ellipse(thing.box, fill=fill, outline=dark, width=3)
        x, y, r = *thing.center, thing.length * 0.16
        draw.ellipse((x - r, y - r, x + r, y + r), outline=dark, width=2)
        return
    for points, shade in PARTS[thing.name]:
        corners = to_pixels(points, thing.center, thing.length, thing.width, thing.angle)
        draw.polygon(corners, fill=fill if shade == "fill" else dark)


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB image of SIDE × SIDE pixels; a pure function of the scene."""
    rng = np.random.default_rng(scene.seed)
    canvas = Image.fromarray(np.clip(_ground(scene, rng), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for thing in scene.things:
        _draw(draw, thing)
    pixels = np.asarray(canvas).astype(np.float32)
    pixels[..., 0] += GLOW * _RAMP[None, :]
    pixels[..., 2] += GLOW * _RAMP[:, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
