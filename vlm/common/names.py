"""Nadir's packages have plain names, and a file of the user's may have one of them, too."""

from __future__ import annotations

import sys
import warnings
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("samples", "stage", "rewards", "sft", "rl", "evals", "studies", "demo")
ROOT = Path(__file__).resolve().parents[2]


def shadowed() -> dict[str, str]:
    """Package of ours → the file that Python imports in its place, because its folder comes first on `sys.path`."""
    found = {}
    for name in PACKAGES:
        module = sys.modules.get(name)
        spec = PathFinder.find_spec(name) if module is None else module.__spec__
        places = [] if spec is None else [spec.origin] if spec.origin else [*(spec.submodule_search_locations or ())]
        if places and not any(Path(str(place)).resolve().is_relative_to(ROOT) for place in places):
            found[name] = str(places[0])
    return found


def claim_names() -> None:
    """Folders without `__init__.py` give way to our packages; a user's file that hides one is named, as in a notebook
    whose folder holds a `rewards.py`.

    A warning, for what was asked for may need none of them. Launchers put Nadir's folder first and are safe.
    """
    if str(ROOT) not in sys.path:  # an editable install finds our packages only where no folder has their name
        sys.path.append(str(ROOT))
    for name, place in shadowed().items():
        warnings.warn(
            f"{place} hides Nadir's package `{name}`: `import {name}` finds it first, because Python looks in the "
            f"folder of a script or notebook first. Rename it (a file say to my_{name}.py; a recipe may name it as it "
            f"is), or put {ROOT} at sys.path[0] before the first import. Launchers (launch/*.py) are not affected",
            stacklevel=3,
        )
