"""What an endpoint has answered: each finished row is on disk before the next one is asked about.

    {"key": "captions/3", "fingerprint": "9f0c…", "judge": {"model": …, "request": …, …}, "ratings": …}

Here the endpoint's section is called `judge` and its answers are `ratings`. `failures.jsonl` beside the file lists what
failed: {"key": "captions/4", "error": "…"}; it is emptied by each start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from stage.endpoint.client import Malformed
from stage.parallel.journal import Journal, whole_lines
from vlm.common.errors import DataError, UserError

FAILURES = "failures.jsonl"
R = TypeVar("R")


class Row(Protocol):
    """What is asked about."""

    @property
    def key(self) -> str:
        """Its name, of which there is no other."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with what is asked: an answer to another question under the same key is not this row's."""
        ...


class Answers(Generic[R]):
    """Both files; `put` and `fail` inside `with`. `done` is what is answered, by key; `failed` counts this start's.

    path: of the answers. called: the endpoint's section. asked: what answers depend on (model, request, …), kept
    beside each: with it changed, old and new answers would not be of one kind. result: what an answer is called.
    """

    def __init__(self, path: Path, called: str, asked: dict[str, Any], result: str):
        self.path, self.failures = path, path.with_name(FAILURES)
        self.called, self.asked, self.result = called, asked, result
        self.done: dict[str, R] = {}
        self.failed = 0

    def read(self, rows: Iterable[Row], parse: Callable[[Any, Any], R]) -> None:
        """Take up those of the rows that are finished. A last line that is torn, as after a kill, does not count.

        parse: (an answer as it is in the file, its row) → the answer; raises Malformed or ValueError.
        Raises: UserError where they were asked about otherwise than now, DataError for a line that no run has written.
        """
        wanted = {row.key: row for row in rows}
        for where, line in whole_lines(self.path):
            try:
                found = json.loads(line)
                row = wanted.get(found["key"])
                if row is None or row.fingerprint != found["fingerprint"]:  # other data now
                    continue
                self._refuse_mixture(found[self.called])
                self.done[row.key] = parse(found[self.result], row)
            except (ValueError, LookupError, TypeError, AttributeError, Malformed) as error:
                raise DataError(
                    f"{where}: found {line[:60]!r} ({error}), expected a row as this stage wrote it; remove the line "
                    "to have it asked again"
                ) from error

    def _refuse_mixture(self, earlier: dict[str, Any]) -> None:
        changed = [
            f"{name} was {earlier.get(name)!r}, is {now!r}"
            for name, now in self.asked.items()
            if earlier.get(name) != now
        ]
        if changed:
            raise UserError(
                f"{self.path} holds {self.result} of another kind ({'; '.join(changed)}), which would not go with new "
                "ones; choose another output, or write overwrite=true to throw them away"
            )

    def __enter__(self) -> Answers[R]:
        self.failures.unlink(missing_ok=True)
        self._answered, self._failed = Journal(self.path), Journal(self.failures)
        return self

    def __exit__(self, *error: object) -> None:
        self._answered.close()
        self._failed.close()

    def put(self, row: Row, answer: R) -> None:
        self._answered.add(
            {"key": row.key, "fingerprint": row.fingerprint, self.called: self.asked, self.result: answer}
        )
        self.done[row.key] = answer

    def fail(self, row: Row, error: str) -> None:
        self.failed += 1
        self._failed.add({"key": row.key, "error": error})
