"""docs/models.md is what the registry says, and the README's first screen names its families."""

from tests.support.processes.commands import ROOT
from vlm.families import FAMILIES
from vlm.families.__main__ import page


def test_the_page_is_generated():
    assert (ROOT / "docs/models.md").read_text() == page(), "python -m vlm.families > docs/models.md"


def test_the_readme_names_every_family_on_its_first_screen():
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert [one.name for one in FAMILIES.values() if one.name not in first] == []
