"""GPUs to plan for: `8xA100-80G` → how many, which, and how much memory torch can use on one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlm.common.errors import RecipeError

CARDS = {
    "A100-40G": 39.4, "A100-80G": 79.1, "A800-40G": 39.4, "A800-80G": 79.1, "H100-80G": 79.1,
    "H800-80G": 79.1, "H20-96G": 95.0, "H200-141G": 139.8, "B200-192G": 178.3, "L20-48G": 44.5,
    "L40S-48G": 44.5, "A6000-48G": 47.4, "RTX3090-24G": 23.6, "RTX4090-24G": 23.5, "RTX5090-32G": 31.3,
    "V100-16G": 15.8, "V100-32G": 31.7, "T4-16G": 14.6,
}  # fmt: skip
"""Name → GiB that torch sees (`total_memory`), rounded: less than the name says, by marketing GB and ECC."""


@dataclass(frozen=True)
class Fleet:
    count: int
    card: str
    gib: float
    """Usable memory of one GPU."""

    def __str__(self) -> str:
        return f"{self.count}×{self.card}"


def parse_gpus(text: str) -> Fleet:
    """Read `8xA100-80G`, `A100-80G` (one), `A100` (its largest size), or `8x80G` (any card of that size).

    Raises `RecipeError` for what it cannot read. A card that `CARDS` does not list counts with 98% of the
    size it states.
    """
    counted = re.match(r"\s*(\d+)\s*[x×*]", text)
    count, rest = (int(counted[1]), text[counted.end() :].strip()) if counted else (1, text.strip())
    sized = re.fullmatch(r"(\d+(?:\.\d+)?)\s*G(?:i?B)?", rest, re.I)
    named = re.fullmatch(r"([A-Z][A-Z0-9]*)(?:-(\d+)(?:G(?:i?B)?)?)?", rest, re.I)
    if count and sized and float(sized[1]) > 0:
        return Fleet(count, f"{sized[1]}G", float(sized[1]) * 0.98)
    if count and named:
        name, size = named[1].upper(), named[2]
        sizes = {card: gib for card, gib in CARDS.items() if card.split("-")[0] == name}
        if size is not None:
            card = f"{name}-{size}G"
            return Fleet(count, card, CARDS.get(card, int(size) * 0.98))
        if sizes:
            card = max(sizes, key=lambda card: sizes[card])
            return Fleet(count, card, sizes[card])
    raise RecipeError(
        f"gpus: {text!r} cannot be read; expected count x card-memory, e.g. 8xA100-80G, RTX4090-24G, or "
        f"8x80G; known cards: {', '.join(CARDS)}"
    )


PEAKS = {
    "A100": 312e12, "A800": 312e12, "H100": 989e12, "H800": 989e12, "H200": 989e12, "H20": 148e12, "B200": 2250e12,
    "L20": 119.5e12, "L40S": 362e12, "A6000": 154.8e12, "3090": 71e12, "4090": 165.2e12, "5090": 209.5e12,
    "V100": 125e12, "T4": 65e12,
}  # fmt: skip
"""Card → FLOP a second of its matrix units, dense, bfloat16 summed in float32 (V100, T4: float16), by NVIDIA's data
sheets. H100 and H200 as SXM modules: on a PCIe card utilisation comes out a quarter too low."""


def peak_flops(name: str) -> float | None:
    """Of a card as CUDA names it (`NVIDIA H100 80GB HBM3`); None for one that `PEAKS` does not list."""
    words = re.findall(r"[A-Z0-9]+", name.upper())
    return next((PEAKS[word] for word in words if word in PEAKS), None)
