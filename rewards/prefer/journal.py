"""`judged.jsonl`: the rows that the judge has finished, on disk before the next one is asked.

    {"key": "captions/3", "fingerprint": "9f0c…", "judge": {"model": …, "rating": "together", …},
     "ratings": [{"relevance": 5, …}, …]}

`failures.jsonl` beside it lists what failed: {"key": "captions/4", "error": "…"}; it begins anew with each start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewards.prefer.judge import Malformed, Ratings, parse
from rewards.prefer.recipe import PreferRecipe
from rewards.prefer.rows import Item
from vlm.common.errors import DataError, UserError

JUDGED, FAILURES = "judged.jsonl", "failures.jsonl"
DECISIVE = ("model", "rating", "max_pixels", "request")
"""Keys of `judge` that ratings depend on: with these changed, old and new ones would not be of one kind."""


def asked_as(recipe: PreferRecipe) -> dict[str, Any]:
    """How rows are judged, as it stands beside each rating."""
    assert recipe.judge is not None
    return {name: getattr(recipe.judge, name) for name in DECISIVE} | {"seed": recipe.seed}


class Journal:
    """Both files; `put` and `fail` inside `with`."""

    def __init__(self, folder: Path):
        self.path, self.failures = folder / JUDGED, folder / FAILURES
        self.failed = 0

    def read(self, items: Sequence[Item], judge: dict[str, Any]) -> dict[str, list[Ratings]]:
        """Key → ratings of those items that are finished. A last line that is torn, as after a kill, does not count.

        Raises: UserError where they were judged otherwise than by `judge` (`asked_as`), DataError for a row that no run
        has written.
        """
        wanted = {item.key: item for item in items}
        done: dict[str, list[Ratings]] = {}
        whole = self.path.read_bytes().rpartition(b"\n")[0]
        for number, line in enumerate(whole.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                item = wanted.get(row["key"])
                if item is None or item.fingerprint != row["fingerprint"]:  # other data now
                    continue
                self._refuse_mixture(row["judge"], judge)
                ratings = [parse(json.dumps(one), None)[0] for one in row["ratings"]]
                if len(ratings) != len(item.candidates):
                    raise ValueError(f"{len(ratings)} ratings of {len(item.candidates)} candidates")
            except (ValueError, LookupError, TypeError, AttributeError, Malformed) as error:
                raise DataError(
                    f"{self.path}, line {number}: found {line[:60]!r} ({error}), expected a row as this stage wrote "
                    "it; remove the line to have it judged again"
                ) from error
            done[item.key] = ratings
        return done

    def _refuse_mixture(self, earlier: dict[str, Any], judge: dict[str, Any]) -> None:
        changed = [
            f"{name} was {earlier.get(name)!r}, is {judge[name]!r}"
            for name in judge
            if earlier.get(name) != judge[name]
        ]
        if changed:
            raise UserError(
                f"{self.path} holds ratings of another kind ({'; '.join(changed)}), which would not go with new ones; "
                "choose another output, or write overwrite=true to throw them away"
            )

    def __enter__(self) -> Journal:
        with self.path.open("ab+") as file:
            file.seek(0)
            os.truncate(self.path, file.read().rfind(b"\n") + 1)
        self._judged = self.path.open("a", encoding="utf-8", newline="\n", buffering=1)
        self._failed = self.failures.open("w", encoding="utf-8", newline="\n", buffering=1)
        return self

    def __exit__(self, *error: object) -> None:
        self._judged.close()
        self._failed.close()

    def put(self, item: Item, ratings: list[Ratings], judge: dict[str, Any]) -> None:
        row = {"key": item.key, "fingerprint": item.fingerprint, "judge": judge, "ratings": ratings}
        self._judged.write(json.dumps(row) + "\n")

    def fail(self, item: Item, error: str) -> None:
        self.failed += 1
        self._failed.write(json.dumps({"key": item.key, "error": error}) + "\n")
