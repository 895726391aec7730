"""How scenes are cut. The published parameters are presets:

    mmrotate_1024   open-mmlab/mmrotate, tools/data/dota/split/split_configs/dota1_0/ss_*.json at 2267bc5
    rscovlm_512     RSCoVLM's `split_ss_dota_512` (VisionXLab/RSCoVLM, rscovlm/eval/data/dense_det.py at bfc2ff7). Only
                    its size is published. The rest is mmrotate's, the gap halved as the size is: a guess

mmrotate's `padding_value` 104, 116, 124 is blue, green, red, for OpenCV writes it; here colours are red, green, blue.
"""

from __future__ import annotations

import math

from samples.tiles.names import rate_text
from vlm.common.errors import RecipeError
from vlm.common.section import Section
from vlm.sections import RasterSection


class Cutting(Section):
    """All that a tile depends on, besides its scene."""

    size: int = 512
    "Width and height of a tile, in its own pixels."
    gap: int = 100
    "Pixels by which neighbours overlap (mmrotate calls it so, too)."
    rates: list[float] = [1.0]
    "The scene is cut at each of these scales; 0.5 halves its width and height first."
    kept: float = 0.7
    "Share of an object's area inside a tile from which on the tile has the object."
    filled: float = 0.6
    "Share of a tile that must be more than this inside the scene; without any such tile, the fullest ones stay."
    padding: list[int] | None = [124, 116, 104]
    "Red, green, blue of what lies beyond the scene; null: the tile ends where the scene does."
    empty: bool = True
    "Keep tiles without objects."
    classes: list[str] | None = None
    "Objects of these classes only, in words; null: all that the data has."
    raster: RasterSection | None = None
    "How rasters are shown: `images.raster` of a recipe."

    def check(self) -> None:
        if not 0 <= self.gap < self.size:
            raise RecipeError(f"size = {self.size}, gap = {self.gap}; expected 0 ≤ gap < size, in pixels")
        if not self.rates or not all(0 < rate <= 8 and math.isfinite(rate) for rate in self.rates):
            raise RecipeError(f"rates = {self.rates}; expected scales above 0, up to 8, such as [0.5, 1.0, 1.5]")
        if any(float(rate_text(rate)) != rate for rate in self.rates) or len(set(self.rates)) < len(self.rates):
            raise RecipeError(f"rates = {self.rates}; expected each once, of 6 digits at most, for names hold it")
        for name, most in (("kept", 1.0), ("filled", 1.0)):
            if not 0 <= getattr(self, name) <= most:
                raise RecipeError(f"{name} = {getattr(self, name)}; expected a share from 0 to 1")
        if self.padding is not None and (len(self.padding) != 3 or not all(0 <= v <= 255 for v in self.padding)):
            raise RecipeError(f"padding = {self.padding}; expected red, green, blue from 0 to 255, or null for none")
        if self.classes is not None and not self.classes:
            raise RecipeError("classes is empty; name some, or write null for all")

    @property
    def step(self) -> int:
        return self.size - self.gap


PRESETS = {
    "rscovlm_512": Cutting(),
    "mmrotate_1024": Cutting(size=1024, gap=200),
}
