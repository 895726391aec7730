"""What docs/tasks/segmentation.md shows is what the code writes."""

import re
from pathlib import Path

import pytest

from vlm import masks

PAGE = (Path(__file__).parents[3] / "docs/tasks/segmentation.md").read_text()
HALL = masks.rings_to_runs([[30, 26, 85, 26, 85, 40, 58, 40, 58, 58, 30, 58]], (112, 84))


@pytest.mark.parametrize("form", ["rscovlm", "grid32", "polygon"])
def test_texts_in_the_table(form):
    (shown,) = re.findall(rf"^\| `{form}` \|.*\| `([^`]+)` \|$", PAGE, re.M)
    text = masks.write_mask(HALL, form, (112, 84))
    assert re.fullmatch(".*".join(map(re.escape, shown.split(" … "))), text)


def test_the_text_of_text4seg():
    assert f"```\n{masks.write_mask(HALL, 'text4seg', name='the hangar')}\n```\n" in PAGE


def test_overlaps():
    for form, told in (("rscovlm", "0.20"), ("grid32", "0.88")):
        both, either = masks.read_mask(masks.write_mask(HALL, form, (112, 84)), form, (112, 84), (112, 84)).overlap(
            HALL
        )
        assert f"{both / either:.2f}" == told and told in PAGE


def test_the_code():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    found: dict = {}
    exec(code, found)
    assert found["said"].overlap(found["truth"]) == (1274, 1440) and "(1274, 1440)" in code
    assert found["said"].pixels().shape == (84, 112)


def test_all_forms_and_mendings_are_named():
    from vlm.masks import outlines, texts

    assert all(f"`{form}`" in PAGE for form in masks.FORMS)
    named = set(re.findall(r"^    ([a-z]+)  +\S", texts.__doc__.split("counted:")[1], re.M))
    named |= set(re.findall(r"^        ([a-z]+)  +\S", outlines.read_rings.__doc__, re.M))
    assert len(named) == 13 and all(f"`{name}`" in PAGE for name in named), named
