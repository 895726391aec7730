"""What a section of a recipe is: a pydantic model, each field documented by a string literal under itself.

    class LoraSection(Section):
        r: int = 64
        "Rank of the adapters."

Values are not converted (`strict`): `stage.recipe.schema` knows what YAML means where a text, a number or a boolean is
asked for. Unknown keys are refused, also in Python, where pydantic raises its ValidationError.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Self

from annotated_types import Ge, Lt, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from vlm.common.errors import RecipeError


class Section(BaseModel):
    """Base of recipes and their sections."""

    first: ClassVar[str] = ""
    "Of a whole recipe: the keys that `--keys` shows, in the order of use."
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # it may be a secret
    )

    def check(self) -> None:
        """Refuse values that cannot go together. Raises: RecipeError that names keys relative to the section."""

    @classmethod
    def summary(cls) -> str:
        """What messages say is expected where this section belongs."""
        return f"a section with the keys {', '.join(cls.model_fields)}"

    @classmethod
    def refusal(cls, key: str) -> str:
        """What to say of an unknown key instead of the usual."""
        return ""

    @model_validator(mode="after")
    def _checked(self) -> Self:
        """Inner sections come first; pydantic keeps the place for the message."""
        try:
            self.check()
        except RecipeError as error:
            raise PydanticCustomError("check", "{reason}", {"reason": str(error)}) from error
        return self


def locate(path: str, recipe: str | Path) -> str:
    """Where a path stated in a recipe lies, absolute.

    Seen from the current directory; if nothing is there, from the repository root of the recipe's file (the
    nearest folder above it with a `pyproject.toml` or `.git`; without one, the file's folder). What lies in
    neither place comes back as it is, for it may be a hub id; whoever opens it reports it missing.
    """
    path = expanded(path)
    folder = Path(recipe).resolve().parent
    marks = ("pyproject.toml", ".git")
    root = next((f for f in (folder, *folder.parents) if any((f / mark).exists() for mark in marks)), folder)
    for candidate in (Path(path), root / path):
        if path and candidate.exists():
            return os.path.abspath(candidate)
    return path


def expanded(path: str) -> str:
    """A path with `~`, `$NAME` and `${NAME}` written out, which a shell does not do behind `key.sub=`.

    Raises: PydanticCustomError for a variable that is not set (what is there under the very name is left alone).
    """
    if os.path.exists(path):
        return path
    found = os.path.expanduser(os.path.expandvars(path))
    if left := re.search(r"\$(\w+|\{\w+\})", found):
        reason = f"{path!r}: the variable {left[0]} is not set; expected a path, or variables that are set"
        raise PydanticCustomError("check", "{reason}", {"reason": reason})
    return found


def _located(path: str, info: ValidationInfo) -> str:
    locate = (info.context or {}).get("locate", str)
    return locate(expanded(path))


Seed = Annotated[int, Ge(0), Lt(2**32)]
"""What numpy, torch and Python's `random` all take."""
Folder = Annotated[str, MinLen(1), AfterValidator(expanded)]
"""Where a stage writes: not located, for it need not exist, and not empty."""
LocatedPath = Annotated[str, AfterValidator(_located)]
"""A path, which reading a recipe makes absolute where something is there (`locate`)."""
