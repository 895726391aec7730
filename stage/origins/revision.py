"""Which Nadir runs: the commit of its own checkout, and what was changed since."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

from vlm.common.redaction import redact

CHANGES = "changes.diff"
LONGEST = 512 * 1024
"""Characters of changes that are kept; data that was committed by mistake is no source code."""
NAMED = 50
"""Files outside git that are named."""


def own_checkout() -> Path | None:
    """The root of the repository that this file is tracked in; None where Nadir was installed without one."""
    here = Path(__file__).resolve()
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    top = _git(here.parent, "rev-parse", "--show-toplevel") if tracked else None
    return Path(top) if top else None


def git_revision(folder: Path) -> dict[str, Any] | None:
    """{"revision": sha, "changed": do tracked files differ}; None outside a repository or without git."""
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "changed": bool(changes)}


def describe(checkout: Path | None) -> tuple[dict[str, Any] | None, str]:
    """The revision, and the changes of tracked files since as a patch, secrets struck out and at most LONGEST long.

        {"revision": sha, "changed": true, "untracked": ["mine.py"],
         "diff": {"file": "changes.diff", "characters": 812, "sha256": "…" (of all of it), "cut": false}}

    Files outside git are only named. The description is None, and the patch empty, without a checkout.
    """
    if checkout is None or (found := git_revision(checkout)) is None:
        return None, ""
    others = (_git(checkout, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    found["untracked"] = others[:NAMED] + ([f"and {len(others) - NAMED} more"] if len(others) > NAMED else [])
    patch = redact(_git(checkout, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv") or "")
    if not patch:
        return found, ""
    kept = patch if len(patch) <= LONGEST else patch[: patch.rfind("\n", 0, LONGEST) + 1]
    digest = hashlib.sha256(patch.encode("utf-8", "replace")).hexdigest()
    found["diff"] = {"file": CHANGES, "characters": len(patch), "sha256": digest, "cut": kept != patch}
    return found, kept if kept.endswith("\n") else kept + "\n"


def _git(folder: Path, *arguments: str) -> str | None:
    """Its standard output; None where git is missing, fails or hangs."""
    return run(["git", "-C", str(folder), *arguments])


def run(command: list[str]) -> str | None:
    """Standard output without the last newline; None when the program is missing, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.decode("utf-8", "replace").rstrip("\n") if done.returncode == 0 else None
