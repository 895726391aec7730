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
        if spec is not None and spec.origin and not Path(spec.origin).resolve().is_relative_to(ROOT):
            found[name] = spec.origin
    return found


def warn_of_shadows() -> None:
    """Say so where a user's file hides a package of ours, as in a notebook whose folder holds a `rewards.py`.

    A warning, for what was asked for may need none of them. Launchers put Nadir's folder first and are safe.
    """
    for name, file in shadowed().items():
        warnings.warn(
            f"{file} hides Nadir's package `{name}`: `import {name}` gives that file, because Python looks in the "
            f"folder of a script or notebook first. Rename the file (say to my_{name}.py; a recipe may name it as it "
            f"is), or put {ROOT} at sys.path[0] before the first import. Launchers (launch/*.py) are not affected",
            stacklevel=3,
        )
