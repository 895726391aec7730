"""Which transformers Nadir runs with: those that its tests have seen. One that does not know a keyword swallows it.

`make test` runs the newest of them, `make test-oldest` the oldest, which is the newest that TRL's vLLM allows.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vlm.common.errors import RecipeError

SEEN = ("5.17", "5.23")
"""As `transformers` in pyproject.toml."""
NEWER_KEYS = ("activation_checkpointing", "activation_checkpointing_kwargs")
"""Of `training`, with 5.23 alone; an older one would leave them out."""


def check_transformers(recipe: Any) -> None:
    """Refuse a transformers that the tests have not seen, or that cannot do what the recipe asks. It imports nothing,
    and a dry run needs none installed.

    Raises: RecipeError.
    """
    if not hasattr(recipe, "model"):
        return
    try:
        found = version("transformers")
    except PackageNotFoundError:
        return
    minor, newest = ".".join(found.split(".")[:2]), SEEN[-1]
    remedy = f"pip install 'transformers=={newest}.*'"
    if minor not in SEEN:
        raise RecipeError(
            f"transformers {found} is installed, and Nadir's tests have seen {' and '.join(SEEN)}; {remedy} "
            f"(beside vLLM 'transformers=={SEEN[0]}.*')"
        )
    if minor == newest:
        return
    if getattr(recipe, "stage", "") == "sft":
        raise RecipeError(
            f"sft: transformers {found} is installed, and TRL trains replies about pictures from 5.18 on; {remedy} "
            "in an environment without vLLM, which SFT does not use"
        )
    if asked := [key for key in NEWER_KEYS if key in (getattr(recipe, "training", None) or {})]:
        older = asked[0].replace("activation", "gradient")
        raise RecipeError(f"training.{asked[0]}: transformers {found} does not know it; write {older}, or {remedy}")
