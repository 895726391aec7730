"""How a user names the target's GPUs."""

import pytest

from stage.planning import gpus
from vlm.common.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8xA100-80G", (8, "A100-80G", 79.1)),
        ("A100-40GB", (1, "A100-40G", 39.4)),
        ("16 x A800", (16, "A800-80G", 79.1)),
        ("8x80G", (8, "80G", 78.4)),
        ("rtx4090-24g", (1, "RTX4090-24G", 23.5)),
        ("H200-141G", (1, "H200-141G", 139.8)),
        ("4×L4-24G", (4, "L4-24G", 23.52)),
    ],
)
def test_gpus(text, expected):
    fleet = gpus.parse_gpus(text)
    assert (fleet.count, fleet.card, pytest.approx(fleet.gib)) == expected


@pytest.mark.parametrize("text", ["", "8x", "0xA100", "eight A100", "8xFOO", "80", "8x0G", "-1xA100"])
def test_bad_gpus(text):
    with pytest.raises(RecipeError, match="cannot be read"):
        gpus.parse_gpus(text)
