"""A checkpoint's files against what was planned for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage.planning.storage import Storage

SMALL = 100_000
"""Bytes of headers, indices and settings, which no plan counts."""


def check(folder: Path, planned: Storage) -> None:
    """Weights and what a resume needs, within 3%; rollouts of a block and the tokenizer aside."""
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    resume = sum(path.stat().st_size for path in [*folder.glob("optimizer*.pt"), *folder.glob("global_step*/*.pt")])
    assert weights == pytest.approx(planned.weights, rel=0.03, abs=SMALL)
    assert resume == pytest.approx(planned.resume, rel=0.03, abs=SMALL)
