"""What the starts of a run leave to the next about the endpoint that they asked, below `<output>/endpoint/`:

    usage-<asked>.jsonl     what each reply used; a kill loses none of it
    refused-<asked>.jsonl   questions that the server refused (HTTP 400 and the like): {"key": "vqa/3", "error": "…"}

<asked> changes with all that answers depend on, so that neither is taken for another recipe's.

A question that is refused ends the start as one that got no answer; the next asks it again. Refused then, too, it is
never going to be answered: it counts as wrong, with the server's reason beside it. Only starts that came to the end of
their questions count: in one that ends before, as where every question is refused, the questions may not be the cause.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from stage.endpoint.client import Usage
from stage.endpoint.cost import price
from stage.endpoint.sections import EndpointSection
from stage.parallel.journal import Journal, fingerprint, whole_lines
from stage.recipe.asking import AskingRecipe
from stage.recipe.sections import ToolKeys
from vlm.common.errors import DataError

FOLDER = "endpoint"
NAMED = 10
"""Refused questions that stand by name under a table; all of them are in finished.json."""


class Refusal(str):
    """The answer to a question that the server refused for good: no text, and why."""

    why: str

    def __new__(cls, why: str) -> Self:
        made = super().__new__(cls, "")
        made.why = why
        return made


def why(text: str) -> str | None:
    """Why an answer is none; None for any other."""
    return text.why if isinstance(text, Refusal) else None


def spoken(refused: Mapping[str, str]) -> str:
    """As it stands under a table. refused: the question's name → why."""
    named = [f"{key} ({error})" for key, error in list(refused.items())[:NAMED]]
    more = f", and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
    return f"{len(refused)} refused by the server count as wrong: {', '.join(named)}{more}"


def asked_of(recipe: AskingRecipe) -> dict[str, Any]:
    """What answers of an endpoint depend on, but for the questions."""
    assert recipe.endpoint is not None
    tools: dict[str, Any] = {}
    if isinstance(recipe, ToolKeys) and recipe.tools:
        tools = {"tools": [one.model_dump() for one in recipe.tools]}
        tools["turns"] = recipe.turns.model_dump(exclude={"timeout"})
    return tools | {
        "endpoint": recipe.endpoint.model_dump(exclude=set(EndpointSection.MANNER)),
        "generation": recipe.generation.model_dump(exclude={"batch_size", "tensor_parallel", "samples"}),
        "prompt": recipe.prompt.model_dump(),
        "images": recipe.images.model_dump(exclude={"limit", "cache"}),
        "seed": recipe.seed,
    }


class Kept:
    """Both files of a run folder."""

    def __init__(self, folder: str | Path, recipe: AskingRecipe):
        name = fingerprint(asked_of(recipe))
        self.spent = Path(folder) / FOLDER / f"usage-{name}.jsonl"
        self.refusals = Path(folder) / FOLDER / f"refused-{name}.jsonl"

    def discard(self) -> None:
        for path in (self.spent, self.refusals):
            path.unlink(missing_ok=True)

    def spend(self, used: Usage) -> None:
        """Write down what was used since the last call."""
        with Journal(self.spent) as journal:
            journal.add(asdict(used))

    def usage(self) -> Usage:
        """What all starts have used, as replies reported it."""
        found = Usage()
        for line in _lines(self.spent):
            found += Usage(**line)
        return found

    def used(self, recipe: AskingRecipe) -> dict[str, Any]:
        """The same for finished.json, with what it cost."""
        usage = self.usage()
        return asdict(usage) | {"cost": price(usage.input_tokens, usage.output_tokens, recipe.cost)}

    def refuse(self, refused: Mapping[str, str]) -> None:
        """Write down what a start that came to its end was refused: the question's name → why."""
        with Journal(self.refusals) as journal:
            for key, error in refused.items():
                journal.add({"key": key, "error": error})

    def refused(self) -> set[str]:
        """Names of the questions that some start was refused."""
        return {line["key"] for line in _lines(self.refusals)}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Raises: DataError where a whole line is no JSON object, as after a power cut."""
    found = []
    for where, line in whole_lines(path) if path.exists() else ():
        try:
            found.append({**json.loads(line)})
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}: found no JSON object ({error}); remove the line") from error
    return found
