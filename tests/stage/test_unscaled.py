"""Rows whose answer would count pixels of a picture that nobody knows are refused before weights load."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from samples import Sample
from samples.readers.rows import RowFault
from stage.planning import control
from vlm.families.sight import Grid, Square
from vlm.sections import PromptSection

ASKED = [{"role": "user", "content": "the dam"}]


def checked(monkeypatch, sample, sight, **prompt):
    monkeypatch.setattr(control, "sight_of", lambda recipe: sight)
    images = SimpleNamespace(row_pixels=None)
    recipe = SimpleNamespace(images=images, prompt=PromptSection(**{"notation": "qwen2_vl"} | prompt))
    control.ControlTokens(()).beside(recipe)(sample)


@pytest.mark.parametrize(
    ("task", "prompt", "written", "refused"),
    [
        ("segmentation", {"masks": "rscovlm"}, None, "the mask form rscovlm"),
        ("segmentation", {"masks": "grid32", "notation": "qwen2_5_vl"}, None, None),
        ("grounding", {"notation": "qwen2_5_vl"}, None, "the notation qwen2_5_vl"),
        ("grounding", {"notation": "qwen2_vl"}, None, None),
        ("grounding", {"notation": "qwen2_vl"}, "rscovlm", "the notation rscovlm"),
        ("detection", {"notation": "rscovlm"}, None, "the notation rscovlm"),
        ("vqa", {"notation": "rscovlm"}, None, None),
    ],
)
def test_a_padded_picture_has_no_pixels_to_count(monkeypatch, task, prompt, written, refused):
    sample = Sample(["a.png"], ASKED, task, size=(140, 100), written=written)
    checked(monkeypatch, sample, Grid(28, 784, 50176), **prompt)  # a scaled one has
    if refused is None:
        return checked(monkeypatch, sample, Square(56, 16), **prompt)
    with pytest.raises(RowFault, match=f"{task} in {refused}, which counts pixels of the picture.*padded to a square"):
        checked(monkeypatch, sample, Square(56, 16), **prompt)
    checked(monkeypatch, Sample(["a.png"], ASKED, task, size=(90, 90), written=written), Square(56, 16), **prompt)


def test_a_strip_is_told_of_elsewhere(monkeypatch):
    sample = Sample(["a.png"], ASKED, "grounding", size=(9000, 10))
    checked(monkeypatch, sample, Grid(28, 784, 50176), notation="qwen2_5_vl")
