"""What a run came from, against what it goes on with: rows, pictures, rewards, model. A change is named, and refused
unless the recipe's `accept_changes` takes its kind; both records stay (`stage.runs`).

    data        rows of a source: their content, or which of them are used
    pictures    files of the same name with another content, of unchanged rows (of 20,000 rows of a source, spread
                evenly, where it has more)
    rewards     files of reward code, and score models: a folder's files and weights, or what a service says of its own
    model       files and weights of `model.path`

Code that a reward file imports, and Nadir's own, is not compared; environment.json tells its commit.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from samples.fingerprints import of_checkpoint, of_file, pictures_of
from samples.mixture import Mixture
from stage.recipe import config
from vlm.common.errors import UserError

Changes = dict[str, list[str]]
"""Kind → what has changed."""


def of_mixtures(mixtures: Mapping[Any, Mixture]) -> dict[str, Any]:
    """data.json: {"train": {…}, "eval": {…}} (`Mixture.record`), with "pictures_sha256" of each source's used rows."""
    found = {}
    for role, mixture in mixtures.items():
        record, start = mixture.record(), 0
        for source in record["sources"]:
            stop = start + source["rows"]
            source["pictures_sha256"], start = pictures_of(mixture.samples, start, stop), stop
        found[role] = record
    return found


def of_recipe(recipe: Any, score_models: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Parts of record.json: the checkpoint that is loaded, the files of reward code, and the score models."""
    return {
        "checkpoint": of_checkpoint(recipe.model.path, recipe.model.revision),
        "plugins": {path: of_file(Path(path)) for path in sorted(set(plugins(config.to_dict(recipe))))},
        **({"score_models": dict(score_models)} if score_models else {}),
    }


def plugins(value: Any) -> Iterator[str]:
    """Files of all `path/file.py:function`, and of all `package.module:function` that are imported, in nested plain
    values."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from plugins(inner)
    elif isinstance(value, str) and ":" in value:
        place = value.rpartition(":")[0]
        path = Path(place).expanduser()
        if path.suffix == ".py" and path.is_file():
            yield str(path)
        elif (module := sys.modules.get(place)) is not None and module.__spec__ is not None and module.__spec__.origin:
            yield module.__spec__.origin


def stored(folder: Path, name: str) -> dict[str, Any]:
    """data.json or record.json of a run or a checkpoint; {} where there is none."""
    path = folder / name
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); what the run began with cannot be told any more") from None


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """By kind, of what both know. Each is {"data": data.json, **record.json}."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    earlier = before.get("data", {})
    for role, content in now.get("data", {}).items():
        pairs = zip(earlier.get(role, {}).get("sources", []), content["sources"], strict=False)
        for number, (old, new) in enumerate(pairs):
            kind, what = _source(old, new)
            if what:
                found[kind].append(f"data.{role}.{number} ({new['path']}): {what}")
    found["model"] += _checkpoint("model.path", before.get("checkpoint"), now.get("checkpoint"))
    for path, digest in now.get("plugins", {}).items():
        if before.get("plugins", {}).get(path, digest) != digest:
            found["rewards"].append(f"{path} has another content")
    for name, model in now.get("score_models", {}).items():
        old = before.get("score_models", {}).get(name)
        if old is not None and "checkpoint" in model:
            found["rewards"] += _checkpoint(name, old.get("checkpoint"), model["checkpoint"])
        elif old is not None and old != model:
            found["rewards"].append(f"{name}: the service holds another model ({old} before, {model} now)")
    return {kind: lines for kind, lines in found.items() if lines}


def _source(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, str]:
    """(kind, what has changed, "" for nothing) of a source."""

    def differ(key: str) -> bool:
        return key in old and key in new and old[key] != new[key]

    if differ("sha256"):
        return "data", f"other rows than before ({old['rows']:,} used then, {new['rows']:,} now)"
    if differ("used_sha256"):
        return "data", f"the same rows, of which others are used ({old['rows']:,} then, {new['rows']:,} now)"
    return "pictures", "pictures of the same names have other contents" if differ("pictures_sha256") else ""


def _checkpoint(key: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[str]:
    if old is None or new is None:
        return []
    commits = old.get("commit"), new.get("commit")
    if any(commits):  # of the hub, whose files may have come one after the other
        differ = all(commits) and commits[0] != commits[1]
        return [f"{key} ({new['path']}): commit {commits[0]} before, {commits[1]} now"] if differ else []
    lines = []
    files = {**old["files"], **old["weights"]}, {**new["files"], **new["weights"]}
    for name in sorted(files[0].keys() | files[1].keys()):
        was, now = (part.get(name) for part in files)
        if was is None or now is None:
            lines.append(f"{name} is {'new' if was is None else 'gone'}")
        elif isinstance(was, str) and was != now:
            lines.append(f"{name} has another content")
        elif not isinstance(was, str) and any(now.get(part, value) != value for part, value in was.items()):
            lines.append(f"{name} holds other weights")
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return [f"{key} ({new['path']}): {'; '.join(lines[:3])}{more}"] if lines else []


def refuse(found: Changes, accepted: tuple[str, ...] | list[str], what: str, instead: str) -> list[str]:
    """What was accepted, as lines. Raises: UserError naming all else that has changed.

    what: was begun with the earlier ones, e.g. "the run in runs/r1". instead: what to do.
    """
    refused = [line for kind, lines in found.items() if kind not in accepted for line in lines]
    if refused:
        kinds = ", ".join(kind for kind in found if kind not in accepted)
        raise UserError(f"{what} was begun with others: {'; '.join(refused)}. {instead.format(kinds=kinds)}")
    return [line for lines in found.values() for line in lines]
