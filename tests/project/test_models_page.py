"""docs/models.md is what the registry says, and the README's first screen names its families."""

from tests.support.processes.commands import ROOT
from vlm.families import FAMILIES, of
from vlm.families.__main__ import page


def test_the_page_is_generated():
    assert (ROOT / "docs/models.md").read_text() == page(), "python -m vlm.families > docs/models.md"


def test_the_readme_names_every_family_on_its_first_screen():
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert [one.name for one in FAMILIES.values() if one.name not in first] == []


def test_a_name_with_other_parts_is_another_model():
    """Pixtral is published as `llava`, with a tower of its own."""
    parts = {"vision_config": {"model_type": "pixtral"}, "text_config": {"model_type": "mistral"}}
    for kind in ("llava", "internvl"):
        found = of({"model_type": kind, **parts})
        assert found.unshared and not found.units and found is not FAMILIES[kind]
    assert of({"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}) is FAMILIES["llava"]
