"""The stages of one combination, before it is known where they will lie: what they change, need, and are.

A draft's identity is a digest of its resolved recipe, without what changes no result (output, logging, dashboards …),
in which the stages that it needs stand by their identities. Two drafts of equal identity are the same work.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stage.recipe import config
from stage.recipe.schema import did_you_mean, join
from stage.recipe.sections import NEUTRAL, TrainingRecipe
from studies.matrix import changes
from studies.matrix.axes import Combination
from studies.matrix.changes import Change
from studies.matrix.recipe import SEED, Launchers, MatrixRecipe, StageSection
from vlm.common.errors import RecipeError
from vlm.common.redaction import redact_command

SHOWN = ("pictures",)
"""Keys of other stages than training that change no result."""


@dataclass(eq=False)
class Draft:
    """One stage of one combination."""

    stage: str
    section: StageSection
    changes: list[Change]
    needs: list[Draft]
    where: str
    "The combination, for messages."
    seed: int
    identity: str = field(default="", init=False)

    def names(self, folders: Mapping[str, str]) -> dict[str, str]:
        """What stands for `{name}`. folders: by identity."""
        return {one.stage: folders[one.identity] for one in self.needs} | {SEED: str(self.seed)}


class Drafter:
    """Makes drafts; recipes that were resolved once are not resolved again."""

    def __init__(self, matrix: MatrixRecipe, file: Path, launchers: Launchers):
        self.matrix, self.file, self.launchers = matrix, file, launchers
        self._resolved: dict[tuple[str, ...], Any] = {}
        for name, section in matrix.stages.items():
            if section.launch is not None and section.launch not in launchers:
                hint = did_you_mean(section.launch, list(launchers)) or f"; known: {', '.join(launchers)}"
                raise RecipeError(f"{file}: stage `{name}`: there is no launcher `{section.launch}`{hint}")
        self._own = {name: self._of_stage(name) for name in matrix.stages}

    def _of_stage(self, name: str) -> list[Change]:
        return changes.read(self.matrix.stages[name].set, "", self.file, f"{self.file}: stage `{name}`")

    def _ends(self, skipped: set[str]) -> list[str]:
        """The stages that no other one names, by the changes for all runs."""
        kept = {name: section for name, section in self.matrix.stages.items() if name not in skipped}
        named = {one for name, section in kept.items() for one in self._named(name, section, self._own[name]) - {name}}
        return [name for name in kept if name not in named]

    def _named(self, name: str, section: StageSection, own: list[Change]) -> set[str]:
        if section.command is not None:
            return changes.named(section.command, self.matrix.stages, f"{self.file}: stage `{name}`")
        return {one for change in own for one in changes.named(change.value, self.matrix.stages, change.where)}

    def of(self, combination: Combination) -> dict[str, Draft]:
        """Stage → draft, those needed first. Raises: RecipeError."""
        made: dict[str, Draft] = {}
        skipped = {stage for value in combination.values for stage in value.skip}
        for end in self._ends(skipped):
            self._add(end, combination, made, ())
        if wanted := skipped & set(made):
            raise RecipeError(f"{self.file}: {combination}: skips {', '.join(sorted(wanted))}, which its stages need")
        if not made:
            raise RecipeError(
                f"{self.file}: {combination}: no stage can be the last; each is skipped or needed by others"
            )
        return made

    def _add(self, name: str, combination: Combination, made: dict[str, Draft], above: tuple[str, ...]) -> Draft:
        if name in above:
            raise RecipeError(f"{self.file}: {combination}: the stages need each other: {' → '.join((*above, name))}")
        if name in made:
            return made[name]
        section = self.matrix.stages[name]
        own = [] if not self._seeded(section) else [Change("seed", combination.seed, f"{self.file}: seeds")]
        own += self._own[name] + [change for value in combination.values for change in value.changes.get(name, [])]
        own = changes.last(own)
        named = self._named(name, section, own) - ({name} if section.command is not None else set())
        needs = [self._add(one, combination, made, (*above, name)) for one in self.matrix.stages if one in named]
        draft = Draft(name, section, own, needs, f"{self.file}: {combination}, stage `{name}`", combination.seed)
        draft.identity = self._identity(draft)
        made[name] = draft
        return draft

    def _seeded(self, section: StageSection) -> bool:
        if section.seeded is not None or section.launch is None:
            return bool(section.seeded)
        return issubclass(self.launchers[section.launch].recipe, TrainingRecipe)

    def _identity(self, draft: Draft) -> str:
        names = draft.names({one.identity: f"needs/{one.identity}" for one in draft.needs})
        if draft.section.command is not None:
            content: Any = changes.fill(draft.section.command, names)
        else:
            content = [draft.section.launch, essence(self.resolve(draft, names))]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def resolve(self, draft: Draft, names: Mapping[str, str]) -> Any:
        """The stage's recipe, and what it is for checked. Raises: RecipeError naming axis and value."""
        overrides = [change.text(names) for change in draft.changes]
        # where it lies is the matrix's to say, whatever the recipe does
        all_of_them = [*overrides, f"output={self.matrix.output}"]
        key = (draft.stage, *all_of_them)
        if key not in self._resolved:
            name, file = draft.section.launched
            launcher = self.launchers[name]
            try:
                recipe: Any = config.load(file, launcher.recipe, all_of_them)
                if launcher.check is not None:
                    launcher.check(recipe)
            except RecipeError as error:
                raise RecipeError(_told(str(error), draft, overrides)) from error
            self._resolved[key] = recipe
        return self._resolved[key]


def _told(message: str, draft: Draft, overrides: list[str]) -> str:
    """The message of a recipe that does not resolve, by the change that it is about, or else by the combination."""
    for change, override in zip(draft.changes, overrides, strict=True):
        place = f"{config.COMMAND_LINE}, {redact_command([override])[0]}"
        if place in message:
            return f"{change.where}: {message.replace(place + ': ', '').replace(place, change.key)}"
    return f"{draft.where}: {message}"


def essence(recipe: Any) -> dict[str, Any]:
    """Dotted key → value of all that a result depends on, every key present; paths absolute, whether they exist or not
    yet."""
    found: dict[str, Any] = {}
    _flatten(
        config.to_dict(recipe.model_validate(config.to_dict(recipe), context={"locate": os.path.abspath})), "", found
    )
    return {k: v for k, v in found.items() if not any(fnmatchcase(k, pattern) for pattern in (*NEUTRAL, *SHOWN))}


def _flatten(value: Any, key: str, found: dict[str, Any]) -> None:
    if isinstance(value, dict | list) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _flatten(inner, join(key, name), found)
    else:
        found[key] = value
